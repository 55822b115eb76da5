"""``results.json``: all that the tables of a study need, so that they can be made again without its runs."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.core.files import write_atomically
from compressm_cli.core.quantities import Unit
from compressm_cli.objectives import Metric
from compressm_cli.recipe.loading import config_from_mapping
from compressm_cli.runs.folder import Run
from compressm_cli.studies import rates
from compressm_cli.studies.arms import SIZE
from compressm_cli.studies.plan import FILE as PLAN

FILE = "results.json"
FORMAT = 1
LARGEST = 1e100
Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Field(ge=0.0, le=LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**18)]
Rate = Annotated[float, Field(ge=1e-12, le=rates.LARGEST_RATE)]


class Judged(Config):
    """The metric that models are judged by."""

    name: str
    title: str
    higher_is_better: bool
    unit: Unit

    def metric(self) -> Metric:
        return Metric(self.name, self.title, self.higher_is_better, self.unit)


class Result(Config):
    """One run: an arm, at a learning rate, with a seed."""

    arm: str
    rate: Rate
    seed: Count
    error: Annotated[str, Field(min_length=1)] | None = None
    """Why there is nothing else; null where the run came to its end."""
    validation: Number | None = None
    """The primary metric of the finished model, and on the test split; null where it is not known."""
    test: Number | None = None
    steps: Count | None = None
    samples: Amount | None = None
    """Rows that it was trained on, each as often as it was; of tokens these."""
    parameters: Count | None = None
    """At the end."""
    orders: list[Count] = []
    """Of each layer at the end."""
    flops: Amount | None = None
    """Of training steps."""
    seconds: Amount | None = None
    """Of all that the run did."""
    hindrance: Amount | None = None
    """Seconds of training for each second that its thread had a processor; null where that was not counted."""
    commit: str | None = None
    """Of the code; with ``+`` where files differed from it."""
    machine: str | None = None

    def after(self, earlier: "Result") -> "Result":
        """With the cost of another run before it."""
        if self.flops is None or self.seconds is None or earlier.flops is None or earlier.seconds is None:
            raise ValueError("both runs came to their end")
        cost = {"flops": self.flops + earlier.flops, "seconds": self.seconds + earlier.seconds}
        return self.model_copy(update=cost)


class ArmResult(Config):
    """What there is to say of an arm beside its runs."""

    name: str
    about: str
    cost: Literal["less", "equal", "more"]
    left_out: str | None = None
    """Why it was not trained."""


class Results(Config):
    """A study: what it asked, and what came of each run."""

    format: Literal[1] = 1
    recipe: str
    """Its name."""
    command: str
    primary: Judged
    seeds: list[Count]
    rate: Rate
    """The recipe's learning rate, the middle of each grid."""
    grid: Annotated[int, Field(ge=1)]
    """How many rates an arm begins with."""
    samples: Literal["rows", "tokens"] = "rows"
    arms: list[ArmResult]
    sizes: list[Count] = []
    """The fixed sizes among the arms, of which one would choose without the method."""
    runs: list[Result] = []

    def of(self, arm: str) -> list[Result]:
        return [run for run in self.runs if run.arm == arm]

    def means(self, arm: str) -> dict[int, float | None]:
        """Of the primary metric on the validation split over the seeds, by rate (``rates.Means``)."""
        found: dict[int, dict[int, float | None]] = {}
        for run in self.of(arm):
            found.setdefault(rates.power_of(self.rate, run.rate), {})[run.seed] = run.validation
        return {power: self._mean(by_seed) for power, by_seed in sorted(found.items())}

    def _mean(self, by_seed: dict[int, float | None]) -> float | None:
        values = [by_seed.get(seed) for seed in self.seeds]
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    def is_unfinished(self, arm: str, power: int) -> bool:
        """Whether an arm was not trained with each seed yet at some rate, and failed with none."""
        there = [run for run in self.of(arm) if rates.power_of(self.rate, run.rate) == power]
        return len(there) < len(self.seeds) and all(run.error is None for run in there)

    def chosen(self, arm: str) -> float | None:
        """The learning rate with the best mean; None where at each one a seed failed."""
        power = rates.best(self.means(arm), self.primary.higher_is_better)
        return None if power is None else rates.rate(self.rate, power)

    def best(self, arm: str) -> dict[int, Result]:
        """The runs of an arm at its chosen rate, by seed; empty where there is none."""
        rate = self.chosen(arm)
        return {run.seed: run for run in self.of(arm) if run.rate == rate}

    def write(self, folder: Path) -> None:
        mapping = self.model_dump(mode="json", exclude_none=True)
        lines = ",\n".join(f"  {json.dumps(run)}" for run in mapping.pop("runs"))
        head = json.dumps(mapping, indent=1).removesuffix("\n}")
        text = f'{head},\n "runs": [\n{lines}\n ]\n}}'
        write_atomically(folder / FILE, (text + "\n").encode())


def read_results(place: Path) -> Results:
    """From a study's folder, or a file; BadInputError where there is none, or it is damaged."""
    path = place / FILE if place.is_dir() else place
    try:
        mapping = json.loads(path.read_bytes().decode("utf-8"))
    except OSError as error:
        if (place / PLAN).is_file() and not path.exists():
            raise BadInputError(
                f"{place}: no run of this study is done yet; go on with {command('study', '--resume', place)}"
            ) from error
        raise BadInputError(
            f"{path}: cannot be read: {error.strerror}; give a study's folder or its {FILE}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: is no JSON: {error}; give a study's folder or its {FILE}") from error
    if not isinstance(mapping, dict):
        raise BadInputError(f"{path}: is no {FILE} of a study; give a study's folder or its {FILE}")
    results = config_from_mapping(Results, mapping, str(path))
    _require_sound(results, path)
    return results


def _require_sound(results: Results, path: Path) -> None:
    """BadInputError for runs that are none of this study's."""
    names, seen = {arm.name for arm in results.arms}, set()
    for part, given in (("arms", [arm.name for arm in results.arms]), ("seeds", results.seeds)):
        if len(set(given)) < len(given):
            raise BadInputError(f"{path}: {part}: one of them is there twice")
    if strange := [size for size in results.sizes if f"{SIZE}{size}" not in names]:
        raise BadInputError(f"{path}: sizes: there is no arm {SIZE}{strange[0]} in it")
    for number, run in enumerate(results.runs):
        place = f"{path}: runs[{number}]"
        if run.arm not in names:
            raise BadInputError(f"{place}.arm: there is no arm {run.arm!r} in it")
        if run.seed not in results.seeds:
            raise BadInputError(f"{place}.seed: {run.seed} is none of its seeds")
        try:
            key = (run.arm, rates.power_of(results.rate, run.rate), run.seed)
        except ValueError as error:
            raise BadInputError(f"{place}.rate: {error}") from error
        if key in seen:
            raise BadInputError(f"{place}: a run of the same arm, rate and seed is there before")
        seen.add(key)


def result_of(run: Run, arm: str, rate: float, seed: int, tokens: int | None, batch_size: int) -> Result:
    """What a finished run came to; ``tokens`` are those of a row, where the rows are of tokens.

    BadInputError where its record is damaged.
    """
    summary, info = run.read_summary(), run.read_info()
    try:
        name, seconds, git = summary["primary"]["name"], summary["seconds"], info.get("git")
        cpu = seconds.get("training_cpu")
        return Result(
            arm=arm,
            rate=rate,
            seed=seed,
            validation=summary["validation"][name],
            test=summary["test"][name],
            steps=summary["steps"],
            samples=float(summary["steps"] * batch_size * (tokens or 1)),
            parameters=summary["parameters"]["final"],
            orders=list(summary["orders"]["final"].values()),
            flops=float(summary["flops"]["training"]),
            seconds=seconds["total"],
            hindrance=seconds["training"] / cpu if cpu else None,
            commit=None if git is None else git["commit"] + ("+" if git["dirty"] else ""),
            machine=_machine(info),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInputError(f"{run.folder}: the run's record is damaged: {error!r}") from error


def _machine(info: dict[str, Any]) -> str | None:
    device, load = info.get("device") or {}, info.get("load") or {}
    if not device:
        return None
    return f"{device.get('name')}, {device.get('threads')} of {load.get('cores')} threads, torch {torch_of(info)}"


def torch_of(info: dict[str, Any]) -> str:
    return str((info.get("versions") or {}).get("torch"))


def ordered(runs: Iterable[Result], arms: Iterable[str]) -> list[Result]:
    """In the order of the arms, then by rate and seed."""
    rank = {name: number for number, name in enumerate(arms)}
    return sorted(runs, key=lambda run: (rank[run.arm], run.rate, run.seed))
