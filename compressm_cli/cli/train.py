"""``compressm train``: one run a seed, or the plan of it (``--dry-run``), or the rest of one (``--resume``).

``--auto-resume`` is for jobs that a cluster starts again: the rest of each run that is not done, else a new one.
"""

import shlex
import sys
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Overrides, Plugins
from compressm_cli.core.errors import BadInputError, CompressmError
from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.text import counted

if TYPE_CHECKING:
    from rich.console import Console

    from compressm_cli.data.interface import Dataset, DataSpec
    from compressm_cli.data.report import Report
    from compressm_cli.engine.course import Course
    from compressm_cli.engine.distributed.group import Group
    from compressm_cli.engine.forecast import Forecast, MemoryForecast
    from compressm_cli.engine.view import View
    from compressm_cli.recipe import Recipe
    from compressm_cli.runs.folder import Run

GOING_ON = "Going on with a run"
MOST_FILES = 12
"""That a plan names of one key."""

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm train quickstart/compressed",
        "compressm train my.yaml train.steps=500 output.root=runs --seeds 0,1,2",
        "compressm train --resume outputs/my-run",
        "compressm train --resume outputs/my-run train.steps=6000",
    ),
)
def train(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a shipped recipe (see: compressm recipes list).",
            autocompletion=candidates.recipe_or_key,
        ),
    ] = None,
    overrides: Overrides = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="SEEDS", help="Seeds instead of the recipe's, 0,1,2 or 0..4: one run each."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what was read, what the recipe will do and cost, and its settings; train nothing.",
        ),
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No progress; only the run folders, on standard output.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with this run folder instead of a recipe.",
            autocompletion=candidates.runs,
            rich_help_panel=GOING_ON,
        ),
    ] = None,
    auto_resume: Annotated[
        bool,
        typer.Option(
            "--auto-resume",
            help="For each seed, go on with the newest unfinished run of RECIPE; start one only where there is none.",
            rich_help_panel=GOING_ON,
        ),
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Train the model of RECIPE, compressing it meanwhile.

    The run folder is the last line on standard output. With --resume and a larger train.steps, or a larger budget
    such as budget.flops=0.8x, a run is trained longer, also one that is done.
    """
    if resume is not None:
        changes = [*([] if recipe is None else [recipe]), *(overrides or [])]
        if dry_run or seeds is not None or auto_resume or any("=" not in change for change in changes):
            raise BadInputError(
                "--resume takes the recipe from the run folder; give no recipe, seeds, --dry-run or --auto-resume, but "
                "changes such as train.steps=6000"
            )
        _resume(resume, changes, quiet)
        return
    if recipe is None:
        raise BadInputError(
            "which recipe? give a YAML file or a shipped recipe; see 'compressm recipes list'"
        )
    from compressm_cli.engine.distributed.group import joined
    from compressm_cli.engine.experiment import was_restarted
    from compressm_cli.recipe import load_recipe
    from compressm_cli.recipe.seeds import parse_seeds

    def load() -> "Recipe":
        extra = [] if seeds is None else [f"seeds={parse_seeds(seeds)}"]
        return load_recipe(recipe, [*(overrides or []), *extra])

    asked = _asked(recipe, overrides or [], seeds=seeds, auto_resume=auto_resume, dry_run=dry_run)
    with joined(console.report_error, console.warn, asked) as group:
        resolved = group.from_main(load)
        if dry_run:
            if group.is_main:
                _dry_run(resolved, group)
        elif auto_resume or was_restarted():
            _continue(resolved, quiet, group, own_launcher=not auto_resume)
        else:
            _train(resolved, quiet, group)


def _asked(
    recipe: str | None,
    changes: list[str],
    seeds: str | None = None,
    resume: str | None = None,
    auto_resume: bool = False,
    dry_run: bool = False,
) -> dict[str, str | None]:
    """What this process was asked for, of what all processes of a run must be asked for."""
    from compressm_cli.recipe.shipped import find_recipe
    from compressm_cli.recipe.yaml_text import MAX_BYTES

    asked = {
        "--resume": resume,
        "the recipe": recipe,
        "--dry-run": "given" if dry_run else None,
        "--auto-resume": "given" if auto_resume else None,
        "--seeds": seeds,
        "--plugin": " ".join(INVOCATION.plugins) or None,
        "the settings": shlex.join(changes) or None,
    }
    # Where it cannot be read, as on a machine that has it not, there is nothing to compare: process 0 reads it for all.
    if recipe is not None:
        with suppress(CompressmError, OSError), find_recipe(recipe).open("rb") as file:
            text = file.read(MAX_BYTES)
            asked["the checksum of the recipe's text"] = blake2b(text, digest_size=4).hexdigest()
    return asked


def _train(recipe: "Recipe", quiet: bool, group: "Group") -> None:
    from compressm_cli.engine import experiment

    dataset = experiment.load_shared(recipe, group)
    if group.is_main and not quiet:
        _tell_data(dataset.report, console.stderr())
    for seed in recipe.seeds:
        run = experiment.start(recipe, seed, dataset, _view(quiet, group), command_line(), group=group)
        _done(run, group)


def _continue(recipe: "Recipe", quiet: bool, group: "Group", own_launcher: bool) -> None:
    from compressm_cli.engine import experiment

    @cache
    def dataset() -> "Dataset":
        loaded = experiment.load_shared(recipe, group)
        if group.is_main and not quiet:
            _tell_data(loaded.report, console.stderr())
        return loaded

    def tell(text: str) -> None:
        if group.is_main:
            typer.echo(text, err=True)

    for seed in recipe.seeds:
        view = _view(quiet, group)
        run = experiment.continue_or_start(
            recipe, seed, dataset, view, command_line(), tell, group, own_launcher
        )
        _done(run, group)


def _resume(folder: Path, changes: list[str], quiet: bool) -> None:
    from compressm_cli.engine import experiment
    from compressm_cli.engine.distributed.group import joined
    from compressm_cli.engine.origins import recipe_of
    from compressm_cli.runs.folder import Run

    with joined(console.report_error, console.warn, _asked(None, changes, resume=str(folder))) as group:
        run = group.from_main(lambda: Run.newest(folder))
        recipe = group.from_main(lambda: recipe_of(run))
        run = experiment.resume(run, recipe, _view(quiet, group), command_line(), group, changes)
        _done(run, group)


def _tell_data(report: "Report | None", shown: "Console") -> None:
    """What was read of the user's files, and on stderr what looks wrong in it."""
    from compressm_cli.render.data_table import data_table

    if report is None:
        return
    table = data_table(report)
    shown.print(table.rich())
    for note in table.notes:
        shown.print(console.escape(note))
    for warning in report.warnings:
        console.warn(warning)


def _view(quiet: bool, group: "Group") -> "View":
    from compressm_cli.engine.view import SilentView
    from compressm_cli.render.plain_view import make_view

    return SilentView() if quiet or not group.is_main else make_view(sys.stderr)


def _done(run: "Run", group: "Group") -> None:
    """Draw the run's figures, and print its folder."""
    if group.is_main:
        draw_plots(run)
        typer.echo(str(run.folder))


def draw_plots(run: "Run") -> None:
    """Draw the run's figures, where it has none yet; a finished training is not lost for want of a picture."""
    from compressm_cli.engine.failures import reason

    try:
        if not any(run.plots.iterdir()):
            from compressm_cli.render.plots import run_plots

            run_plots(run, console.warn)
    except Exception as error:
        console.warn(f"no plots were written: {reason(error)}")


def _dry_run(recipe: "Recipe", group: "Group") -> None:
    from compressm_cli.engine.forecast import forecast
    from compressm_cli.recipe import recipe_in_short

    known = forecast(recipe, group)  # first: of what is refused nothing is printed
    _tell_data(known.report, console.stdout())
    console.stdout().print(_forecast_table(recipe, known))
    console.stdout().print("What the recipe says, beside the defaults", style="italic")
    typer.echo(recipe_in_short(recipe).rstrip())


def _forecast_table(recipe: "Recipe", known: "Forecast") -> object:
    from compressm_cli.engine.teaching import teacher_of

    rows, data = known.data.rows, known.data
    targets = None if data.targets is None else counted(data.targets, "real number")
    labels = f"{data.classes} classes" if targets is None else f"{targets} to say"
    table = console.table("what", "value", title="What this recipe will do")
    table.add_row(
        "data",
        f"{rows[0]} / {rows[1]} / {rows[2]} rows, {_row_in_words(data)}, {labels}",
    )
    for key, files in recipe.data.sources().items():
        table.add_row(f"data.{key}", console.escape(_files_in_words([str(file) for file in files])))
    if (teacher := teacher_of(recipe)) is not None:
        table.add_row(
            "teacher",
            f"{console.escape(teacher.model)}, of weight {teacher.weight:g} in the loss; its passes are part of a "
            "training step",
        )
    if recipe.train.initial is not None:
        table.add_row(
            "begins with", f"{console.escape(recipe.train.initial)}, but for the head, which is a fresh one"
        )
    table.add_row("device", known.device)
    table.add_row("orders", ", ".join(f"{name} {order}" for name, order in known.orders.items()) or "none")
    table.add_row("parameters", f"{known.parameters:,}")
    table.add_row("FLOPs a training step", f"{known.training_step_flops:,}")
    table.add_row("FLOPs a sequence (inference)", f"{known.inference_flops_per_sequence:,}")
    table.add_row("FLOPs of the run, uncut", f"{known.training_step_flops * recipe.train.steps:,}")
    if recipe.budget is not None:
        table.add_row("budget", _budget_in_words(known.course))
    table.add_row("memory", _memory_in_words(known.memory))
    table.add_row(*_checks_in_words(known.course, known.check_steps))
    table.add_row("what a FLOP is", known.flop_convention)
    return table


def _row_in_words(data: "DataSpec") -> str:
    """What a row is."""
    if data.image is not None:
        channels, height, width = data.image
        return f"images of {height} x {width} pixels, {counted(channels, 'channel')}"
    features = "one feature" if data.features == 1 else f"{data.features} features"
    steps = features if data.vocabulary is None else f"one of {data.vocabulary} tokens"
    return f"{data.length} steps of {steps}"


def _files_in_words(files: list[str]) -> str:
    shown = files if len(files) <= MOST_FILES else [*files[: MOST_FILES - 1], "...", files[-1]]
    return f"{len(files)} file{'s' if len(files) > 1 else ''}, in this order: {', '.join(shown)}"


def _budget_in_words(course: "Course") -> str:
    from compressm_cli.core.quantities import quantity

    budget, limit = course.budget, course.limit
    assert budget is not None
    if budget.unit != "flops":
        return f"{budget.amount} {budget.unit}"
    assert limit is not None
    return f"{quantity(float(limit), 'flops')}: {float(course.planned):,.1f} steps without a cut"


def _checks_in_words(course: "Course", marks: list[int]) -> tuple[str, str]:
    """What is told of the checks, and of steps only where it is known which they are."""
    counted = course.budget is None or course.budget.unit == "flops"
    told = ", ".join(str(course.uncut_step(mark)) for mark in marks) if counted else ""
    if course.budget is not None and marks:
        shares = ", ".join(f"{100 * mark / course.total:.3g}" for mark in marks)
        steps = "" if course.budget.reinvest else ", or of train.steps where that is sooner"
        told += f"{' without a cut: ' if told else ''}at {shares} % of the budget{steps}"
    return f"compression checks{' after steps' if counted else ''}", told or "none"


def _memory_in_words(known: "MemoryForecast") -> str:
    from compressm_cli.core.quantities import quantity

    most, when = known.largest
    whose = ""
    if known.processes > 1:
        part = ", which has a part of the model" if known.sharded else ""
        whose = f", in each of {known.processes} processes{part}"
    rows = "1 row" if known.rows == 1 else f"{known.rows} rows"
    return (
        f"{quantity(most, 'bytes')} at most, {when}; {quantity(known.step, 'bytes')} in training steps, of {rows} at "
        f"once{whose}; beside data and PyTorch"
    )


def command_line() -> str:
    """The command as it was typed, for the run's record."""
    return shlex.join(["compressm", *sys.argv[1:]])
