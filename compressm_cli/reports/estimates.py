"""Means over seeds and their 95 % intervals."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import bdtr, stdtrit

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean or median and its 95 % interval; ``low`` and ``high`` are None where ``count`` is too small."""

    value: float
    low: float | None
    high: float | None
    count: int
    """How many numbers it is made from."""

    @property
    def margin(self) -> float | None:
        """Half the width of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def mean(values: Sequence[float]) -> Estimate:
    """Mean and Student's t-interval; one value has no interval."""
    center, n = statistics.fmean(values), len(values)
    if n < 2:
        return Estimate(center, None, None, n)
    half = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(center, center - half, center + half, n)


def difference(ours: Sequence[float], theirs: Sequence[float]) -> Estimate:
    """Difference of the means of two independent samples, with Welch's t-interval.

    Without an interval where one side has a single value.
    """
    center = statistics.fmean(ours) - statistics.fmean(theirs)
    count = min(len(ours), len(theirs))
    if count < 2:
        return Estimate(center, None, None, count)
    parts = [statistics.variance(side) / len(side) for side in (ours, theirs)]
    if sum(parts) == 0:
        return Estimate(center, center, center, count)
    # Welch and Satterthwaite's degrees of freedom.
    freedom = sum(parts) ** 2 / sum(p**2 / (len(s) - 1) for p, s in zip(parts, (ours, theirs), strict=True))
    half = float(stdtrit(freedom, (1 + CONFIDENCE) / 2)) * math.sqrt(sum(parts))
    return Estimate(center, center - half, center + half, count)


def median(values: Sequence[float]) -> Estimate:
    """Median and its distribution-free interval from order statistics (at least 95 %; needs 6 values)."""
    ordered, n = sorted(values), len(values)
    center = statistics.median(ordered)
    # The k-th smallest and the k-th largest enclose the median unless fewer than k values lie on one side of
    # it: the largest k for which both together have at most 5 % probability.
    k = sum(1 for j in range(n // 2) if 2 * bdtr(j, n, 0.5) <= 1 - CONFIDENCE)
    if k == 0:
        return Estimate(center, None, None, n)
    return Estimate(center, ordered[k - 1], ordered[n - k], n)
