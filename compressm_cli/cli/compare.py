"""``compressm compare``: what compression won and lost, from the records of finished runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from compressm_cli.cli import console
from compressm_cli.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.reports import ComparisonReport


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("compressed", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON: every number, not rounded.")
@click.option("--markdown", is_flag=True, help="Print Markdown.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also write a page with tables and figures, in one file.",
)
@click.option(
    "--tolerance-points",
    type=float,
    metavar="POINTS",
    help="Largest allowed fall of the mean test accuracy, in points: 1.0 allows 95 % to become 94 %.",
)
@click.option(
    "--at-most",
    multiple=True,
    metavar="METRIC=RATIO",
    help="Largest allowed ratio to the baseline, such as parameters=0.8; may be repeated. A metric that was "
    "not measured counts as broken. Metrics: test_loss, total_order, parameters, checkpoint_bytes, training_flops, "
    "inference_flops, total_seconds, training_seconds, step_seconds, joules, peak_memory, "
    "inference_seconds_single, inference_seconds_batch.",
)
@click.option("--no-speed", is_flag=True, help="Do not measure inference speed (it takes some seconds).")
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where inference speed is measured and predictions are made.",
)
@click.pass_context
def compare(
    ctx: click.Context,
    baseline: Path,
    compressed: tuple[Path, ...],
    as_json: bool,
    markdown: bool,
    html: Path | None,
    tolerance_points: float | None,
    at_most: tuple[str, ...],
    no_speed: bool,
    device: str,
) -> None:
    """Compare models with BASELINE: accuracy, orders, size, FLOPs, time, joules, memory, speed.

    Each argument is a run folder (outputs/NAME/v0001), a folder of runs (outputs/NAME: the newest finished
    run of each seed, as mean and 95 % interval), or a checkpoint (only what it can tell). Inference speed is
    measured now, in alternation. Exit code 1 where a stated tolerance is broken.
    """
    if as_json and markdown:
        raise BadInputError("--json and --markdown exclude each other; give one of them")
    if html is not None and not html.parent.is_dir():
        raise BadInputError(f"--html {html}: no such folder: {html.parent}")
    limits = _limits(at_most)
    from compressm_cli import reports

    tolerances = reports.Tolerances(tolerance_points, limits)
    with console.stderr().status("comparing: predictions and inference speed"):
        report = reports.compare(
            baseline, list(compressed), speed=not no_speed, device=device, tolerances=tolerances
        )
        if html is not None:
            from compressm_cli.reports.html import write_html

            write_html(report, html)
    _print(report, as_json, markdown)
    if html is not None:
        click.echo(f"page: {html}", err=True)
    if report.broken:
        ctx.exit(1)


def _limits(texts: tuple[str, ...]) -> dict[str, float]:
    """``["parameters=0.8"]`` -> ``{"parameters": 0.8}``; BadInputError for anything else."""
    limits: dict[str, float] = {}
    for text in texts:
        name, _, number = text.partition("=")
        try:
            limits[name.strip()] = float(number)
        except ValueError:
            raise BadInputError(f"--at-most {text}: write METRIC=RATIO, such as parameters=0.8") from None
    return limits


def _print(report: "ComparisonReport", as_json: bool, markdown: bool) -> None:
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps({**asdict(report), "broken": report.broken}, indent=2, allow_nan=False))
        return
    from compressm_cli.reports.tables import comparison_markdown, comparison_tables

    if markdown:
        click.echo(comparison_markdown(report))
        return
    out = console.stdout()
    for warning in report.warnings:
        out.print(f"warning: {warning}", markup=False, style="yellow")
    for table in comparison_tables(report):
        out.print()
        out.print(table.rich())
        for note in table.notes:
            out.print(note, markup=False, style="dim")
    if report.speed_reason is not None:
        out.print(f"Inference speed not measured: {report.speed_reason}", markup=False, style="dim")
    out.print("\nVerdict", style="bold")
    for line in report.verdict:
        out.print(line, markup=False)
