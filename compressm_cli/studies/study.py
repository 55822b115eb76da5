"""A study being made: arm by arm the learning rates that its grid asks for, the method's first."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError, CompressmError
from compressm_cli.objectives import primary_of
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.studies import rates
from compressm_cli.studies.arms import ARMS, Source
from compressm_cli.studies.costs import counter
from compressm_cli.studies.plan import Plan
from compressm_cli.studies.reference import Reference
from compressm_cli.studies.results import ArmResult, Judged, Result, Results, ordered, result_of
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.workers import Crew, Outcome

Key = tuple[str, int, int]
"""An arm, the power of its learning rate, a seed."""
Tell = Callable[[str], None]


class Study:
    """The runs of a plan in a folder; what is finished there is not trained again.

    A run that fails is told of, and the others go on. After each run ``results.json`` is written anew.
    """

    def __init__(self, plan: Plan, folder: Path, jobs: int, tell: Tell) -> None:
        self._plan, self._folder, self._tell = plan, folder, tell
        self._recipe = recipe = plan.resolved()
        self._arms = plan.made()
        self._crew = Crew(folder, jobs, keep_going=True)
        spec, _ = recipe.data.described()
        self._tokens = spec.length if spec.vocabulary is not None and spec.per_step else None
        self._batch_size = min(recipe.train.batch_size, spec.rows[0] or recipe.train.batch_size)
        self._count = counter(recipe)
        self._left_out = dict(plan.left_out)
        self._made: dict[tuple[str, int], Recipe] = {}
        self._runs: dict[Key, Run] = {}
        self._results: dict[Key, Result] = {}
        self._references: dict[int, Reference] = {}
        self._grids: dict[str, list[int]] = {}
        """Of the arms that were begun."""

    def run(self) -> Results:
        """Train all arms at all learning rates that are asked for; returns what came of it."""
        first = [name for name, arm in self._arms.items() if arm.is_first]
        self._tune(first)
        chosen = self.results().best("method")
        power = None if not chosen else rates.power_of(self._rate, next(iter(chosen.values())).rate)
        if power is None:
            why = "the method failed at each learning rate with some seed, so that there is nothing to match"
            self._left_out |= {name: why for name in self._arms if name not in first}
        else:
            self._references = {
                seed: Reference.of(self._runs["method", power, seed]) for seed in self._recipe.seeds
            }
            self._tune([name for name in self._arms if name not in first])
        return self._write()

    def results(self) -> Results:
        """What is known until now."""
        plan, recipe, arms = self._plan, self._recipe, self._arms
        primary = Judged.model_validate(primary_of(recipe).record())
        left_out = {name: self._left_out.get(name) for name in [*arms, *plan.left_out]}
        known = {**ARMS, **arms}
        return Results(
            recipe=recipe.name,
            command=plan.command,
            primary=primary,
            seeds=recipe.seeds,
            rate=self._rate,
            grid=plan.grid,
            samples="rows" if self._tokens is None else "tokens",
            arms=[
                ArmResult(name=name, about=known[name].about, cost=known[name].cost, left_out=why)
                for name, why in left_out.items()
            ],
            sizes=plan.sizes,
            runs=ordered(self._results.values(), left_out),
        )

    @property
    def _rate(self) -> float:
        return self._recipe.train.learning_rate

    def _write(self) -> Results:
        results = self.results()
        results.write(self._folder)
        return results

    def _tune(self, names: Iterable[str]) -> None:
        """Train some arms with their grids, and beyond, until the best rate of each has a worse one on both sides."""
        grids = {name: rates.start(self._plan.grid) for name in names if self._can_be_made(name)}
        self._grids |= grids
        while todo := self._missing(grids):
            self._train(todo)
            results = self.results()
            for name, powers in grids.items():
                means = results.means(name)
                further = rates.extension(
                    means, results.primary.higher_is_better, self._plan.grid, self._rate
                )
                if further is not None:
                    powers.append(further)

    def _expected(self) -> int:
        """How many runs there will be, as the grids are now."""
        names = [name for name in self._arms if name not in self._left_out]
        first = rates.start(self._plan.grid)
        return sum(len(self._grids.get(name, first)) for name in names) * len(self._recipe.seeds)

    def _missing(self, grids: dict[str, list[int]]) -> list[Key]:
        wanted = [
            (name, p, seed) for name, powers in grids.items() for p in powers for seed in self._recipe.seeds
        ]
        return [key for key in wanted if key not in self._results]

    def _teacher(self, name: str, seed: int) -> Key | None:
        """The run that an arm learns from with this seed; None where there is none."""
        teacher = self._arms[name].teacher
        chosen = None if teacher is None else self.results().best(teacher).get(seed)
        return None if chosen is None else (chosen.arm, rates.power_of(self._rate, chosen.rate), seed)

    def _can_be_made(self, name: str) -> bool:
        """Make an arm's recipe for each seed; where that cannot be, it is left out."""
        for seed in self._recipe.seeds:
            teacher = self._teacher(name, seed)
            run = None if teacher is None else self._runs[teacher]
            source = Source(self._recipe, self._count, self._references.get(seed), run)
            try:
                self._made[name, seed] = self._arms[name].make(source)
            except BadInputError as error:  # also a recipe that is none
                self._left_out[name] = f"seed {seed}: {error}"
                self._tell(f"{name}: left out: {self._left_out[name]}")
                return False
        return True

    def _train(self, keys: list[Key]) -> None:
        by_job = {(job.recipe.name, job.seed): key for key in keys for job in [self._job(key)]}

        def told(outcome: Outcome) -> None:
            key = by_job[outcome.job.recipe.name, outcome.job.seed]
            self._record(key, outcome)
            self._write()
            place = f"[{len(self._results)} of {self._expected()}]"
            known = "was done: " if outcome.was_there else ""
            self._tell(f"{place} {outcome.job.name}: {known}{self._in_words(self._results[key])}")

        self._crew.run_all([self._job(key) for key in keys], told)

    def _record(self, key: Key, outcome: Outcome) -> None:
        name, power, seed = key
        rate = rates.rate(self._rate, power)
        error = outcome.error or "was not begun"
        if outcome.run is not None:
            try:
                result = result_of(outcome.run, name, rate, seed, self._tokens, self._batch_size)
                teacher = self._teacher(name, seed)
                self._results[key] = result if teacher is None else result.after(self._results[teacher])
                self._runs[key] = outcome.run
                return
            except CompressmError as damaged:
                error = str(damaged)
        self._results[key] = Result(arm=name, rate=rate, seed=seed, error=error[-1000:])

    def _job(self, key: Key) -> Job:
        name, power, seed = key
        recipe, rate = self._made[name, seed], rates.rate(self._rate, power)
        return Job(
            recipe.model_copy(
                update={
                    "name": f"{name}-lr{rate:.6g}",
                    "seeds": [seed],
                    "output": recipe.output.model_copy(update={"root": str(self._folder / "runs")}),
                    "train": recipe.train.model_copy(update={"learning_rate": rate}),
                }
            )
        )

    def _in_words(self, result: Result) -> str:
        if result.error is not None:
            return f"failed: {result.error.splitlines()[-1]}"
        metric: Any = primary_of(self._recipe)
        return f"validation {metric.title} {metric.shown(result.validation)}"
