"""``compressm study``: a recipe with compression against its alternatives, each at its own learning rate."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Overrides, Plugins
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.studies.plan import Plan
    from compressm_cli.studies.results import Results

ASKED, OUTPUT, GOING_ON = "What is compared", "Output", "Going on with a study"
UNITS = ("flops", "seconds")
GRID = 3
"""Learning rates of an arm, unless more are asked for."""
COSTS = {"less": "less than the method", "equal": "as the method", "more": "more than the method"}

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm study study/mnist1d_compressed",
        "compressm study my.yaml --arms dense,scratch-matched --seeds 0,1,2",
        "compressm study --resume outputs/studies/my-experiment",
        "compressm study --report outputs/studies/my-experiment --markdown",
    ),
)
def study(
    recipe: Annotated[
        str | None,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, or the name of a shipped recipe (see: compressm recipes list), with compression.",
            autocompletion=candidates.recipes,
        ),
    ] = None,
    overrides: Overrides = None,
    arms: Annotated[
        str | None,
        typer.Option(
            metavar="ARMS",
            help="What it is compared with, separated by commas.",
            show_default="all",
            rich_help_panel=ASKED,
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            metavar="SIZES",
            help="States of every layer of the fixed sizes that the regret is told of, such as 4,8,16; none for none.",
            show_default="powers of two up to the recipe's; none with --arms",
            rich_help_panel=ASKED,
        ),
    ] = None,
    lr_grid: Annotated[
        int | None,
        typer.Option(
            "--lr-grid",
            metavar="N",
            min=1,
            max=9,
            help="Learning rates of each arm's grid, by factors of two around the recipe's. Where the best is at an "
            "edge, up to 4 more are tried; 1 tunes nothing.",
            show_default=f"{GRID}",
            rich_help_panel=ASKED,
        ),
    ] = None,
    matched: Annotated[
        str | None,
        typer.Option(
            metavar="UNITS",
            help="In what the cost of arms is made equal: flops, seconds or both.",
            show_default="flops",
            rich_help_panel=ASKED,
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option(
            metavar="SEEDS", help="Seeds instead of the recipe's, 0,1,2 or 0..4.", rich_help_panel=ASKED
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="N", min=1, help="Trainings at a time, of one thread each.")
    ] = 2,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where the study goes; where it is there already, it is gone on with.",
            show_default="studies/NAME below the recipe's output.root",
            autocompletion=candidates.folders,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be trained; train nothing.")
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Go on with the study in this folder instead of a recipe.",
            autocompletion=candidates.folders,
            rich_help_panel=GOING_ON,
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Print the tables of a study's folder, or of its results.json, again; train nothing.",
            autocompletion=candidates.files,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print JSON: every number, not rounded.", rich_help_panel=OUTPUT),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown.", rich_help_panel=OUTPUT)
    ] = False,
    plugin: Plugins = None,
) -> None:
    """Compare the compression of RECIPE with what else its cost could buy.

    Each arm - full size, stopped at equal cost, small from scratch, other scores, cut after training - has a grid of
    learning rates of its own, chosen on the validation split; differences are paired by seed. The folder of the study
    holds the runs and results.json, from which --report prints the tables again.
    """
    if as_json and markdown:
        raise BadInputError("--json and --markdown exclude each other; give one of them")
    sources = {"RECIPE": recipe, "--resume": resume, "--report": report}
    given = [name for name, value in sources.items() if value is not None]
    if len(given) != 1:
        raise BadInputError(f"give one of {', '.join(sources)}; found {' and '.join(given) or 'none'}")
    asked = {
        "--arms": arms,
        "--sizes": sizes,
        "--lr-grid": lr_grid,
        "--matched": matched,
        "--seeds": seeds,
        "--output": output,
        "settings": overrides or None,
        "--dry-run": (report is not None and dry_run) or None,
    }
    if recipe is None and (wrong := [name for name, value in asked.items() if value is not None]):
        raise BadInputError(f"{given[0]} takes what is compared from the study; leave out {', '.join(wrong)}")
    if report is not None:
        from compressm_cli.studies.results import read_results

        _print(read_results(report), as_json, markdown)
        return
    from compressm_cli.studies.plan import Plan

    if resume is not None:
        folder, plan = resume, Plan.read(resume)
    else:
        assert recipe is not None
        plan, folder = _planned(
            recipe, overrides or [], arms, sizes, lr_grid or GRID, matched or UNITS[0], seeds, output
        )
        if not dry_run:
            _require_same(folder, plan)
    if dry_run:
        _show_plan(plan, folder, as_json)
        return
    _run(plan, folder, jobs, as_json, markdown)


def _planned(
    recipe: str,
    overrides: list[str],
    arms: str | None,
    sizes: str | None,
    grid: int,
    matched: str,
    seeds: str | None,
    output: Path | None,
) -> tuple["Plan", Path]:
    """What is asked for, and where it goes."""
    from compressm_cli.cli.train import command_line
    from compressm_cli.recipe import load_recipe
    from compressm_cli.recipe.seeds import parse_seeds
    from compressm_cli.studies.plan import Plan

    extra = [] if seeds is None else [f"seeds={parse_seeds(seeds)}"]
    resolved = load_recipe(recipe, [*overrides, *extra])
    units: Any = _words("--matched", matched, UNITS)
    plan = Plan.of(
        resolved,
        None if arms is None else _words("--arms", arms),
        None if sizes is None else _sizes(sizes),
        grid,
        units,
        command_line(),
    )
    return plan, output or Path(resolved.output.root) / "studies" / resolved.name


def _require_same(folder: Path, plan: "Plan") -> None:
    """BadInputError where another study is in the folder."""
    from compressm_cli.core.text import shorten
    from compressm_cli.studies.plan import FILE, Plan

    if not (folder / FILE).exists():
        return
    before = Plan.read(folder)
    if different := before.differences(plan):
        told = [
            f"{key} ({shorten(getattr(before, key))} there, {shorten(getattr(plan, key))} now)"
            if key not in ("recipe", "left_out")
            else key
            for key in different
        ]
        raise BadInputError(
            f"{folder}: holds a study that differs in {', '.join(told)}; go on with it with --resume, or choose "
            "another folder with --output"
        )


def _words(option: str, text: str, allowed: tuple[str, ...] = ()) -> list[str]:
    found = [word.strip() for word in text.split(",")]
    for word in found:
        if not word or (allowed and word not in allowed):
            raise BadInputError(
                f"{option} {text}: {word or 'nothing'} is not in {', '.join(allowed) or 'it'}"
            )
    if len(set(found)) < len(found):
        raise BadInputError(f"{option} {text}: write each once")
    return found


def _sizes(text: str) -> list[int]:
    """``4,8`` -> ``[4, 8]``, ``none`` -> ``[]``; BadInputError for anything else."""
    from compressm_cli.studies.plan import LARGEST_SIZE

    if text.strip() == "none":
        return []
    found = []
    for word in _words("--sizes", text):
        if not (word.isascii() and word.isdigit() and 1 <= int(word) <= LARGEST_SIZE):
            raise BadInputError(
                f"--sizes {text}: {word} is no number of states; write whole numbers from 1 to {LARGEST_SIZE}, such as "
                "4,8,16, or none"
            )
        found.append(int(word))
    return found


def _run(plan: "Plan", folder: Path, jobs: int, as_json: bool, markdown: bool) -> None:
    from compressm_cli.core.files import unwritable
    from compressm_cli.runs.lock import held
    from compressm_cli.studies.study import Study

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with held(folder / "lock"):
            plan.write(folder)
            results = Study(plan, folder, jobs, console.tell).run()
    except OSError as error:
        raise BadInputError(unwritable(error.filename or folder, error, "choose another --output")) from error
    _print(results, as_json, markdown)
    typer.echo(f"study: {folder}", err=True)
    if any(results.of(arm.name) and results.chosen(arm.name) is None for arm in results.arms):
        raise typer.Exit(1)


def _show_plan(plan: "Plan", folder: Path, as_json: bool) -> None:
    from compressm_cli.core.quantities import quantity
    from compressm_cli.core.text import counted
    from compressm_cli.studies import rates
    from compressm_cli.studies.forecast import forecast
    from compressm_cli.studies.verdict import METHOD

    known = forecast(plan)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({"plan": plan.model_dump(mode="json"), **asdict(known)}, indent=2))
        return
    base = known.rate
    grid = ", ".join(f"{rates.rate(base, power):.3g}" for power in rates.start(plan.grid))
    table = console.table(
        "arm", "what it is", "runs", "FLOPs", title=f"What this study will train into {folder}"
    )
    for arm in known.arms:
        known_cost = "" if arm.flops is None else quantity(arm.flops, "flops")
        if arm.name == METHOD:
            cost = f"at most {known_cost}" if known_cost else "what its budget says"
        else:
            cost = known_cost or COSTS[arm.cost]
        table.add_row(*map(console.escape, (arm.name, arm.about, arm.runs, cost)))
    out = console.stdout()
    out.print(table)
    out.print(
        f"learning rates of each arm: {grid}, each with {counted(len(known.seeds), 'seed')}; {known.runs} runs at "
        f"least, at most {known.most_runs} where each grid is extended",
        markup=False,
    )
    for name, why in plan.left_out.items():
        out.print(f"left out: {name}: {why}", markup=False)


def _print(results: "Results", as_json: bool, markdown: bool) -> None:
    from compressm_cli.render.study_tables import study_lines, study_markdown, study_tables
    from compressm_cli.studies.verdict import judge

    if markdown:
        typer.echo(study_markdown(results))
        return
    verdict = judge(results)
    if as_json:
        from dataclasses import asdict

        told: Any = asdict(verdict)
        for row, of in zip(told["rows"], verdict.rows, strict=True):
            row["arm"], row["runs"] = of.arm.model_dump(), [run.model_dump() for run in of.runs]
        typer.echo(
            json.dumps({"results": results.model_dump(mode="json"), **told}, indent=2, allow_nan=False)
        )
        return
    out = console.stdout()
    for table in study_tables(results, verdict):
        out.print()
        out.print(table.rich())
        for note in table.notes:
            out.print(note, markup=False, style="dim")
    out.print("\nVerdict", style="bold")
    for line in study_lines(results, verdict):
        out.print(line, markup=False)
