"""``compressm analyze``: the Hankel spectrum of each layer, and what smaller orders would mean."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.axes import show_axes
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Json, Model, Overrides, Plugins, require_writable_page
from compressm_cli.cli.pruning import ScoreName
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.reports import SpectrumReport

FIGURES = "Figures"
AXES = "Axes"

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm analyze outputs/quickstart-compressed",
        "compressm analyze model.pt --thresholds 0.9,0.99 --json",
        "compressm analyze outputs/quickstart-compressed --html run.html",
        "compressm analyze outputs/decoder --axes",
        "compressm analyze models/smollm2 --data text.txt",
    ),
)
def analyze(
    path: Model,
    overrides: Overrides = None,
    as_json: Json = False,
    thresholds: Annotated[
        str,
        typer.Option(
            metavar="SHARES",
            help="Shares of the Hankel energy to keep, separated by commas.",
            show_default=True,
        ),
    ] = "0.9,0.95,0.99,0.999",
    realization: Annotated[
        Literal["real", "complex"] | None,
        typer.Option(
            help="Which form of a layer is balanced.",
            show_default="that of the recipe's compression, else real",
        ),
    ] = None,
    timed: Annotated[
        bool,
        typer.Option(
            "--time",
            help="Also time a training step at these orders on this machine (it takes some seconds).",
        ),
    ] = False,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--plots",
            metavar="DIR",
            file_okay=False,
            help="Folder of the figures.",
            autocompletion=candidates.folders,
            show_default="the run's plots/, or the checkpoint's folder",
            rich_help_panel=FIGURES,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            dir_okay=False,
            help="Also write a page with settings, what was read, curves, cuts, spectrum and costs, in one file.",
            autocompletion=candidates.files,
            rich_help_panel=FIGURES,
        ),
    ] = None,
    no_plots: Annotated[
        bool, typer.Option("--no-plots", help="Draw no figures.", rich_help_panel=FIGURES)
    ] = False,
    axes: Annotated[
        bool,
        typer.Option(
            "--axes",
            help="Show all that could leave of the model, such as heads and neurons, what a unit costs and is worth.",
            show_default="of folders of transformers",
            rich_help_panel=AXES,
        ),
    ] = False,
    score: Annotated[
        ScoreName | None,
        typer.Option(
            help="What a unit is worth: increase of the loss, error of what reads it, size of its weights, or a lot.",
            show_default="taylor; without data magnitude",
            rich_help_panel=AXES,
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text on which a language model of a folder of transformers is judged.",
            autocompletion=candidates.files,
            rich_help_panel=AXES,
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Show the order, spectrum and poles of each layer, and what smaller orders would cost.

    Layers are measured as compress measures them: as the recipe's own compression says, else by Gramians from the
    training data; KEY=VALUE changes settings of the recipe, such as compression.gramian=analytic or
    data.path=corpus.txt. Parameters and FLOPs are counted on models of the orders shown; accuracies are not predicted.

    With --axes, and of folders of transformers, it is heads, neurons, channels and the like instead, as compress
    --budget would cut them.
    """
    from compressm_cli import exchange

    if axes or exchange.is_network_of_others(path):
        if timed or html is not None or folder is not None or realization is not None:
            raise BadInputError(
                "axes have no spectra: --time, --html, --plots and --realization do not go with them"
            )
        show_axes(path, overrides or [], data, score, as_json)
        return
    if score is not None or data is not None:
        raise BadInputError("--score and --data go with --axes, and with folders of transformers")
    if no_plots and folder is not None:
        raise BadInputError("--plots and --no-plots exclude each other; give one of them")
    if html is not None:
        require_writable_page(html)
    wanted = _parsed(thresholds)
    from compressm_cli import reports

    with console.stderr().status("analyzing"):
        report = reports.analyze(path, wanted, realization, timed, overrides or [])
        written = [] if no_plots else _draw(report, folder)
        if html is not None:
            from compressm_cli.render.run_page import write_run_page

            write_run_page(report, html, console.warn)
    if report.unjudged:
        typer.echo(f"warning: these spectra and errors say little of the model: {report.unjudged}", err=True)
    if as_json:
        from dataclasses import asdict

        typer.echo(
            json.dumps({**asdict(report), "plots": [str(p) for p in written]}, indent=2, allow_nan=False)
        )
    else:
        _show(report, written)
    if html is not None:
        console.tell(f"page: {html}")


def _parsed(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise BadInputError(f"--thresholds {text}: not numbers; write shares such as 0.9,0.99") from None


def _draw(report: "SpectrumReport", folder: Path | None) -> list[Path]:
    """Write the figures; where that is not possible, say so and go on."""
    from compressm_cli.engine.failures import reason
    from compressm_cli.render.drawing import save
    from compressm_cli.render.plots import run_figures, spectrum_figure
    from compressm_cli.runs.folder import Run

    checkpoint = Path(report.checkpoint)
    try:
        name = "spectrum.png" if report.run is not None else f"{checkpoint.stem}-spectrum.png"
        figures = {name: lambda: spectrum_figure(report)} if report.layers else {}
        if report.run is None:
            return save(folder or checkpoint.parent, figures, console.warn)
        run = Run.open(Path(report.run))
        return save(folder or run.plots, {**figures, **run_figures(run)}, console.warn)
    except OSError as error:
        console.warn(f"no figures: {reason(error)}; choose another folder with --plots DIR")
        return []


def _show(report: "SpectrumReport", written: list[Path]) -> None:
    from compressm_cli.render.chart import log_chart
    from compressm_cli.render.spectrum_tables import spectrum_tables

    out = console.stdout()
    seeds = ", ".join(map(str, report.seeds))
    out.print(
        f"[bold]{console.escape(report.recipe)}[/], seed {seeds}, step {report.step:,}: {report.chosen}"
    )
    out.print(console.escape(report.checkpoint), soft_wrap=True)
    for layer in report.layers:
        out.print(
            f"\n[bold]{console.escape(layer.layer)}[/]  Hankel singular values, logarithmic", soft_wrap=True
        )
        out.print("\n".join(log_chart(layer.hsv)), markup=False, soft_wrap=True)
    for table in spectrum_tables(report):
        console.show(out, table)
    if written:
        out.print()
    for path in written:
        out.print(f"figure: {path}", markup=False, soft_wrap=True)
