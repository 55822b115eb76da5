"""Tables of one or several files: the columns that are wanted of them, each as what it is wanted for."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import is_writable
from compressm_cli.data.columns import CORRECT, Column, Place
from compressm_cli.data.rows import Named
from compressm_cli.data.sources import SOURCES, Form, Source

PLAIN = Form()


@dataclass(frozen=True)
class Table:
    """Files of one format whose rows follow one another."""

    place: str
    """What they are called together, in messages."""
    sources: list[Source]
    rows: list[int] = field(default_factory=list)
    """Of each file, once it has been read."""

    @classmethod
    def opened(cls, place: str, format_: str, files: Sequence[Path], form: Form = PLAIN) -> "Table":
        """Raises BadInputError for a file that is missing or empty."""
        for file in files:
            if not file.is_file():
                raise BadInputError(
                    f"{file}: no such file; give a {format_} file (paths start at {Path.cwd()})"
                )
            if file.stat().st_size == 0:
                raise BadInputError(f"{file}: the file is empty; it needs at least one row")
        return cls(place, [SOURCES[format_](file, form) for file in files])

    def read(self, wanted: Mapping[str, Column[Any]], after: Callable[[], None] | None = None) -> None:
        """Give each column the cells of its name, some rows at a time; ``after`` is called when all have these.

        Raises BadInputError where one is not there, or is there twice, where a cell is not what is wanted, and where
        there are no rows.
        """
        for source in self.sources:
            self.rows.append(_read(source, wanted, after))
        if not sum(self.rows):
            raise BadInputError(f"{self.place}: there are no rows in it; it needs at least one")

    def error(self, row: int, column: str, problem: str, advice: str = CORRECT) -> BadInputError:
        """Of a cell that was read, by its row counted from 0 over all files."""
        for source, rows in zip(self.sources, self.rows, strict=True):
            if row < rows:
                return Place(source.file, 0, column).error(row, problem, advice)
            row -= rows
        raise IndexError(row)

    def row_names(self) -> Sequence[str] | None:
        """What the rows are called where there are several files; None where their numbers are enough."""
        return None if len(self.sources) == 1 else Named(self._row_name, range(sum(self.rows)))

    def _row_name(self, row: int) -> str:
        ends = np.cumsum(self.rows)
        place = int(np.searchsorted(ends, row, side="right"))
        return f"{row + 1 - int(ends[place]) + self.rows[place]} of {self.sources[place].file.name}"


def _read(source: Source, wanted: Mapping[str, Column[Any]], after: Callable[[], None] | None = None) -> int:
    present, rows = source.columns, 0
    known = Counter(present)
    for name in wanted:
        if name not in known and present:
            raise source.missing(name)
        if known[name] > 1:
            raise BadInputError(f"{source.file}: column {name!r} occurs more than once; rename one")
        if not is_writable(name):
            raise BadInputError(f"{source.file}: column {name!r} is no text that UTF-8 can write; rename it")
    if not present:
        return 0
    for block in source.blocks(list(wanted)):
        for (name, column), cells in zip(wanted.items(), block, strict=True):
            column.add(cells, Place(source.file, rows, name))
        if after is not None:
            after()
        rows += len(block[0])
    return rows
