"""The rows of the calibration batches that a selective layer is measured on."""

from itertools import accumulate
from typing import NamedTuple

from torch import Tensor

from compressm_cli.methods.calibration import Statistic

MOST_STEPS = 2048
"""Calibration steps that are used: a Gramian pools all channels or heads, so that some thousand steps fix it."""


class Rows(NamedTuple):
    """Some rows of what a layer saw."""

    u: Tensor
    """(rows, length, H)"""
    lengths: Tensor | None
    """(rows,), where rows are padded."""


class Excerpt(Statistic):
    """The first rows, at least one, as long as they have no more than ``MOST_STEPS`` steps without padding.

    They are kept, since a reduction looks at them several times; so it holds ``MOST_STEPS`` steps of H numbers, with
    the padding of the rows that they are in, whatever the batches are.
    """

    def __init__(self) -> None:
        self._rows: list[Rows] = []
        self._left = MOST_STEPS
        self._full = False

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        if self._full:
            return
        each = [u.shape[1]] * len(u) if lengths is None else lengths.tolist()
        fitting = sum(steps <= self._left for steps in accumulate(each))
        self._full = fitting < len(u)
        taken = fitting if fitting or self._rows else 1
        if taken:
            # A copy: a part of a tensor would keep all of it.
            self._rows.append(Rows(u[:taken].clone(), None if lengths is None else lengths[:taken].clone()))
        self._left -= sum(each[:taken])

    def result(self) -> list[Rows]:
        if not self._rows:
            raise ValueError("there are no calibration batches to measure a selective layer on")
        return self._rows
