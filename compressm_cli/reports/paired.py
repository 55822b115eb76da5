"""Two models on the same items: how they differ, how sure that is, and what it excludes."""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from scipy.optimize import brentq
from scipy.special import bdtr

from compressm_cli.core.errors import BadInputError
from compressm_cli.reports.estimates import CONFIDENCE, mean
from compressm_cli.reports.task_results import Item, ModelResult, TaskResult

QUANTILE = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
NEARLY = 1 - 1e-12


@dataclass(frozen=True)
class Paired:
    """One metric of two models on the same items."""

    task: str
    metric: str
    is_share: bool
    """Whether it is the share of items that are right; then differences are shares too."""
    items: int
    baseline: float | None
    other: float | None
    difference: float | None
    """Other less baseline."""
    low: float | None
    high: float | None
    """Its 95 % interval; None with a ``reason``."""
    only_baseline: int | None
    only_other: int | None
    """Items that one of them alone has right; None of other metrics."""
    p_value: float | None
    """McNemar's exact test, two-sided; None of other metrics."""
    reason: str | None = None
    """Why there is no interval."""

    def verdict(self, margin: float) -> str | None:
        """What follows, with a loss of ``margin`` (a share) as the largest that does not matter; None of other metrics
        than shares."""
        if not self.is_share or self.low is None or self.high is None or self.difference is None:
            return None
        most = f"{-self.low * 100:.1f} points"
        if self.low <= -margin:
            if self.high < 0:
                return f"a loss of {-self.difference * 100:.1f} points; it may be {most}"
            return f"not enough items to tell: a loss up to {most} cannot be excluded"
        if self.high < 0:
            return f"a loss, of at most {most}, within the margin of {margin * 100:g}"
        if self.low > 0:
            return f"a gain of {self.difference * 100:.1f} points"
        return f"no measurable loss: one of more than {margin * 100:g} points is excluded"


def paired(baseline: ModelResult, other: ModelResult) -> list[Paired]:
    """Each metric of each task of two models.

    Raises BadInputError where they were not asked the same tasks, with the same items.
    """
    names = [[task.task for task in model.tasks] for model in (baseline, other)]
    if sorted(names[0]) != sorted(names[1]):
        raise BadInputError(
            f"{baseline.model} was asked {', '.join(names[0])}, and {other.model} {', '.join(names[1])}; "
            "compare results of the same tasks"
        )
    theirs = {task.task: task for task in other.tasks}
    return [found for task in baseline.tasks for found in _of_task(task, theirs[task.task], baseline, other)]


def _of_task(one: TaskResult, two: TaskResult, baseline: ModelResult, other: ModelResult) -> list[Paired]:
    if one.hash != two.hash:
        shots = "" if one.shots == two.shots else f", with {one.shots} and {two.shots} examples"
        raise BadInputError(
            f"{one.task}: {baseline.model} and {other.model} were asked different items ({one.count:,} and "
            f"{two.count:,}{shots}); ask both with the same files, --limit, --seed and --shots"
        )
    ours, theirs = (sorted(task.items, key=lambda item: item.id) for task in (one, two))
    metrics = [score.metric for score in two.scores]
    return [_of_metric(one, two, s.metric, ours, theirs) for s in one.scores if s.metric in metrics]


def _of_metric(one: TaskResult, two: TaskResult, metric: str, ours: list[Item], theirs: list[Item]) -> Paired:
    scores = one.score(metric), two.score(metric)
    values = [[item.values.get(metric) for item in items] for items in (ours, theirs)]
    a, b = ([value for value in side if value is not None] for side in values)
    before, after = scores[0].value, scores[1].value
    is_share = scores[0].is_share and scores[1].is_share
    difference = None if before is None or after is None else after - before
    found = Paired(one.task, metric, is_share, len(ours), before, after, difference, *(None,) * 5)
    if len(a) != len(ours) or len(b) != len(theirs) or len(ours) < 2:
        return replace(found, reason="it is of all items together, with no values of each")
    if not is_share:
        within = mean([y - x for x, y in zip(a, b, strict=True)])
        if difference is None or not math.isclose(within.value, difference, rel_tol=1e-6, abs_tol=1e-9):
            return replace(found, reason="it is no mean over the items")
        return replace(found, low=within.low, high=within.high)
    lost = sum(x > y for x, y in zip(a, b, strict=True))
    won = sum(y > x for x, y in zip(a, b, strict=True))
    low, high = score_interval(len(ours), won, lost)
    return replace(found, low=low, high=high, only_baseline=lost, only_other=won, p_value=mcnemar(won, lost))


def mcnemar(one: int, two: int) -> float:
    """The two-sided exact test of McNemar (1947): that either count of discordant pairs is as probable."""
    total = one + two
    return min(1.0, 2 * float(bdtr(min(one, two), total, 0.5))) if total else 1.0


def score_interval(items: int, won: int, lost: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two shares of the same items: Tango's score interval (1998).

    ``won`` and ``lost`` are the discordant items. Unlike the normal one it keeps its level at few discordant items, and
    is no point where there are none.
    """

    def statistic(difference: float) -> float:
        b = -won - lost + (2 * items - won + lost) * difference
        c = -lost * difference * (1 - difference)
        nuisance = (math.sqrt(max(b * b - 8 * items * c, 0.0)) - b) / (4 * items)
        variance = items * (2 * nuisance + difference * (1 - difference))
        return (won - lost - items * difference) / math.sqrt(max(variance, 1e-300))

    center = (won - lost) / items  # where it is 0; it falls from one end to the other
    low = -1.0 if lost == items else brentq(lambda d: statistic(d) - QUANTILE, -NEARLY, center)
    high = 1.0 if won == items else brentq(lambda d: statistic(d) + QUANTILE, center, NEARLY)
    return float(low), float(high)
