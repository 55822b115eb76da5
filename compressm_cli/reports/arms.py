"""What a comparison is between: trained models, grouped by the recipe they share."""

from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, command
from compressm_cli.core.validation import LATEST, described, is_count, is_number
from compressm_cli.data.interface import Fingerprint
from compressm_cli.engine.origins import recipe_of
from compressm_cli.engine.same_data import recorded
from compressm_cli.exchange.loading import load
from compressm_cli.exchange.networks import with_length
from compressm_cli.exchange.places import is_model_folder
from compressm_cli.measure.clock import STARVED
from compressm_cli.objectives import objective_type, primary_of
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run

SUMMARY_FORMATS = (1, 2)
"""1 knew the accuracy alone; 2 says what its metric is."""
WHOLE = (
    "steps", "processes", "rollbacks", "checks.made", "checks.cut", "checks.rejected", "parameters.start",
    "validation.best_step",
)  # fmt: skip
"""Entries of a record that are whole numbers, where they are there; nothing is shown of most of them."""
AMOUNTS = (
    "flops.training_start_per_step", "flops.training_final_per_step", "flops.inference_start_per_sequence",
    "step_seconds.start", "step_seconds.final", "joules.value", "peak_memory.bytes",
)  # fmt: skip
"""Those that are null or numbers of at least 0."""
LARGEST = 1e100
"""Of any number in the record of a run; its square is one, too."""


@dataclass(frozen=True)
class Member:
    """One trained model: a finished run, or a checkpoint or a folder of another library alone (then ``run`` and
    ``summary`` are None)."""

    path: Path
    recipe: Recipe
    seed: int | None
    checkpoint_path: Path
    run: Run | None = None
    info: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] | None = None

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """The finished model; BadInputError where it is missing or damaged."""
        return Checkpoint.load(self.checkpoint_path)

    @cached_property
    def model(self) -> nn.Module:
        """The finished model, on the CPU; BadInputError where its checkpoint is missing or damaged."""
        return self.checkpoint.build_model()

    @property
    def is_folder(self) -> bool:
        """Whether it is a model of another library, which tells nothing of its training."""
        return self.run is None and self.path.is_dir()

    @property
    def unrecorded(self) -> str:
        """Why there is no record of a training."""
        if self.is_folder:
            return "a folder of another library does not record it"
        return "a checkpoint alone does not record it; give the run folder"

    @property
    def unjudged(self) -> str | None:
        """Why a score on its data says nothing of it; None where it does."""
        if self.is_folder:
            return "a folder of another library has no data of its own; a text judges it: --data FILE"
        return self.recipe.data.unjudged()

    @property
    def hindrance(self) -> float | None:
        """Seconds of training for each second of processor time, where other work on the machine was in its way."""
        if "training_cpu" not in (self.summary or {}).get("seconds", {}):
            return None
        cpu, wall = self.amount("seconds.training_cpu"), self.amount("seconds.training")
        if not cpu or wall is None or wall < STARVED * cpu:
            return None
        return wall / cpu

    @cached_property
    def fingerprint(self) -> Fingerprint | None:
        """Of the data that it was trained and judged on; None where that is not known."""
        return self.checkpoint.fingerprint if self.run is None else recorded(self.run, self.info)

    def recorded(self, key: str) -> Any:
        """An entry of summary.json by its dotted key; BadInputError where it is missing."""
        value: Any = self.summary
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                raise BadInputError(
                    f"{self.path / 'summary.json'}: has no entry {key!r}; the run's record is incomplete"
                )
            value = value[part]
        return value

    def number(self, key: str) -> float | None:
        """An entry that is a number, or null."""
        value = self.recorded(key)
        right = value is None or (is_number(value) and abs(value) <= LARGEST)
        self.require(right, key, f"null or a finite number up to {LARGEST:g}", value)
        return None if value is None else float(value)

    def mapping(self, key: str) -> dict[str, Any]:
        """An entry that is a mapping."""
        value = self.recorded(key)
        self.require(isinstance(value, dict), key, "a mapping", value)
        return dict(value)

    def amount(self, key: str) -> float | None:
        """An entry that is a number of no less than zero, or null."""
        value = self.number(key)
        self.require(value is None or value >= 0, key, "null or a number of at least 0", value)
        return value

    def counts(self, key: str) -> dict[str, int]:
        """An entry that has a whole number by each name, such as the order of each layer."""
        found = self.mapping(key)
        for name, count in found.items():
            self.require(is_count(count), f"{key}.{name}", "a whole number", count)
        return found

    def require(
        self, is_right: bool, key: str, wanted: str, value: object, file: str = "summary.json"
    ) -> None:
        """BadInputError unless an entry of the run's record is right."""
        if not is_right:
            raise BadInputError(
                f"{self.path / file}: {key} must be {wanted}, found {described(value)}; the run's record is damaged"
            )


@dataclass(frozen=True)
class Arm:
    """One column of a comparison: one model, or the same recipe's models with several seeds."""

    label: str
    path: Path
    members: list[Member]
    notes: list[str] = field(default_factory=list)
    """What was left out, and why."""

    @property
    def by_seed(self) -> dict[int, Member]:
        """The members whose seed is known."""
        return {m.seed: m for m in self.members if m.seed is not None}

    @property
    def is_folder(self) -> bool:
        return self.members[0].is_folder

    @property
    def is_checkpoint(self) -> bool:
        return self.members[0].run is None


def read_arms(paths: list[Path]) -> list[Arm]:
    """The arms that the arguments of a comparison mean, with distinct labels."""
    arms = [_read_arm(path) for path in paths]
    _settle_lengths(arms)
    counts = Counter(arm.label for arm in arms)
    seen: Counter[str] = Counter()
    named = []
    for arm in arms:
        seen[arm.label] += 1
        label = arm.label
        if counts[label] > 1:
            where = arm.members[0].path.name if len(arm.members) == 1 else str(seen[label])
            label = f"{label} {where}"
        named.append(Arm(label, arm.path, arm.members, arm.notes))
    if len({arm.label for arm in named}) < len(named):
        named = [Arm(f"{s.label} ({i})", s.path, s.members, s.notes) for i, s in enumerate(named, 1)]
    return named


def common_seeds(one: Arm, other: Arm) -> list[int]:
    """The seeds that both arms have, ascending."""
    return sorted(set(one.by_seed) & set(other.by_seed))


def _settle_lengths(arms: list[Arm]) -> None:
    """Let sequences of folders be as long as those of the first model that is none, else as all of them take.

    Raises BadInputError where they cannot: FLOPs and seconds of other sequences could not be compared.
    """
    folders = [arm for arm in arms if arm.is_folder]
    others = [arm for arm in arms if not arm.is_folder]
    if not folders:
        return
    data = [arm.members[0].checkpoint.data for arm in others]
    for arm, spec in zip(others, data, strict=True):
        if spec.vocabulary is None or not spec.per_step or spec.source is not None:
            raise BadInputError(
                f"{arm.path} is no language model, and {folders[0].path} is one: nothing of the two can be compared"
            )
    wanted = data[0].length if data else min(arm.members[0].checkpoint.data.length for arm in folders)
    for arm in folders:
        member = arm.members[0]
        found = with_length(member.checkpoint, wanted)
        if found.data.length < wanted:
            raise BadInputError(
                f"{arm.path}: takes {found.data.length} tokens at most, and sequences of {others[0].path} have "
                f"{wanted}: FLOPs and seconds of these cannot be compared"
            )
        member.__dict__["checkpoint"] = found


def _read_arm(path: Path) -> Arm:
    if is_model_folder(path):
        member = _held(path, load(path), None)
        return Arm(member.recipe.name, path, [member])
    if path.is_file():
        member = _read_checkpoint(path)
        return Arm(member.recipe.name, path, [member])
    runs = Run.find(path)
    if len(runs) == 1 and runs[0].folder == path.resolve():
        member = _read_run(runs[0])
        return Arm(member.recipe.name, path, [member])
    finished = [run for run in runs if _is_finished(run)]
    if not finished:
        raise BadInputError(f"{path}: none of its {len(runs)} runs has finished; compare needs finished runs")
    members: dict[int | None, Member] = {}
    for run in finished:
        member = _read_run(run)
        members[member.seed] = member
    notes = []
    if unfinished := len(runs) - len(finished):
        notes.append(f"{path}: {_runs(unfinished)} left out, not finished")
    if older := len(finished) - len(members):
        notes.append(f"{path}: {_runs(older)} left out, since a newer one has the same seed")
    chosen = sorted(members.values(), key=lambda m: (m.seed is None, m.seed))
    return Arm(chosen[0].recipe.name, path, chosen, notes)


def _read_run(run: Run) -> Member:
    info = run.read_info()
    if not _is_finished(run):
        raise BadInputError(
            f"{run.folder}: this run has not finished (status: {info.get('status', 'unknown')}); "
            f"compare needs finished runs. Finish it with: {command('train', '--resume', run.folder)}"
        )
    summary = run.read_summary()
    if summary.get("format") not in SUMMARY_FORMATS:
        raise BadInputError(
            f"{run.folder / 'summary.json'}: format {summary.get('format')!r}; "
            f"this version reads {' and '.join(map(str, SUMMARY_FORMATS))}"
        )
    recipe = recipe_of(run)
    member = Member(run.folder, recipe, summary.get("seed"), run.final_checkpoint, run, info, summary)
    _require_right(member, summary)
    return member


def _require_right(member: Member, summary: dict[str, Any]) -> None:
    """BadInputError where a part of the record is not what it must be; what is read of it alone is looked at then."""
    seeds, seed = member.recipe.seeds, summary.get("seed")
    wanted = f"{' or '.join(map(str, seeds))}, as its recipe says"
    member.require(type(seed) is int and seed in seeds, "seed", wanted, seed)
    for key in ("test", "validation", "seconds", "budget", "primary"):
        if summary.get(key) is not None:
            member.mapping(key)
    if summary.get("primary") is not None:
        known = primary_of(member.recipe).record()
        for key in ("name", "higher_is_better", "unit"):
            value = member.recorded(f"primary.{key}")
            wanted = f"{known[key]!r}, as its recipe says"
            member.require(value == known[key], f"primary.{key}", wanted, value)
    for key in WHOLE:
        if _has(summary, key):
            value = member.recorded(key)
            member.require(is_count(value, 0, LATEST), key, "a whole number", value)
    for key in (*AMOUNTS, *(f"seconds.{name}" for name in summary.get("seconds") or {})):
        if _has(summary, key):
            member.amount(key)
    for split in ("test", "validation"):
        _require_possible(member, split, summary.get(split) or {})


def _has(summary: dict[str, Any], key: str) -> bool:
    """Whether a record has an entry; earlier versions wrote fewer of them."""
    first, _, rest = key.partition(".")
    held = summary.get(first)
    return first in summary if not rest else held is not None and (not isinstance(held, dict) or rest in held)


def _require_possible(member: Member, split: str, told: dict[str, Any]) -> None:
    """BadInputError for a value on a split that its metric cannot have."""
    kind, primary = objective_type(member.recipe), primary_of(member.recipe)
    metrics = [*((m.name, m) for m in (*kind.METRICS, kind.LOSS)), (f"best_{primary.name}", primary)]
    for name, metric in metrics:
        if name in told and (value := member.number(key := f"{split}.{name}")) is not None:
            member.require(metric.is_possible(value), key, f"null or a number {metric.range}", value)


def _read_checkpoint(path: Path) -> Member:
    checkpoint = Checkpoint.load(path)
    seeds = checkpoint.recipe.seeds
    return _held(path, checkpoint, seeds[0] if len(seeds) == 1 else None)


def _held(path: Path, checkpoint: Checkpoint, seed: int | None) -> Member:
    member = Member(path.resolve(), checkpoint.recipe, seed, path)
    member.__dict__["checkpoint"] = checkpoint  # read once: this is where cached_property keeps it
    return member


def _is_finished(run: Run) -> bool:
    return (run.folder / "summary.json").is_file() and run.read_info().get("status") == "done"


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"
