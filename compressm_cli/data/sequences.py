"""Columns whose cells are lists of numbers: a series each."""

from array import array
from collections.abc import Sequence
from types import NoneType
from typing import Any

import numpy as np

from compressm_cli.core.text import counted, described, shorten
from compressm_cli.data.columns import LARGEST, Column, Place, not_a_number
from compressm_cli.data.flat import SERIES_ROWS, Gathered
from compressm_cli.data.padding import end_of
from compressm_cli.data.rows import AsTheyLie
from compressm_cli.data.sources import Cells


class Sequences(Column[Sequence[np.ndarray]]):
    """Of each row a series (steps, channels) float64: a list of numbers, one a step, or of lists of them.

    At its end there may be steps that fill it up, of NaN in all channels (null in json).
    """

    def __init__(self, filled: bool = True) -> None:
        """``filled`` false says that no series is filled up: their lengths are known."""
        super().__init__()
        self._filled = filled
        self._series = Gathered(SERIES_ROWS)
        self._lying: list[np.ndarray] = []
        """Parts of arrays that are somewhere as a whole."""
        self._channels: int | None = None
        self.ends = array("q")
        """Of each row, the steps before those that fill it up."""

    def add(self, cells: Cells, place: Place) -> None:
        if isinstance(cells, AsTheyLie):
            self._lying += self._checked(cells.arrays, place)
        else:
            self._series.add(self._checked(cells, place))

    def _checked(self, cells: Sequence[Any] | np.ndarray, place: Place) -> list[np.ndarray]:
        found = []
        for row, cell in enumerate(cells):
            if not isinstance(cell, list | np.ndarray):
                raise place.error(row, _not_a_list(cell))
            series = _series(cell, row, place)
            exact = series.astype(np.float64, copy=False)
            end = end_of(exact) if self._filled else len(exact)
            if not end:
                raise place.error(row, "all numbers are missing or NaN; a series has a step at least")
            _require_usable(exact[:end], row, place)
            self.ends.append(end)
            self._channels = self._channels or series.shape[1]
            if series.shape[1] != self._channels:
                raise place.error(
                    row, f"{counted(series.shape[1], 'channel')}, and the first row has {self._channels}"
                )
            found.append(series)
        return found

    @property
    def values(self) -> Sequence[np.ndarray]:
        return AsTheyLie(self._lying) if self._lying else _as_float64(self._series.content())

    def drained(self) -> Sequence[np.ndarray]:
        """Those that were added since it was asked last; they are none of the values any more."""
        lying, self._lying = self._lying, []
        return AsTheyLie(lying) if lying else _as_float64(self._series.drained())


def _as_float64(series: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    """Whatever types they were read in."""
    return AsTheyLie(series) if isinstance(series, list) else series


def _not_a_list(cell: Any) -> str:
    if cell is None:
        return "the cell is empty"
    hint = " (a text that looks like a list is none)" if isinstance(cell, str) and "[" in cell else ""
    return f"{shorten(cell)} is not a list of numbers, one a step{hint}"


def _series(cell: list[Any] | np.ndarray, row: int, place: Place) -> np.ndarray:
    """(steps, channels), of a list of numbers or of lists of one length float64, of an array like that as it is."""
    if len(cell) == 0:
        raise place.error(row, "the list is empty; a series has a step at least")
    values = _array(cell, row, place) if isinstance(cell, list) else cell
    series = values[:, None] if values.ndim == 1 else values
    if series.shape[1] == 0:
        raise place.error(row, "its steps are empty lists; a step has a number at least")
    return series


def _require_usable(series: np.ndarray, row: int, place: Place) -> None:
    unusable = np.argwhere(~(np.abs(series) <= LARGEST))
    if len(unusable):
        step, channel = unusable[0]
        told = "missing or NaN" if np.isnan(series[step, channel]) else "too large for single precision"
        raise place.error(row, f"step {step + 1}: the number is {told}")


def _array(cell: list[Any], row: int, place: Place) -> np.ndarray:
    """The same of a list: (steps,) or (steps, channels)."""
    nested = isinstance(cell[0], list)
    width = len(cell[0]) if nested else 1
    for number, step in enumerate(cell, start=1):
        if isinstance(step, list) != nested or (nested and len(step) != width):
            told, first = (
                f"{len(s)} numbers" if isinstance(s, list) else described(s) for s in (step, cell[0])
            )
            raise place.error(row, f"step {number} has {told}, and the first step {first}")
        values = step if nested else (step,)
        if not set(map(type, values)) <= {int, float, NoneType}:
            strange = next(value for value in values if type(value) not in (int, float, NoneType))
            raise place.error(row, f"step {number}: {not_a_number(strange)}")
    try:
        return np.array(cell, dtype=np.float64)
    except OverflowError:
        raise place.error(row, "a number is too large for single precision") from None
