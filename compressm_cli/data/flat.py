"""Rows as they are read: as they are while they are few, else one after another in a temporary file."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryFile
from typing import IO, Any, Generic, TypeVar

import numpy as np

from compressm_cli.data.mapped import Pages
from compressm_cli.data.rows import OnDemand

LIMIT = 2**26
"""Bytes that rows of a column take in memory; more of them are put into a temporary file."""
AT_ONCE = 2**22
"""Bytes that are put there at once."""
T = TypeVar("T", bytes, np.ndarray)


@dataclass(frozen=True)
class Packing(Generic[T]):
    """How rows are put one after another, and taken out again."""

    size: Callable[[T], int]
    """Bytes that a row takes in memory, about."""
    packed: Callable[[Sequence[T]], np.ndarray]
    """Rows -> (steps of all, ...), with a step for each of what ``len`` counts of a row."""
    unpacked: Callable[[np.ndarray], T]


TEXT_ROWS: Packing[bytes] = Packing(
    size=lambda text: len(text) + 40,
    packed=lambda texts: np.frombuffer(b"".join(texts), dtype=np.uint8),
    unpacked=lambda values: values.tobytes(),
)
SERIES_ROWS: Packing[np.ndarray] = Packing(
    size=lambda series: series.nbytes + 120,
    packed=lambda series: np.concatenate(series, dtype=np.float64),
    unpacked=lambda values: values,
)


class FlatRows(OnDemand[T]):
    """Rows that lie one after another in an array, which may be a file's; each is made when it is asked for."""

    def __init__(
        self, values: np.ndarray, starts: np.ndarray, lengths: np.ndarray, packing: Packing[T], pages: Pages
    ) -> None:
        """starts, lengths: (rows,) int64, where each row begins in ``values``, and its steps."""
        self._values, self._starts, self._lengths = values, starts, lengths
        self._packing: Packing[T] = packing
        self._pages = pages

    def __len__(self) -> int:
        return len(self._starts)

    def lengths(self) -> np.ndarray:
        return self._lengths

    def decoded(self, row: int) -> T:
        start = self._starts[row]
        values = self._values[start : start + self._lengths[row]]
        self._pages.read(1, values.nbytes)
        return self._packing.unpacked(values)

    def taken(self, rows: Sequence[int] | np.ndarray) -> "FlatRows[T]":
        taken = np.asarray(rows, dtype=np.int64)
        return FlatRows(self._values, self._starts[taken], self._lengths[taken], self._packing, self._pages)

    def cut(self, lengths: np.ndarray) -> "FlatRows[T]":
        """As many steps of each, from its beginning."""
        return FlatRows(self._values, self._starts, lengths, self._packing, self._pages)


class Gathered(Generic[T]):
    """Rows that are given some at a time; all of them together are its content."""

    def __init__(self, packing: Packing[T]) -> None:
        self._packing: Packing[T] = packing
        self._rows: list[T] = []
        self._size = 0
        self._lengths: list[np.ndarray] = []
        self._file: Growing | None = None

    def add(self, rows: Sequence[T]) -> None:
        """The next ones."""
        self._rows += rows
        self._size += sum(map(self._packing.size, rows))
        if self._size > (LIMIT if self._file is None else AT_ONCE):
            self._put_away()

    def content(self) -> Sequence[T]:
        """All rows, in their order."""
        if self._file is None:
            return self._rows
        self._put_away()
        values, lengths = self._file.whole(), np.concatenate(self._lengths)
        return FlatRows(values, np.cumsum(lengths) - lengths, lengths, self._packing, Pages(values))

    def drained(self) -> Sequence[T]:
        """The rows that were given since it was asked last."""
        content = self.content()
        self._rows, self._size, self._lengths, self._file = [], 0, [], None
        return content

    def _put_away(self) -> None:
        rows = iter(self._rows)
        while part := list(_some(rows, self._packing.size)):
            values = self._packing.packed(part)
            self._file = self._file or Growing(values.dtype, values.shape[1:], limit=0)
            self._file.add(values)
            self._lengths.append(np.fromiter(map(len, part), dtype=np.int64, count=len(part)))
        self._rows, self._size = [], 0


def _some(rows: Iterator[T], size: Callable[[T], int]) -> Iterator[T]:
    """As many of the next rows as are put away at once, at least one."""
    left = AT_ONCE
    while left > 0 and (row := next(rows, None)) is not None:
        left -= size(row)
        yield row


class Growing:
    """Numbers that are put one after another: into memory, and from some size on into a temporary file.

    Where no file can be had, or the disk has no room, they are in memory all the same.
    """

    def __init__(self, dtype: np.dtype, step: tuple[int, ...] = (), limit: int | None = None) -> None:
        """``limit``: bytes that may be in memory, ``LIMIT`` for None."""
        self._dtype, self._step = dtype, step
        self._limit: float = LIMIT if limit is None else limit
        self._parts: list[np.ndarray] = []
        self._file: IO[bytes] | None = None
        self._size = 0
        """Bytes of the numbers, all of which are in the file where there is one."""

    def add(self, values: np.ndarray) -> None:
        """(steps, ...), the next ones."""
        self._parts.append(values)
        self._size += values.nbytes
        if self._size > self._limit:
            try:
                self._file = self._file or TemporaryFile(buffering=0)  # noqa: SIM115 - gone with the array
                for part in self._parts:
                    _write(self._file, part)
                self._parts = []
            except OSError:
                self._take_back()

    def _take_back(self) -> None:
        """What is in the file as a whole, into memory; what is not there yet is in memory still."""
        self._limit = math.inf
        if self._file is None:
            return
        if there := self._size - sum(part.nbytes for part in self._parts):
            self._file.seek(0)
            content: Any = bytearray(self._file.read(there))
            self._parts.insert(0, np.frombuffer(content, self._dtype).reshape(-1, *self._step))
        self._file.close()
        self._file = None

    def whole(self) -> np.ndarray:
        """(steps of all, ...), where they lie."""
        if self._file is None:
            return np.concatenate(self._parts)
        count = self._size // self._dtype.itemsize
        # Of a file that no one else has, so that nothing is reserved in memory.
        mapped = np.memmap(self._file, self._dtype, mode="r+", shape=(count,))
        return np.asarray(mapped).reshape(-1, *self._step)


def _write(file: IO[bytes], values: np.ndarray) -> None:
    numbers: Any = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    content = memoryview(numbers)
    while len(content):
        content = content[file.write(content) :]
