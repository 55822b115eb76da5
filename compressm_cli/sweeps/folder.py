"""The folder of a sweep and the files in it.

<root>/sweeps/<name>/v0001/
    sweep.json     the plan: command, versions, git, recipe, points, seeds, a job each with its name and folder
    results.json   what ``sweep --json`` prints; written when it ends
    recipe.yaml    the recipe as it was given
    study.log      of a search: Optuna's journal
    slurm/         of trainings in Slurm: submitit's files
    recipes/       the recipe of each job
    logs/          what the process of each job said
    runs/          the run folders: runs/<point>/v0001
    trainings.lock which process trains this sweep now; empty when none does
<root>/sweeps/<name>/latest -> v0001
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import write_atomically
from compressm_cli.engine.origins import beginnings, now
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_mapping
from compressm_cli.recipe.shipped import find_recipe
from compressm_cli.runs.lock import held
from compressm_cli.runs.versions import create_version, versions
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.plan import Maker, Plan, differences, job_of, make_plan
from compressm_cli.sweeps.space import described, ends, read_space
from compressm_cli.sweeps.workers import LOCK

FORMAT = 1
LISTS = ("jobs", "points", "seeds", "settings", "places", "resumed")
"""Entries of the plan that are lists."""
TOLD = ("command", "started", "versions", "git", "machine", "plugins")
"""Of what a run tells of its beginning."""


@dataclass(frozen=True)
class SweepFolder:
    """One sweep on disk; use ``create``, ``open`` or ``of_plan``."""

    folder: Path

    @classmethod
    def create(cls, root: Path, name: str) -> "SweepFolder":
        """The next version of a sweep of this name."""
        return cls(create_version(root / "sweeps" / name, "runs").resolve())

    @classmethod
    def open(cls, path: Path) -> "SweepFolder":
        """The sweep that a path means: its folder, or the newest version in a folder of sweeps. BadInputError."""
        if not path.is_dir():
            raise BadInputError(f"{path}: no such folder; give one such as outputs/sweeps/NAME/v0001")
        for folder in (path, *reversed(versions(path))):
            if (folder / "sweep.json").is_file():
                return cls(folder.resolve())
        raise BadInputError(f"{path}: not the folder of a sweep (it has no sweep.json)")

    @classmethod
    def of_plan(cls, plan: Plan, name: str) -> "SweepFolder | None":
        """The newest sweep of this name with the same plan; None where there is none."""
        parent = plan.root / "sweeps" / name
        known = reversed(versions(parent)) if parent.is_dir() else []
        wanted = plan.fingerprint()
        for folder in known:
            # A damaged one is no reason not to train.
            with suppress(BadInputError):
                if cls(folder).read().get("fingerprint") == wanted:
                    return cls(folder.resolve())
        return None

    @property
    def runs(self) -> Path:
        return self.folder / "runs"

    @property
    def name(self) -> str:
        """As it was called when it was begun."""
        return self.folder.parent.name

    def read(self) -> dict[str, Any]:
        """The plan as it was written; BadInputError where it cannot be read."""
        path = self.folder / "sweep.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise BadInputError(f"{path}: cannot be read: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise BadInputError(f"{path}: is none of format {FORMAT}, which this version reads")
        for key in LISTS:
            if type(found.get(key)) is not list:
                raise BadInputError(f"{path}: {key} must be a list; the plan is damaged")
        return found

    def jobs(self) -> list[Job]:
        """The trainings of the plan, from their recipes; BadInputError where one is missing or damaged."""
        plan = self.read()
        told, found = plan["jobs"], []
        if not (told or plan.get("search")):
            raise BadInputError(f"{self.folder / 'sweep.json'}: has no jobs; the plan is damaged")
        for entry in told:
            recipe = entry.get("recipe") if isinstance(entry, dict) else None
            if not isinstance(recipe, str) or Path(recipe).is_absolute() or ".." in Path(recipe).parts:
                raise BadInputError(
                    f"{self.folder / 'sweep.json'}: a job without its recipe; the plan is damaged"
                )
            loaded = load_recipe(self.folder / recipe)
            found.append(job_of(loaded, loaded.seeds[0], self.runs))
        return found

    def begin(self, plan: Plan, jobs: Sequence[Job], command: str, trials: int | None = None) -> None:
        """Write a new plan, and the recipes of its jobs; ``trials`` are those of a search."""
        first, maker = plan.recipes[0], plan.maker
        origin = beginnings(first, first.seeds[0], command, 1, None)
        write_atomically(self.folder / "recipe.yaml", find_recipe(maker.source).read_bytes())
        search = {parameter.key: described(parameter) for parameter in plan.space}
        points = [] if search else [{"name": p.name, "changes": dict(p.changes)} for p in plan.points]
        self._write(
            {
                "format": FORMAT,
                **{key: origin[key] for key in TOLD},
                "recipe": maker.source,
                "settings": maker.fixed,
                "places": _places(first, search),
                "search": search or None,
                "trials": trials,
                "points": points,
                "equal": [{"point": one, "to": other} for one, other in plan.equal],
                "seeds": plan.seeds,
                "fingerprint": plan.fingerprint(),
                "jobs": self._entries(jobs),
                "resumed": [],
            }
        )

    def add(self, point: str, changes: dict[str, str], jobs: Sequence[Job]) -> None:
        """A point of a search that is tried from now on, or again."""
        plan = self.read()
        known = [entry for entry in plan["points"] if entry["name"] != point]
        names = {job.name for job in jobs}
        entries = [entry for entry in plan["jobs"] if entry["name"] not in names]
        plan["points"] = [*known, {"name": point, "changes": changes}]
        plan["jobs"] = [*entries, *self._entries(jobs)]
        self._write(plan)

    def _entries(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Of jobs, whose recipes are written."""
        return [
            {
                "name": job.name,
                "point": job.recipe.name,
                "seed": job.seed,
                "recipe": str(job.write(self.folder / "recipes").relative_to(self.folder)),
                "folder": str(job.folder.relative_to(self.folder)),
            }
            for job in jobs
        ]

    def search_plan(self) -> Plan:
        """The plan of a search, made anew from what was written; BadInputError where it is none or is damaged."""
        plan = self.read()
        words = [f"{key}={text}" for key, text in (plan.get("search") or {}).items()]
        if not words:
            raise BadInputError(f"{self.folder}: is no search; leave --optuna out")
        space, _ = read_space(words)
        fixed = [*plan["settings"], *plan["places"]]
        maker = Maker(str(self.folder / "recipe.yaml"), fixed, plan["seeds"])
        return make_plan(maker, ends(space), space)

    def go_on(self, command: str, trials: int | None = None) -> None:
        """Note that the sweep is gone on with, a search for so many trials; RunLockedError where another one does."""
        with held(self.folder / LOCK, "sweep"):
            plan = self.read()
            told = {"at": now(), "command": command}
            self._write({**plan, "trials": trials, "resumed": [*plan["resumed"], told]})

    def note_cluster(self, ids: dict[str, str]) -> None:
        """Remember which job of a cluster each training is."""
        self._write({**self.read(), "cluster": ids})

    def require_same(self, plan: Plan) -> None:
        """BadInputError where another plan was begun in this folder, with what differs."""
        if self.read().get("fingerprint") == plan.fingerprint():
            return
        if plan.space or self.read().get("search"):
            raise BadInputError(
                f"{self.folder}: another search, or a grid, was begun here; leave --resume out"
            )
        found = differences(self.jobs(), plan.jobs(self.runs))
        if found:
            raise BadInputError(
                f"{self.folder}: another sweep was begun here: {'; '.join(found)}. Go on with it with --resume and no "
                "recipe, or leave --resume out to begin another one"
            )

    def write_results(self, results: dict[str, Any]) -> None:
        text = json.dumps(results, indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder / "results.json", text.encode())

    def _write(self, plan: dict[str, Any]) -> None:
        write_atomically(self.folder / "sweep.json", (json.dumps(plan, indent=2) + "\n").encode())


def _places(recipe: Recipe, search: dict[str, str]) -> list[str]:
    """The paths of the data and the teacher, which are absolute, as changes: a search goes on from any folder."""
    data = recipe_to_mapping(recipe)["data"]
    known = {f"data.{key}": data.get(key) for key in recipe.data.paths}
    known["train.initial"] = recipe.train.initial
    if recipe.objective is not None:
        known |= {f"objective.{key}": value for key, value in recipe.objective.places().items()}
    return [
        f"{key}={json.dumps(value, ensure_ascii=False)}"
        for key, value in known.items()
        if value is not None and key not in search
    ]
