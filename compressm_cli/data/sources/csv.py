"""Tables of text: csv and tsv. A cell is the text that stands there; nobody guesses what else it could be."""

import csv
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from operator import itemgetter
from typing import ClassVar

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.sources.interface import BATCH, CHARACTERS, Cells, Source
from compressm_cli.data.sources.text import opened, without_nul

ADVICE = "save it as UTF-8 text, or name its encoding as data.encoding"
BLANK = " "
"""A run of which separates cells as one does, where one does."""


class CsvSource(Source):
    """Cells separated by commas; in quotes where one has a comma, a quote (written twice) or a line break in it."""

    kind: ClassVar[str] = "csv"
    delimiter: ClassVar[str] = ","

    @cached_property
    def columns(self) -> list[str]:
        first = next(self._records(), (0, []))[1]
        if not self.form.header:
            return [str(number) for number in range(1, len(first) + 1)]
        if _is_a_row_of_numbers(first):
            raise BadInputError(
                f"{self.file}: the first line is numbers, where the names of the columns are wanted; "
                "write data.header=false for a file without names, whose columns are called 1, 2, 3, ..."
            )
        return first

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        known = {name: place for place, name in enumerate(self.columns)}
        places = [known[name] for name in columns]
        block: list[list[str]] = []
        size = 0
        records = self._records()
        if self.form.header:
            next(records, None)
        for line, row in records:
            if len(row) != len(self.columns):
                raise self._other_width(line, row)
            block.append(row)
            size += sum(map(len, row))
            if len(block) == BATCH or size > CHARACTERS:
                yield _picked(block, places)
                block, size = [], 0
        if block:
            yield _picked(block, places)

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """Rows with the lines that they end on; empty lines are none."""
        limit = csv.field_size_limit(sys.maxsize)
        sign = self.form.delimiter or self.delimiter
        try:
            with opened(self.file, self.kind, self.form.encoding, ADVICE) as lines:
                reader = csv.reader(
                    without_nul(lines, self.file), delimiter=sign, strict=True, skipinitialspace=sign == BLANK
                )
                try:
                    for row in reader:
                        if sign == BLANK and row and not row[-1]:
                            row.pop()  # what follows the last of the blanks that separate cells
                        if row:
                            yield reader.line_num, row
                except csv.Error as error:
                    raise BadInputError(
                        f"{self.file}, line {reader.line_num}: cannot be read as {self.kind}: {error}; put quotes "
                        "around the whole of a cell, and write a quote within it twice"
                    ) from error
        finally:
            csv.field_size_limit(limit)

    def _other_width(self, line: int, row: list[str]) -> BadInputError:
        sign = self.form.delimiter or self.delimiter
        what = "the header" if self.form.header else "the first line"
        return BadInputError(
            f"{self.file}, line {line}: {len(row)} cells, but {what} has {len(self.columns)}; separate cells by "
            f"{sign!r}, and put quotes around a cell with one in it"
        )


class TsvSource(CsvSource):
    """The same, separated by tabs."""

    kind = "tsv"
    delimiter = "\t"


def _picked(rows: list[list[str]], places: list[int]) -> list[Cells]:
    """The columns at some places of rows of the same width."""
    columns = list(zip(*rows, strict=True))
    return [itemgetter(place)(columns) for place in places]


def _is_a_row_of_numbers(cells: Sequence[str]) -> bool:
    """Whether they are data rather than names: numbers alone, and not in order, as names that are numbers would be."""
    try:
        numbers = [float(cell) for cell in cells]
    except ValueError:
        return False
    return any(one >= two for one, two in pairwise(numbers))
