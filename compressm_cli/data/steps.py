"""The steps of series one after another, of which some are in memory at a time, and sums over them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from compressm_cli.data.rows import lengths_of

PART = 2**17
"""Numbers that are in memory at once; 128 or more, which NumPy adds without halving them."""


class Steps:
    """(steps of all, channels) float64, of series (steps, channels)."""

    def __init__(self, series: Sequence[Any]) -> None:
        self._series = series
        self._ends = np.cumsum(lengths_of(series))
        self.shape = (int(self._ends[-1]), series[0].shape[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, place: slice) -> np.ndarray:
        start, stop, _ = place.indices(len(self))
        first, last = np.searchsorted(self._ends, [start, stop - 1], side="right").tolist()
        pieces = []
        for row in range(first, last + 1):
            begin = int(self._ends[row - 1]) if row else 0
            pieces.append(self._series[row][max(0, start - begin) : stop - begin])
        return np.concatenate(pieces, dtype=np.float64)


def sums_of(
    values: np.ndarray | Steps, of: Callable[[np.ndarray], np.ndarray] = lambda part: part
) -> np.ndarray:
    """(columns,): ``of(values).sum(axis=0)`` of (rows, columns), as NumPy adds what is one array, bit for bit."""
    if isinstance(values, np.ndarray):
        found: np.ndarray = of(values).sum(axis=0)
        return found
    if values.shape[1] == 1:
        return _in_halves(values, 0, len(values), of)
    total = np.empty((0, values.shape[1]))
    for part in _parts(values):
        # Numbers that are not beside each other are added row after row.
        total = np.concatenate([total, of(part)]).sum(axis=0, keepdims=True)
    return total[0]


def _in_halves(values: Steps, start: int, stop: int, of: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Numbers that are beside each other are added in halves, of which the first is a multiple of eight."""
    if stop - start <= PART:
        found: np.ndarray = of(values[start:stop]).sum(axis=0)
        return found
    half = (stop - start) // 2
    middle = start + half - half % 8
    return _in_halves(values, start, middle, of) + _in_halves(values, middle, stop, of)


def largest_of(values: np.ndarray | Steps) -> np.ndarray:
    """(columns,), the largest absolute value of each."""
    parts = [values] if isinstance(values, np.ndarray) else _parts(values)
    ends = [np.maximum(part.max(axis=0), -part.min(axis=0)) for part in parts]
    found: np.ndarray = np.max(ends, axis=0)
    return found


def _parts(values: Steps) -> Iterator[np.ndarray]:
    rows = max(1, PART // values.shape[1])
    return (values[start : start + rows] for start in range(0, len(values), rows))
