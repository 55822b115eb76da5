"""``compressm compare``: what compression won and lost, from the records of finished runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import (
    CSV,
    LATEX,
    MARKDOWN,
    OUTPUT,
    Device,
    Plugins,
    one_format,
    require_writable_page,
)
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.reports import ComparisonReport
    from compressm_cli.reports.texts import Judge

TOLERANCES, SPEED = "Tolerances", "Inference speed"

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm compare outputs/full outputs/small --html report.html",
        "compressm compare full.pt small.pt --at-most parameters=0.8 --no-speed",
        "compressm compare models/llama models/smaller --data text.txt",
    ),
)
def compare(
    baseline: Annotated[
        Path,
        typer.Argument(
            metavar="BASELINE",
            help="A run folder (outputs/NAME/v0001), a folder of runs (outputs/NAME: the newest finished run of "
            "each seed, as mean and 95 % interval), a checkpoint (only what it can tell), or a folder of transformers "
            "or mamba-ssm with a language model.",
            autocompletion=candidates.models,
        ),
    ],
    compressed: Annotated[
        list[Path],
        typer.Argument(
            metavar="COMPRESSED",
            help="What is compared with it, of the same kinds.",
            autocompletion=candidates.models,
        ),
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A text on which all of them, which are language models then, are judged: bits a byte.",
            autocompletion=candidates.files,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: every number, not rounded.", rich_help_panel=OUTPUT),
    ] = False,
    as_csv: CSV = False,
    markdown: MARKDOWN = False,
    latex: LATEX = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Also write a page with tables and figures, in one file.",
            autocompletion=candidates.files,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            file_okay=False,
            help="Also write the figures of that page, as files.",
            autocompletion=candidates.folders,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    form: Annotated[
        Literal["png", "svg", "pdf"],
        typer.Option("--format", help="Of the figures.", rich_help_panel=OUTPUT),
    ] = "png",
    tolerance_points: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Largest allowed fall of the mean test accuracy, or of what else models are judged by, in points: 1.0 "
            "allows 95 % to become 94 %.",
            rich_help_panel=TOLERANCES,
        ),
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METRIC=RATIO",
            help="Largest allowed ratio to the baseline, such as parameters=0.8; may be repeated. A metric that was "
            f"not measured counts as broken. Metrics: {', '.join(candidates.METRICS)}.",
            autocompletion=candidates.metrics,
            rich_help_panel=TOLERANCES,
        ),
    ] = None,
    no_speed: Annotated[
        bool,
        typer.Option("--no-speed", help="Do not measure it (it takes some seconds).", rich_help_panel=SPEED),
    ] = False,
    device: Annotated[
        Device,
        typer.Option(help="Where it is measured and predictions are made.", rich_help_panel=SPEED),
    ] = "auto",
    plugin: Plugins = None,
) -> None:
    """Compare models with BASELINE: accuracy, orders, size, FLOPs, time, joules, memory, speed.

    The speed of inference and of decoding is measured now, in alternation. Exit code 1 where a stated tolerance is
    broken.
    """
    wanted = one_format(json=as_json, csv=as_csv, markdown=markdown, latex=latex)
    if html is not None:
        require_writable_page(html)
    limits = _limits(at_most or [])
    from compressm_cli import reports

    tolerances = reports.Tolerances(tolerance_points, limits)
    with console.stderr().status("comparing: predictions and inference speed"):
        report = reports.compare(
            baseline,
            compressed,
            speed=not no_speed,
            device=device,
            tolerances=tolerances,
            judge=None if data is None else _judge(data, device),
        )
        if html is not None:
            from compressm_cli.render.html import write_html

            write_html(report, html, console.warn)
        drawn = _save(report, figures, form) if figures is not None else []
    _print(report, wanted)
    if html is not None:
        console.tell(f"page: {html}")
    for path in drawn:
        console.tell(f"figure: {path}")
    if report.broken:
        raise typer.Exit(1)


def _judge(text: Path, device: str) -> "Judge":
    from compressm_cli.integrations.judging import judge_of

    return judge_of(text, device)


def _limits(texts: list[str]) -> dict[str, float]:
    """``["parameters=0.8"]`` -> ``{"parameters": 0.8}``; BadInputError for anything else."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            limits[name.strip()] = float(number)
        except ValueError:
            raise BadInputError(f"--at-most {text}: write METRIC=RATIO, such as parameters=0.8") from None
    return limits


def _save(report: "ComparisonReport", folder: Path, form: str) -> list[Path]:
    from compressm_cli.render.comparison_plots import save_figures

    return save_figures(report, folder, form, console.warn)


def _print(report: "ComparisonReport", wanted: str | None) -> None:
    if wanted == "json":
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(report), "broken": report.broken}, indent=2, allow_nan=False))
    elif wanted == "csv":
        from compressm_cli.render.arms_table import comparison_csv

        typer.echo(comparison_csv(report), nl=False)
    elif wanted == "latex":
        from compressm_cli.render.arms_table import arms_table

        typer.echo(arms_table(report).latex(), nl=False)
    elif wanted == "markdown":
        from compressm_cli.render.tables import comparison_markdown

        typer.echo(comparison_markdown(report))
    else:
        _show(report)


def _show(report: "ComparisonReport") -> None:
    from compressm_cli.render.tables import comparison_tables

    out = console.stdout()
    for warning in report.warnings:
        out.print(f"warning: {warning}", markup=False, style="yellow")
    for table in comparison_tables(report):
        console.show(out, table)
    if report.speed_reason is not None:
        out.print(f"Inference speed not measured: {report.speed_reason}", markup=False, style="dim")
    if report.decoding_reason is not None and report.decoding_reason != report.speed_reason:
        out.print(f"Decoding not measured: {report.decoding_reason}", markup=False, style="dim")
    out.print("\nVerdict", style="bold")
    for line in report.verdict:
        out.print(line, markup=False)
