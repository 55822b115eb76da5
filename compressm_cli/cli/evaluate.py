"""``compressm evaluate``: a trained model judged on a split of its own data, or on others."""

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compressm_cli.cli import console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Device, Json, Model, Overrides, Plugins
from compressm_cli.core.text import counted

if TYPE_CHECKING:
    from compressm_cli.objectives.objective import Metric
    from compressm_cli.reports.evaluations import EvaluationReport

MOST_ROWS = 50
"""That a table has room for."""

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm evaluate outputs/my-run",
        "compressm evaluate outputs/my-run --split validation --json",
        "compressm evaluate model.pt data.test=new.csv",
    ),
)
def evaluate(
    model: Model,
    overrides: Overrides = None,
    split: Annotated[Literal["train", "validation", "test"], typer.Option(help="Which rows.")] = "test",
    device: Annotated[Device, typer.Option(help="Where the model runs.")] = "auto",
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Judge a trained model: loss, metrics, and how it does on each class or number.

    KEY=VALUE names other data, such as data.test=new.csv, or other metrics, such as objective.metrics=[macro_f1].
    Files are encoded as those that the model was trained on, whatever is in them.
    """
    from compressm_cli.reports.evaluations import judge

    with console.stderr().status("evaluating"):
        report, metrics = judge(model, split, overrides or [], device)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps(asdict(report), indent=2, allow_nan=False))
    else:
        _show(report, metrics)


def _show(report: "EvaluationReport", metrics: "tuple[Metric, ...]") -> None:
    from compressm_cli.render.target_table import target_table

    out = console.stdout()
    out.print(f"{report.model}: {report.chosen}", markup=False, soft_wrap=True)
    out.print(f"data: {report.data}", markup=False, soft_wrap=True)
    scored = "" if report.labels == report.rows else f", {counted(report.labels, 'label')}"
    table = console.table(f"{report.split}: {counted(report.rows, 'row')}{scored}", "")
    table.add_row("loss", f"{report.loss:.4f}")
    for metric in metrics:
        if metric.name in report.metrics:
            table.add_row(console.escape(metric.title), metric.precisely(report.metrics[metric.name]))
    out.print(table)
    if report.classes is not None and len(report.classes) <= MOST_ROWS:
        table = console.table("class", "rows", "said", "precision", "recall")
        for one in report.classes:
            shares = (_share(one.precision), _share(one.recall))
            table.add_row(console.escape(one.name), f"{one.rows:,}", f"{one.said:,}", *shares)
        out.print(table)
    if report.targets is not None:
        told = target_table(report.split, report.targets, MOST_ROWS, "what --json prints")
        out.print(told.rich())
        for note in told.notes:
            out.print(note, markup=False)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
