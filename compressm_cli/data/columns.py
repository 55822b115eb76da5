"""What the cells of a column are taken for: numbers, texts, labels, times. None is ever guessed or converted."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from types import NoneType
from typing import Any, Generic, TypeVar

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described, is_writable, shorten
from compressm_cli.data.flat import TEXT_ROWS, Gathered
from compressm_cli.data.sources import Cells

SAME = "write the same in all"
CORRECT = "correct it, or leave out the row"
LARGEST = float(np.finfo(np.float32).max)
EXACT = 2**53
"""Up to which every whole number is a float of its own."""
PADDED = re.compile(r"[+-]?0\d+\.\d*")
"""Decimals such as 02.01, which nobody writes: as numbers, such dates would have another order."""
LONGEST_DAY = len("2024-05-01")
"""Signs of a day alone, as ISO 8601 writes it."""
T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where some cells of a column stand."""

    file: Path
    first: int
    """The row of the first of them, counted from 0."""
    column: str

    def error(self, row: int, problem: str, advice: str = CORRECT) -> BadInputError:
        """Of one of the cells, counted from 0."""
        return BadInputError(
            f"{self.file}, row {self.first + row + 1}, column {self.column!r}: {problem}; {advice}"
        )


class Column(ABC, Generic[T]):
    """A column whose cells come some rows at a time."""

    def __init__(self) -> None:
        self._kind: str | None = None

    @abstractmethod
    def add(self, cells: Cells, place: Place) -> None:
        """The next cells; BadInputError at one that is not what is wanted."""

    @property
    @abstractmethod
    def values(self) -> T:
        """All of them."""

    def kind(self, value: Any) -> str:
        """What a cell is, in words for many of them; all cells must be the same."""
        return kind_of(value)

    def require_one_kind(self, cells: Sequence[Any], place: Place) -> str:
        """BadInputError at the first cell that is of another kind than those before; gives the kind."""
        for row, value in enumerate(cells):
            kind = self.kind(value)
            self._kind = self._kind or kind
            if kind != self._kind:
                raise place.error(row, f"{described(value)}, where the rows before have {self._kind}", SAME)
        return self._kind or "texts"


def kind_of(value: Any) -> str:
    """What a cell is, in words for many of them."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float | Decimal):
        return "numbers"
    kinds = ((str, "texts"), (list | np.ndarray, "lists"), (dict, "objects"))
    return next(
        (name for kind, name in kinds if isinstance(value, kind)), f"values of type {type(value).__name__}"
    )


class Numbers(Column[np.ndarray]):
    """(rows,) float64, of numbers, of texts of numbers, or of true and false, which count 1 and 0."""

    def __init__(self, comma: bool = False, gaps: bool = False) -> None:
        """``comma`` says that texts have one before their decimals, instead of a point.

        With ``gaps`` cells may be empty or NaN, and are NaN then.
        """
        super().__init__()
        self._comma, self._gaps = comma, gaps
        self._parts: list[np.ndarray] = []

    def add(self, cells: Cells, place: Place) -> None:
        if not isinstance(cells, np.ndarray):
            if self._gaps:
                cells = self._with_nan(cells)
            if self._comma:
                cells = self._with_points(cells, place)
            self._require_numbers(cells, place)
        try:
            numbers = np.array(cells, dtype=np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self._first_without_number(cells, place) from None
        unusable = np.flatnonzero(~(np.abs(numbers) <= LARGEST) & ~(self._gaps & np.isnan(numbers)))
        if len(unusable):
            row = int(unusable[0])
            if np.isnan(numbers[row]):
                raise place.error(row, "the cell is empty or NaN")
            raise place.error(row, f"{cells[row]!s} is too large for single precision")
        self._parts.append(numbers)

    @property
    def values(self) -> np.ndarray:
        return np.concatenate(self._parts)

    def drained(self) -> np.ndarray:
        """Those that were added since it was asked last; they are none of the values any more."""
        parts, self._parts = self._parts, []
        return np.concatenate(parts)

    def _with_nan(self, cells: Sequence[Any]) -> Sequence[Any]:
        """The same, with NaN of the kind of the other cells where there is nothing."""
        kinds = set(map(type, cells))
        if (kinds == {str} and all(cells) and not any(map(str.isspace, cells))) or not kinds & {
            str,
            NoneType,
        }:
            return cells
        nan = "nan" if self._kind == "texts" or str in kinds else math.nan
        return [
            nan if cell is None or (isinstance(cell, str) and not cell.strip()) else cell for cell in cells
        ]

    def _with_points(self, cells: Sequence[Any], place: Place) -> list[Any]:
        """The same with points before the decimals; BadInputError for what has anything between thousands."""
        for row, cell in enumerate(cells):
            if isinstance(cell, str) and ("." in cell or cell.count(",") > 1):
                raise place.error(
                    row,
                    f"{shorten(cell)} is not a number with a comma before its decimals",
                    "write it without a sign between thousands",
                )
        return [cell.replace(",", ".") if isinstance(cell, str) else cell for cell in cells]

    def _require_numbers(self, cells: Sequence[Any], place: Place) -> None:
        kinds = set(map(type, cells))
        if kinds == {str} and self._kind in (None, "texts") and all(cells) and "_" not in "".join(cells):
            self._kind = "texts"
            return
        for row, value in enumerate(cells):
            if value is None or (isinstance(value, str) and not value.strip()):
                raise place.error(row, "the cell is empty")
            strange = isinstance(value, str) and ("_" in value or not _is_number(value))
            if strange or not isinstance(value, str | int | float | Decimal):
                raise place.error(row, not_a_number(value))
        self.require_one_kind(cells, place)

    def _first_without_number(self, cells: Cells, place: Place) -> BadInputError:
        for row, value in enumerate(cells):
            try:
                float(value)
            except OverflowError:
                return place.error(row, "the number is too large for single precision")
            except (TypeError, ValueError):
                return place.error(row, not_a_number(value))
        return place.error(0, "the column holds no numbers")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def not_a_number(value: Any) -> str:
    """What is told of a cell that is none, with what it may be instead."""
    told = f"{value if isinstance(value, date) else shorten(value)} is not a number"
    if isinstance(value, list | np.ndarray):
        return f"{told} but a list (name a column of lists as data.sequence_column)"
    if isinstance(value, str) and value.lstrip().startswith(("[", "tensor(", "array(")):
        return f"{told} but a list printed as text (write lists of numbers as json, jsonl or parquet)"
    if isinstance(value, str) and value.count(",") == 1 and value.replace(",", "").strip("+- ").isdecimal():
        return f"{told} (write a point before decimals, or say data.decimal=comma)"
    return told


class Texts(Column[Sequence[bytes]]):
    """Each text in UTF-8."""

    def __init__(self) -> None:
        super().__init__()
        self._texts = Gathered(TEXT_ROWS)

    def add(self, cells: Cells, place: Place) -> None:
        self._texts.add([_text(value, row, place) for row, value in enumerate(cells)])

    @property
    def values(self) -> Sequence[bytes]:
        return self._texts.content()

    def drained(self) -> Sequence[bytes]:
        """Those that were added since it was asked last; they are none of the values any more."""
        return self._texts.drained()


def _text(value: Any, row: int, place: Place) -> bytes:
    if not isinstance(value, str):
        raise place.error(row, "the cell is empty" if value is None else f"{shorten(value)} is not a text")
    if not value:
        raise place.error(row, "the text is empty")
    return value.encode("utf-8", "surrogatepass")


class Labels(Column[list[str]]):
    """Names of classes, or of series: texts as they stand, whole numbers as 1, with a fraction of zero as 1.0."""

    def __init__(self, what: str = "label") -> None:
        super().__init__()
        self._what = what
        self._names: list[str] = []
        self._known: dict[str, str] = {}

    def add(self, cells: Cells, place: Place) -> None:
        values = cells.tolist() if isinstance(cells, np.ndarray) else cells
        for row, value in enumerate(values):
            name = self._name(row, value, place)
            # The same text for all rows: one each would take more memory than many rows.
            self._names.append(self._known.setdefault(name, name))
        self.require_one_kind(values, place)

    @property
    def values(self) -> list[str]:
        return self._names

    def kind(self, value: Any) -> str:
        if isinstance(value, float):
            return "numbers with a fraction"
        return "whole numbers" if kind_of(value) == "numbers" else kind_of(value)

    def _name(self, row: int, value: Any, place: Place) -> str:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            raise place.error(row, f"the {self._what} is missing", "write a text or a whole number there")
        if isinstance(value, bool):
            return str(value).lower()
        if isinstance(value, str) and not is_writable(value):
            raise place.error(row, f"the {self._what} {shorten(value)} is no text that UTF-8 can write")
        if isinstance(value, str | int):
            return str(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < EXACT:
            return repr(value)
        hint = (
            "; numbers to be predicted are data.target_columns" if isinstance(value, float | Decimal) else ""
        )
        raise place.error(
            row,
            f"{shorten(value)} cannot be {'an' if self._what == 'id' else 'a'} {self._what}",
            f"write a text or a whole number there{hint}",
        )


class Times(Column[list[Any]]):
    """What rows are ordered by: numbers, or dates and times as ISO 8601 writes them; as Python compares them."""

    def __init__(self) -> None:
        super().__init__()
        self._times: list[Any] = []
        self.days = 0
        """How many are days alone, which count as their midnight."""

    def add(self, cells: Cells, place: Place) -> None:
        values = cells.tolist() if isinstance(cells, np.ndarray) else cells
        times = [self._time(row, value, place) for row, value in enumerate(values)]
        self.require_one_kind(times, place)
        if any(isinstance(time, datetime) for time in times):
            self._require_one_zone(times, place)
        self._times += times

    @property
    def values(self) -> list[Any]:
        return self._times

    def _time(self, row: int, given: Any, place: Place) -> Any:
        if isinstance(given, str) and PADDED.fullmatch(given.strip()):
            raise place.error(
                row,
                f"{shorten(given)} is a day and a month rather than a number",
                "write dates as 2024-05-01, and numbers without a zero before them",
            )
        value = _read_time(given) if isinstance(given, str) else given
        self.days += (
            isinstance(value, datetime) and isinstance(given, str) and len(given.strip()) <= LONGEST_DAY
        )
        missing = value is None or (isinstance(value, float) and not math.isfinite(value))
        if missing or isinstance(value, bool) or not isinstance(value, int | float | Decimal | date):
            raise place.error(
                row, _no_time(given), "write a number, or a date and time such as 2024-05-01T12:00:00"
            )
        return value

    def _require_one_zone(self, times: list[datetime], place: Place) -> None:
        aware = (self._times or times)[0].tzinfo is not None
        for row, time in enumerate(times):
            if (time.tzinfo is not None) != aware:
                raise place.error(row, "a time with a zone among some without", SAME)


def _no_time(value: Any) -> str:
    return "the time is missing" if value is None or value == "" else f"{shorten(value)} is no time"


def _read_time(text: str) -> Any:
    """A number or a time; None where it is neither."""
    for read in (int, float, datetime.fromisoformat):
        try:
            return None if "_" in text else read(text)
        except ValueError:
            continue
    return None
