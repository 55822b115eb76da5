"""One metric of all arms of a comparison, and how each differs from the first."""

from dataclasses import dataclass

from compressm_cli.core.quantities import Unit
from compressm_cli.reports.arms import Arm, Member, common_seeds
from compressm_cli.reports.differences import apart
from compressm_cli.reports.estimates import Estimate, difference, mean
from compressm_cli.reports.metrics import Metric


@dataclass(frozen=True)
class Value:
    """One metric of one arm: mean over its seeds, or the reason why there is none."""

    mean: Estimate | None
    by_run: list[float | None]
    reason: str | None
    note: str | None = None
    """What makes it doubtful."""


@dataclass(frozen=True)
class Change:
    """One metric of one arm against the baseline's."""

    difference: Estimate | None
    """Of scores, such as accuracies, and of what was measured; in shares (0.01 is one point) where they are; paired by
    seed where the seeds match."""
    ratio: float | None
    """This arm's mean over the baseline's, for all but shares."""
    basis: str
    """How it was made: ``paired by seed (3 seeds)``, ``one seed: no interval``, ..."""
    ratio_low: float | None = None
    ratio_high: float | None = None
    """The 95 % interval of the difference, as one of the ratio: relative to the baseline's mean. None without one."""

    @property
    def is_clear(self) -> bool | None:
        """Whether the interval of the ratio leaves no change out; None without one."""
        if self.ratio_low is None or self.ratio_high is None:
            return None
        return not self.ratio_low <= 1 <= self.ratio_high


@dataclass(frozen=True)
class Row:
    """One metric of all arms; entries of ``values`` and ``changes`` are in their order."""

    key: str
    title: str
    unit: Unit
    higher_is_better: bool
    measured: bool
    score: bool
    """A metric of the objective, by which models are judged."""
    values: list[Value]
    changes: list[Change | None]
    """None for the baseline, where a value is missing, and where the two cannot be compared."""
    apart: list[str | None]
    """Why an arm cannot be compared with the baseline; None for the others."""


def make_row(metric: Metric, arms: list[Arm]) -> Row:
    """Read a metric of every model and compare each arm with the first."""
    readings = [[metric.read(m) for m in arm.members] for arm in arms]
    values = []
    for arm, members in zip(readings, (s.members for s in arms), strict=True):
        numbers = [value for value, _ in arm]
        known = [v for v in numbers if v is not None]
        missing = list(dict.fromkeys(reason for _, reason in arm if reason))
        whole = mean(known) if len(known) == len(numbers) else None
        note = _hindered(members) if metric.timed and whole is not None else None
        values.append(Value(whole, numbers, "; ".join(missing) or None, note))
    reasons = [apart(arms[0], arm) if metric.of_data else None for arm in arms[1:]]
    changes = [
        None if reason else _change(metric, arms[0], arm, values[0], value)
        for arm, value, reason in zip(arms[1:], values[1:], reasons, strict=True)
    ]
    return Row(
        metric.key,
        metric.title,
        metric.unit,
        metric.higher_is_better,
        metric.measured,
        metric.score,
        values,
        [None, *changes],
        [None, *(reason and f"trained on other data: {reason}" for reason in reasons)],
    )


def _hindered(members: list[Member]) -> str | None:
    """What is to be said of times that were taken while the machine was busy."""
    found = [f"seed {m.seed}: {m.hindrance:.1f} s" for m in members if m.hindrance is not None]
    if not found:
        return None
    return (
        "Taken while the machine was busy with other work, so no time to compare by (for each second of processor time "
        f"{', '.join(found)})."
    )


def _change(metric: Metric, baseline: Arm, other: Arm, theirs: Value, ours: Value) -> Change | None:
    if theirs.mean is None or ours.mean is None:
        return None
    ratio = ours.mean.value / theirs.mean.value if theirs.mean.value else None
    if not metric.score and not metric.measured:
        return Change(
            None, ratio, "ratio of the means" if ours.mean.count + theirs.mean.count > 2 else "one run each"
        )
    estimate, basis = _difference(baseline, other, theirs, ours)
    if metric.unit == "share" or ratio is None:
        return Change(estimate, None, basis)
    return Change(estimate, ratio, basis, *_around(ratio, estimate, theirs.mean.value))


def _around(ratio: float, found: Estimate, baseline: float) -> tuple[float | None, float | None]:
    """The interval of a difference as one of a ratio: in the baseline's mean, and no less than nothing."""
    if found.low is None or found.high is None or baseline <= 0:
        return None, None
    low, high = ((end - found.value) / baseline for end in (found.low, found.high))
    return max(0.0, ratio + low), ratio + high


def _difference(baseline: Arm, other: Arm, theirs: Value, ours: Value) -> tuple[Estimate, str]:
    before = {m.seed: v for m, v in zip(baseline.members, theirs.by_run, strict=True) if v is not None}
    after = {m.seed: v for m, v in zip(other.members, ours.by_run, strict=True) if v is not None}
    seeds = common_seeds(baseline, other)
    if len(seeds) > 1:
        return mean([after[s] - before[s] for s in seeds]), f"paired by seed ({len(seeds)} seeds)"
    estimate = difference(list(after.values()), list(before.values()))
    if estimate.low is not None:
        return estimate, f"unpaired ({len(after)} and {len(before)} seeds)"
    if len(after) == len(before) == 1:
        return estimate, "one seed: no interval"
    return estimate, f"{len(after)} and {len(before)} seeds: no interval"
