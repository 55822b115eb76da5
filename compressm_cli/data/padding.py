"""Series that were filled up to one length: steps at the end that are NaN in all channels are no part of them.

In the middle NaN is a number that is missing, and an error. So it is at the end of series that differ in length as they
stand, which nobody needs to fill up, and in columns that are no steps by their names.
"""

import re
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from compressm_cli.data.patterns import natural

NUMBER = re.compile(r"\d+")


def end_of(series: np.ndarray) -> int:
    """How many steps of (steps, channels) there are before those that fill it up."""
    if not np.isnan(series[-1]).all():
        return len(series)
    steps = np.flatnonzero(~np.isnan(series).all(axis=1))
    return int(steps[-1]) + 1 if len(steps) else 0


def are_steps(columns: Sequence[str]) -> bool:
    """Whether names of columns differ in whole numbers that rise, as t0, t1, t2 do."""
    alike = len({NUMBER.sub("", name) for name in columns}) == 1
    return alike and all(natural(one) < natural(two) for one, two in pairwise(columns))
