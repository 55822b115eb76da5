"""``compressm sweep``: a recipe with many settings and seeds, trained by some processes at a time."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Json, Plugins
from compressm_cli.cli.sweeping import AT_A_TIME, Manner, script, train_all
from compressm_cli.cli.train import GOING_ON
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.reports.sweep import SweepReport
    from compressm_cli.sweeps.plan import Plan

PROCESSES, SEARCH = "Processes", "Search"

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm sweep my.yaml train.learning_rate=1e-3,2e-3,4e-3 --seeds 0..4",
        "compressm sweep my.yaml --list points.csv --jobs 4 --keep-going",
        "compressm sweep my.yaml train.learning_rate=1e-4..1e-2:log --optuna 30",
        "compressm sweep my.yaml train.steps=500,1000 --slurm time=120,partition=gpu",
        "compressm sweep --resume outputs/sweeps/my-experiment",
    ),
)
def sweep(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a shipped recipe (see: compressm recipes list).",
            autocompletion=candidates.recipes,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=A,B",
            help="Settings with the values that they take: all combinations are trained. Commas within brackets and "
            "quotes do not part values. A setting with one value is changed for all.",
            autocompletion=candidates.sweep_keys,
        ),
    ] = None,
    points: Annotated[
        Path | None,
        typer.Option(
            "--list",
            metavar="FILE",
            help="Points to train, one a row: YAML (a list of mappings) or CSV (keys in the first line).",
            autocompletion=candidates.files,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="SEEDS", help="Seeds of each point instead of the recipe's: 0..4, or 0,1,2."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Instead of the recipe's output.root: the sweep is in DIR/sweeps/NAME/v0001.",
            autocompletion=candidates.folders,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the sweep, instead of the recipe's name.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the points and what they will cost; train nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress; only the results.")] = False,
    as_json: Json = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Trainings at a time: 2, and with --slurm as many as it lets run.",
            rich_help_panel=PROCESSES,
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="CPU threads of each of them.", rich_help_panel=PROCESSES),
    ] = 1,
    keep_going: Annotated[
        bool,
        typer.Option(
            "--keep-going",
            help="Begin others after one has failed; else what runs is finished and nothing more begun.",
            rich_help_panel=PROCESSES,
        ),
    ] = False,
    slurm: Annotated[
        str | None,
        typer.Option(
            metavar="KEY=VALUE,...",
            help="Train in Slurm, as one array of jobs with these settings, such as time=120,partition=gpu (minutes "
            "until a job is queued again).",
            rich_help_panel=PROCESSES,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Go on with this sweep, whose plan is known; the same command as before does so, too.",
            autocompletion=candidates.folders,
            rich_help_panel=GOING_ON,
        ),
    ] = None,
    optuna: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Search with so many trials instead of training all: KEY=LOW..HIGH, KEY=LOW..HIGH:log, KEY=A,B,C. "
            "Trials worse than the median of others at the same cost are given up.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    plugin: Plugins = None,
) -> None:
    """Train RECIPE with many settings and seeds, some at a time, and show which are the best.

    Trainings that are done are not repeated, and those that were stopped or failed are gone on with, where the same
    sweep is started again. The folder of the sweep is the last line on standard output.
    """
    if slurm is not None and optuna is not None:
        raise BadInputError(
            "--slurm trains what is known beforehand, and --optuna looks for it; give one of the two"
        )
    manner = Manner(jobs, threads, keep_going, quiet or as_json, slurm, optuna)
    plan = None
    if recipe is None:
        _require_folder(resume, dry_run, points is not None or seeds or output or name)
    elif resume is not None and "=" in recipe:
        raise BadInputError(
            "--resume takes the plan from its folder; give no settings, or the recipe before them"
        )
    else:
        plan = _plan(recipe, settings or [], points, seeds, output, optuna is not None)
    if plan is not None and dry_run:
        _dry_run(plan, _name(plan, name), manner, as_json)
        return
    report, refused = train_all(plan, None if plan is None else _name(plan, name), resume, manner)
    for point, why in refused.items():
        console.report_error(f"{point}: {why}")
    _show(report, as_json)
    if not as_json:
        typer.echo(report.folder)
    if report.failed or refused:
        raise typer.Exit(1)


def _require_folder(resume: Path | None, dry_run: bool, others: object) -> None:
    """BadInputError where no recipe is given, and not just a folder in place of it."""
    if resume is None:
        raise BadInputError(
            "which recipe? give a YAML file or a shipped recipe; see 'compressm recipes list'"
        )
    if others:
        raise BadInputError(
            "--resume takes the plan from its folder; give no --list, --seeds, --output or --name"
        )
    if dry_run:
        raise BadInputError("--dry-run shows the plan of a recipe; give the recipe, and no --resume alone")


def _plan(
    recipe: str,
    settings: list[str],
    points: Path | None,
    seeds: str | None,
    output: Path | None,
    search: bool,
) -> "Plan":
    from compressm_cli.recipe.seeds import parse_seeds
    from compressm_cli.recipe.shipped import find_recipe
    from compressm_cli.sweeps.grid import points_of, read_list, read_words
    from compressm_cli.sweeps.plan import Maker, make_plan
    from compressm_cli.sweeps.search import require_optuna
    from compressm_cli.sweeps.space import ends, read_space, require_no_range

    wanted = None if seeds is None else parse_seeds(seeds)
    root = None if output is None else str(output)
    if search:
        if points is not None:
            raise BadInputError("--list gives points, and --optuna looks for them; give one of the two")
        space, fixed = read_space(settings)
        require_optuna()
        return make_plan(Maker(recipe, fixed, wanted, root), ends(space), space)
    require_no_range(settings)
    axes, fixed = read_words(settings)
    rows = [] if points is None else read_list(points)
    places = points_of(axes, rows, alone=find_recipe(recipe).stem)
    plan = make_plan(Maker(recipe, fixed, wanted, root), places)
    for one, other in plan.equal:
        console.warn(f"point {one} is equal to {other}, and trained once")
    return plan


def _name(plan: "Plan", given: str | None) -> str:
    from compressm_cli.recipe.schema import FORM, NAME

    name = plan.name if given is None else given
    if not NAME.fullmatch(name):
        raise BadInputError(f"--name {name!r}: write {FORM}")
    return name


def _dry_run(plan: "Plan", name: str, manner: Manner, as_json: bool) -> None:
    from dataclasses import asdict

    from compressm_cli.render.sweep_tables import cost_table
    from compressm_cli.sweeps.folder import SweepFolder
    from compressm_cli.sweeps.forecast import sweep_cost

    known = SweepFolder.of_plan(plan, name)
    folder = (plan.root / "sweeps" / name / "v0001").absolute() if known is None else known.folder
    trainings = plan.jobs(folder / "runs")
    cost = sweep_cost(plan, trainings, manner.trials or 0)
    if as_json:
        typer.echo(json.dumps(asdict(cost), indent=2, allow_nan=False))
        return
    table = cost_table(cost, name, manner.jobs or AT_A_TIME)
    out = console.stdout()
    out.print(table.rich())
    for note in table.notes:
        out.print(note, markup=False, style="dim")
    if manner.slurm is not None:
        typer.echo(f"\n{script(folder, name, manner, cost.trainings - cost.done)}")


def _show(report: "SweepReport", as_json: bool) -> None:
    from dataclasses import asdict

    from compressm_cli.render.sweep_tables import failures, results_table

    for line in failures(report):
        console.report_error(line)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2, allow_nan=False))
        return
    table = results_table(report)
    out = console.stdout()
    out.print(table.rich())
    for note in table.notes:
        out.print(note, markup=False, style="dim")
