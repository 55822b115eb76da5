"""What ``compressm sweep`` does when the plan is known: where, by which processes, and what comes of it."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compressm_cli.cli import console
from compressm_cli.cli.train import command_line
from compressm_cli.core.errors import BadInputError, command

if TYPE_CHECKING:
    from compressm_cli.recipe import Recipe
    from compressm_cli.reports.sweep import SweepReport
    from compressm_cli.sweeps.board import BoardView, Outcome
    from compressm_cli.sweeps.cluster import ClusterCrew
    from compressm_cli.sweeps.folder import SweepFolder
    from compressm_cli.sweeps.job import Job
    from compressm_cli.sweeps.plan import Plan
    from compressm_cli.sweeps.workers import Crew

AT_A_TIME = 2
"""Trainings, where nothing else is asked for."""


@dataclass(frozen=True)
class Manner:
    """How a sweep is carried out."""

    jobs: int | None
    """Trainings at a time."""
    threads: int
    keep_going: bool
    quiet: bool
    slurm: str | None
    """Settings of jobs in Slurm; None: processes on this machine."""
    trials: int | None
    """Of a search."""


def train_all(
    plan: "Plan | None", name: str | None, resume: Path | None, manner: Manner
) -> "tuple[SweepReport, Mapping[str, str]]":
    """Train what is not done yet; also points of a search that the recipe does not allow, and why.

    Without a plan it is that of the folder ``resume``.
    """
    if manner.slurm is not None:
        _parameters("sweep", manner)  # before anything is written
    folder, trainings, trials = _begin(plan, name, resume, manner)
    view = _view(folder, manner.quiet)
    refused: Mapping[str, str] = {}
    outcomes: Sequence[Outcome]
    if manner.slurm is not None:
        outcomes = _cluster_crew(folder, manner, view).run_all(trainings)
    elif trials is not None:
        crew = _crew(folder, manner, view)
        outcomes, refused = _search(crew, folder, plan or folder.search_plan(), trials)
    else:
        outcomes = _crew(folder, manner, view).run_all(trainings)
    return _report(folder, outcomes), refused


def script(folder: Path, name: str, manner: Manner, trainings: int) -> str:
    """What would be given to Slurm."""
    from compressm_cli.sweeps.cluster import slurm_script

    return slurm_script(folder / "slurm", _parameters(name, manner), trainings)


def _begin(
    plan: "Plan | None", name: str | None, resume: Path | None, manner: Manner
) -> "tuple[SweepFolder, Sequence[Job], int | None]":
    """The folder of the sweep, new or as it is, its trainings as far as they are known, and the trials of a search."""
    from compressm_cli.sweeps.folder import SweepFolder

    trials = manner.trials
    if resume is not None:
        folder = SweepFolder.open(resume)
        if plan is not None:
            folder.require_same(plan)
    else:
        assert plan is not None
        assert name is not None
        found = SweepFolder.of_plan(plan, name)
        if found is None:
            folder = SweepFolder.create(plan.root, name)
            trainings = plan.jobs(folder.runs)
            folder.begin(plan, trainings, command_line(), trials)
            return folder, trainings, trials
        folder = found
    known = folder.read()
    if trials is not None and not known.get("search"):
        raise BadInputError(f"--optuna: {folder.folder} is no search; leave --optuna out")
    if manner.slurm is None:
        _require_not_queued(folder, list((known.get("cluster") or {}).values()))
    elif known.get("search"):
        raise BadInputError(
            f"--slurm: {folder.folder} is a search, which is not made in Slurm; leave --slurm out"
        )
    trials = trials or known.get("trials")
    folder.go_on(command_line(), trials)
    console.tell(f"going on with {folder.folder}")
    return folder, folder.jobs() if plan is None else plan.jobs(folder.runs), trials


def _require_not_queued(folder: "SweepFolder", ids: list[str]) -> None:
    """BadInputError where trainings of the sweep wait or run in Slurm."""
    import shutil

    from compressm_cli.sweeps.cluster import alive_in_slurm

    if ids and shutil.which("squeue") is None:
        console.warn(
            f"{folder.folder}: was given to Slurm, and whether it is done with it cannot be asked here"
        )
    elif alive := alive_in_slurm(ids):
        raise BadInputError(
            f"{folder.folder}: {len(alive)} of its trainings are in Slurm's queue ({', '.join(sorted(alive))}); go on "
            "with --slurm to watch them, or end them with scancel"
        )


def _view(folder: "SweepFolder", quiet: bool) -> "BoardView":
    from compressm_cli.render.sweep_view import make_board_view
    from compressm_cli.sweeps.board import SilentBoardView

    return SilentBoardView() if quiet else make_board_view(folder.name, sys.stderr)


def _crew(folder: "SweepFolder", manner: Manner, view: "BoardView") -> "Crew":
    from compressm_cli.sweeps.workers import Crew

    way_on, jobs = command("sweep", "--resume", folder.folder), manner.jobs or AT_A_TIME
    return Crew(folder.folder, jobs, manner.threads, manner.keep_going, view, way_on)


def _parameters(name: str, manner: Manner) -> dict[str, Any]:
    """Of jobs in Slurm."""
    from compressm_cli.sweeps.cluster import require_submitit, slurm_parameters

    require_submitit()
    assert manner.slurm is not None
    return slurm_parameters(manner.slurm, name, manner.threads, manner.jobs)


def _cluster_crew(folder: "SweepFolder", manner: Manner, view: "BoardView") -> "ClusterCrew":
    from compressm_cli.sweeps.cluster import ClusterCrew, Slurm

    cluster = Slurm(folder.folder / "slurm", _parameters(folder.name, manner))
    submitted = folder.read().get("cluster") or {}
    way_on = command("sweep", "--resume", folder.folder, "--slurm", manner.slurm)
    threads, keep_going = manner.threads, manner.keep_going
    return ClusterCrew(
        folder.folder, cluster, submitted, folder.note_cluster, threads, keep_going, view, way_on
    )


def _search(
    crew: "Crew", folder: "SweepFolder", plan: "Plan", trials: int
) -> "tuple[Sequence[Outcome], dict[str, str]]":
    """What becomes of a search: of its trainings, and points that the recipe does not allow."""
    from compressm_cli.objectives import primary_of
    from compressm_cli.sweeps.board import Board
    from compressm_cli.sweeps.plan import require_fitting
    from compressm_cli.sweeps.search import Search, open_study, outcomes_of, require_optuna

    def make(point: str, changes: "tuple[tuple[str, str], ...]") -> "Recipe":
        recipe = plan.maker.recipe(changes, point)
        require_fitting([recipe])
        return recipe

    require_optuna()
    metric = primary_of(plan.recipes[0])
    study = open_study(folder.folder / "study.log", metric, plan.seeds[0])
    board, seeds = Board(crew.jobs), len(plan.seeds)
    search = Search(study, plan.space, trials, seeds, make, folder.runs, folder.add, crew.keep_going, board)
    crew.serve(search, board)
    return outcomes_of(study, folder.jobs()), search.refused


def _report(folder: "SweepFolder", outcomes: "Sequence[Outcome]") -> "SweepReport":
    from compressm_cli.reports.sweep import sweep_report

    changes = {point["name"]: point["changes"] for point in folder.read().get("points", [])}
    report = sweep_report(folder.name, folder.folder, outcomes, changes)
    folder.write_results(asdict(report))
    return report
