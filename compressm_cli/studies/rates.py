"""Which learning rates an arm is trained with: a grid by factors of two, as far out as its best one asks for."""

import math
from collections.abc import Mapping

FACTOR = 2.0
MOST_EXTENSIONS = 4
"""Rates that are added to a grid at most."""
LARGEST_RATE = 10.0
"""As in a recipe."""

Means = Mapping[int, float | None]
"""Of the primary metric on the validation split over the seeds, by the factor's power; None where a seed failed."""


def start(count: int) -> list[int]:
    """The powers of the factor in a grid of so many rates around the recipe's; of an even number one more above it."""
    return list(range(-((count - 1) // 2), count // 2 + 1))


def rate(base: float, power: int) -> float:
    """The learning rate; exact, since the factor is two."""
    return base * FACTOR**power


def power_of(base: float, value: float) -> int:
    """Which power a rate is of; ValueError where it is none."""
    power = round(math.log2(value / base))
    if not math.isclose(rate(base, power), value, rel_tol=1e-9):
        raise ValueError(f"{value:g} is no power of {FACTOR:g} times {base:g}")
    return power


def best(means: Means, higher_is_better: bool) -> int | None:
    """The power with the best mean; of equal ones that in the middle. None where there is no mean."""
    known = {power: mean for power, mean in means.items() if mean is not None}
    if not known:
        return None
    sign = 1 if higher_is_better else -1
    middle = (min(means) + max(means)) / 2
    return max(known, key=lambda power: (sign * known[power], -abs(power - middle)))


def _plateau(means: Means, higher_is_better: bool) -> tuple[int, int] | None:
    """The smallest and the largest power with the best mean."""
    found = best(means, higher_is_better)
    if found is None:
        return None
    equal = [power for power, mean in means.items() if mean == means[found]]
    return min(equal), max(equal)


def is_bracketed(means: Means, higher_is_better: bool) -> bool:
    """Whether a worse rate, or one that failed, lies on both sides of the best; an equal one is not worse."""
    found = _plateau(means, higher_is_better)
    return found is not None and min(means) < found[0] and found[1] < max(means)


def extension(means: Means, higher_is_better: bool, count: int, base: float) -> int | None:
    """The power to be tried next, beyond the edge that is best; None where the grid, of ``count`` at first, is done.

    A grid of a single rate is not extended: who asks for one wants no search.
    """
    found = _plateau(means, higher_is_better)
    if found is None or count == 1 or len(means) >= count + MOST_EXTENSIONS:
        return None
    lowest, highest = found
    if highest == max(means) and rate(base, highest + 1) <= LARGEST_RATE:
        return highest + 1
    return lowest - 1 if lowest == min(means) else None
