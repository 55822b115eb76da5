"""Rows as they stand in the user's files, before a model's encoding makes tensors of them."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np

Kind = Literal["texts", "pairs", "series", "images", "audio", "tokens"]
PAIRED = b"\xff"
"""What stands between the two texts of a pair: no byte of UTF-8."""
T = TypeVar("T", bytes, np.ndarray)


class Named(Sequence[str]):
    """What rows are called, as it is asked for: a text for each of them would take more memory than many rows."""

    def __init__(self, name: Callable[[int], str], rows: Sequence[int] | np.ndarray) -> None:
        self._name, self._rows = name, rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "Named": ...
    def __getitem__(self, index: int | slice) -> "str | Named":
        if isinstance(index, slice):
            return Named(self._name, self._rows[index])
        return self._name(int(self._rows[index]))


class OnDemand(Sequence[T]):
    """Content that is decoded row by row when it is asked for: all of it may be far larger than the memory."""

    def lengths(self) -> np.ndarray:
        """(rows,) int64, the steps of each."""
        return np.array([len(row) for row in self], dtype=np.int64)

    @abstractmethod
    def decoded(self, row: int) -> T:
        """One row; BadInputError where it cannot be decoded, with its place."""

    @abstractmethod
    def taken(self, rows: Sequence[int] | np.ndarray) -> Self:
        """Some of the rows, none of them decoded."""

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> "T | Self":
        if isinstance(index, slice):
            return self.taken(range(*index.indices(len(self))))
        return self.decoded(index)


class AsTheyLie(OnDemand[np.ndarray]):
    """Series (steps, channels), of whatever type a file has them in; float64 when they are asked for."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays)

    def lengths(self) -> np.ndarray:
        return np.array([len(array) for array in self.arrays], dtype=np.int64)

    def decoded(self, row: int) -> np.ndarray:
        return self.arrays[row].astype(np.float64, copy=False)

    def taken(self, rows: Sequence[int] | np.ndarray) -> "AsTheyLie":
        return AsTheyLie([self.arrays[row] for row in rows])

    def cut(self, lengths: np.ndarray) -> "AsTheyLie":
        """As many steps of each, from its beginning."""
        return AsTheyLie(
            [array[:length] for array, length in zip(self.arrays, lengths.tolist(), strict=True)]
        )


@dataclass(frozen=True)
class Rows:
    """What a file or folder holds, row by row."""

    source: str
    """The file or folder, as messages name it."""
    kind: Kind
    content: Sequence[bytes] | Sequence[np.ndarray]
    """Of each row: a text in UTF-8, or two with ``PAIRED`` between them; a series (steps, channels) float64; an image
    (height, width, channels) uint8, grey, grey with alpha, RGB or RGBA; tokens (steps,) of any integer type; of
    ``audio`` they are ``Recordings``."""
    names: Sequence[str] | None = None
    """What the rows are called: files, or ids; None where they have their numbers alone, from 1."""
    labels: Sequence[str] | None = None
    """The class of each row, as it stands there; None where none is read."""
    targets: np.ndarray | None = None
    """(rows, targets) float64, real numbers to be said of each row, or (rows, steps, targets), of each of its steps;
    None where none are read."""
    step_targets: Sequence[np.ndarray] | None = None
    """Of each series that is to be forecast: (steps, targets) float64, what is to be said before each step."""
    channels: Sequence[str] | None = None
    """The names of the channels of series."""
    named: bool = False
    """Whether channels are columns of a table, and their names those of these."""
    columns: Sequence[str] | None = None
    """Of series whose steps are columns of a table: their names."""
    unused: Sequence[str] | None = None
    """The columns of a table that are not read."""
    files: Sequence[str] = ()
    """The files of a table."""
    target_names: Sequence[str] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files or rows are not taken, by the reason."""
    filled: int = 0
    """How many series were filled up with NaN, which was taken off."""
    warnings: Sequence[str] = ()
    """What looks wrong in how they stand there, a clause each."""

    def __len__(self) -> int:
        return len(self.content)

    def name(self, row: int) -> str:
        """What a row is called, counted from 0."""
        return str(row + 1) if self.names is None else self.names[row]

    def taken(self, rows: Sequence[int] | np.ndarray) -> "Rows":
        """Some of the rows, called as they are here."""
        whole = self.content
        content: Any = whole.taken(rows) if isinstance(whole, OnDemand) else [whole[row] for row in rows]
        return replace(
            self,
            content=content,
            names=Named(self.name, rows),
            labels=None if self.labels is None else [self.labels[row] for row in rows],
            targets=None if self.targets is None else self.targets[np.asarray(rows)],
        )


def lengths_of(content: Sequence[bytes] | Sequence[np.ndarray]) -> np.ndarray:
    """(rows,) int64, the steps of each."""
    if isinstance(content, OnDemand):
        return content.lengths()
    return np.array([len(row) for row in content], dtype=np.int64)
