"""Columns of local files, read with the ``datasets`` library.

Files are streamed, so that the library keeps no copy of the user's data in its cache.
"""

import csv
import glob
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading

BATCH = 1000


@dataclass(frozen=True)
class Column:
    """One column of a table: values (rows,) as NumPy holds them, and where they are from."""

    source: str
    name: str
    values: np.ndarray

    def numbers(self) -> np.ndarray:
        """(rows,) float32. Raises BadInputError at a cell that is no finite number."""
        if self.values.dtype.kind not in "biufO":
            raise self._error(0, f"{self.values[0]} is not a number")
        try:
            numbers = self.values.astype(np.float64)
        except (TypeError, ValueError, OverflowError):
            raise self._first_without_number() from None
        with np.errstate(over="ignore"):
            singles = numbers.astype(np.float32)
        unusable = np.flatnonzero(~np.isfinite(singles))
        if len(unusable):
            row = int(unusable[0])
            if np.isnan(numbers[row]):
                raise self._error(row, "the cell is empty or NaN")
            raise self._error(row, f"{self.values[row]!s} is too large for single precision")
        return singles

    def texts(self) -> list[bytes]:
        """Each text as UTF-8. Raises BadInputError at a cell that is no text, or is empty."""
        values = self.values.tolist()
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise self._error(
                    row, f"{value!r} is not a text" if value is not None else "the cell is empty"
                )
            if not value:
                raise self._error(row, "the text is empty")
        return [value.encode("utf-8", "surrogatepass") for value in values]

    def labels(self) -> list[str]:
        """Each label, a text or a whole number, as text. Raises BadInputError where one is missing."""
        return [self._label(row, value) for row, value in enumerate(self.values.tolist())]

    def _label(self, row: int, value: Any) -> str:
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            raise self._error(row, "the label is missing", "a text or a whole number")
        if isinstance(value, float) and value.is_integer():  # a column of integers with a gap
            value = int(value)
        if not isinstance(value, str | int):
            raise self._error(row, f"{value!r} cannot be a label", "a text or a whole number")
        return str(value)

    def _first_without_number(self) -> BadInputError:
        for row, value in enumerate(self.values):
            try:
                float(value)
            except OverflowError:
                return self._error(row, "the number is too large for single precision")
            except (TypeError, ValueError):
                empty = value is None or (isinstance(value, str) and not value)
                return self._error(row, "the cell is empty" if empty else f"{value!r} is not a number")
        return self._error(0, "the column holds no numbers")

    def _error(self, row: int, problem: str, wanted: str = "") -> BadInputError:
        advice = f"write {wanted} there" if wanted else "correct it, or leave out the row"
        return BadInputError(f"{self.source}, row {row + 1}, column {self.name!r}: {problem}; {advice}")


def read_columns(builder: str, files: Sequence[Path], columns: Sequence[str]) -> dict[str, Column]:
    """Some columns of csv, json, parquet or arrow files whose rows follow one another.

    Raises BadInputError where a file or column is missing, there are no rows, or parsing fails.
    """
    source = ", ".join(str(f) for f in files)
    for file in files:
        if not file.is_file():
            raise BadInputError(f"{file}: no such file; give a {builder} file (paths start at {Path.cwd()})")
        if file.stat().st_size == 0:
            raise BadInputError(f"{file}: the file is empty; it needs at least one row")
    options: dict[str, Any] = {"data_files": {"train": [glob.escape(str(f)) for f in files]}}
    if builder == "csv":
        for file in files:
            _check_csv(file, columns)
        options |= {"usecols": list(columns), "keep_default_na": False, "encoding": "utf-8-sig"}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in columns}
    for table in _tables(builder, source, columns, options):
        for name in columns:
            if name not in table.column_names:
                raise _missing_column(source, name, table.column_names)
            with reading(f"{source}, column {name!r}", "cannot be read", "write numbers or texts there"):
                parts[name].append(table[name].to_numpy())
    if not sum(len(part) for part in parts[columns[0]]):
        raise BadInputError(f"{source}: there are no rows in it; it needs at least one")
    return {name: Column(source, name, np.concatenate(values)) for name, values in parts.items()}


def _tables(builder: str, source: str, columns: Sequence[str], options: dict[str, Any]) -> Iterator[Any]:
    """Arrow tables of some rows each; every failure of the library becomes a BadInputError."""
    with _quiet_library() as cache:
        from datasets import Features, Value, load_dataset

        if builder == "csv":
            # Read as text: a type guessed from the first rows would not fit a later one.
            options["features"] = Features({name: Value("string") for name in columns})
        with reading(source, f"cannot be read as {builder}", "correct or replace it"):
            stream = load_dataset(builder, split="train", streaming=True, cache_dir=cache, **options)
            if builder == "parquet" and set(columns) <= set(stream.column_names):
                options["columns"] = list(columns)
                stream = load_dataset(builder, split="train", streaming=True, cache_dir=cache, **options)
            yield from stream.with_format("arrow").iter(BATCH)


@contextmanager
def _quiet_library() -> Iterator[str]:
    """Silence the library's bars and logs meanwhile; gives a cache folder that is removed afterwards."""
    import datasets

    bars, verbosity = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        with tempfile.TemporaryDirectory(prefix="compressm-") as cache:
            yield cache
    finally:
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


def _check_csv(file: Path, columns: Sequence[str]) -> None:
    """Find what the parser would pass over in silence: a repeated column, a row of another width."""
    limit = csv.field_size_limit(sys.maxsize)
    try:
        with (
            reading(file, "cannot be read as csv", "save it as UTF-8 text"),
            file.open(newline="", encoding="utf-8-sig") as lines,
        ):
            reader = csv.reader(lines)
            header = next(reader, [])
            for name in columns:
                if name not in header:
                    raise _missing_column(str(file), name, header)
                if header.count(name) > 1:
                    raise BadInputError(f"{file}: column {name!r} occurs more than once; rename one")
            for row in reader:
                if row and len(row) != len(header):
                    raise BadInputError(
                        f"{file}, line {reader.line_num}: {len(row)} cells, but the header has {len(header)}"
                        "; separate cells by commas, and put quotes around a cell with a comma in it"
                    )
    finally:
        csv.field_size_limit(limit)


def _missing_column(source: str, name: str, present: Sequence[str]) -> BadInputError:
    columns = ", ".join(repr(p) for p in present) or "none"
    return BadInputError(f"{source}: has no column {name!r}; its columns are {columns}")
