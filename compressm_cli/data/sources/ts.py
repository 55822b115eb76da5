"""Files .ts of the time series archives (sktime, aeon): a header of @ lines, then a series a line.

Dimensions are separated by colons, values by commas, and the class or the number to be said stands last.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import ClassVar

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.sources.interface import BATCH, Cells, Source
from compressm_cli.data.sources.text import opened

SERIES, LABEL, TARGET = "series", "label", "target"


class TsSource(Source):
    """The columns ``series`` and, as the header says, ``label`` or ``target``."""

    kind: ClassVar[str] = "ts"

    @cached_property
    def columns(self) -> list[str]:
        header = self._header
        if header.get("timestamps", "false").split()[0].lower() == "true":
            raise BadInputError(
                f"{self.file}: has time stamps, which are not read; write it with @timestamps false"
            )
        said = [
            name
            for name, key in ((LABEL, "classlabel"), (TARGET, "targetlabel"))
            if header.get(key, "false").split()[0].lower() == "true"
        ]
        if len(said) > 1:
            raise BadInputError(
                f"{self.file}: has @classlabel true and @targetlabel true; a series has one of them"
            )
        return [SERIES, *said]

    def missing(self, name: str) -> BadInputError:
        if name == TARGET:
            return BadInputError(
                f"{self.file}: has no @targetlabel true, so no numbers to be said; leave out target_columns"
            )
        advice = "it has no classes"
        if TARGET in self.columns:
            advice = "its numbers are named as data.target_columns=[NAME]"
        return BadInputError(f"{self.file}: has no @classlabel true; {advice}")

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        cases = self._cases()
        while block := list(islice(cases, BATCH)):
            yield [[case[name != SERIES] for case in block] for name in columns]

    @cached_property
    def _header(self) -> dict[str, str]:
        """What the @ lines say, by their first word in lower case."""
        found: dict[str, str] = {}
        with opened(self.file, self.kind) as lines:
            for line in map(str.strip, lines):
                if line.startswith("@"):
                    key, _, value = line[1:].partition(" ")
                    if key.lower() == "data":
                        return found
                    found[key.lower()] = value.strip() or "false"
                elif line and not line.startswith("#"):
                    break
        raise BadInputError(
            f"{self.file}: cannot be read as ts: no @data before the series; correct or replace it"
        )

    def _cases(self) -> Iterator[tuple[np.ndarray, str | None]]:
        """(steps, channels) of each line, and what stands last in it."""
        said = len(self.columns) > 1
        classes = self._header.get("classlabel", "").split()[1:]
        began = False
        with opened(self.file, self.kind) as lines:
            for number, line in enumerate(map(str.strip, lines), start=1):
                if not began or not line or line.startswith("#"):
                    began = began or line.lower() == "@data"
                    continue
                dimensions = line.split(":")
                last = dimensions.pop().strip() if said else None
                if classes and last not in classes:
                    raise self._error(
                        number, f"the class {last!r} is none of the header's, {', '.join(classes)}"
                    )
                if not dimensions:
                    raise self._error(number, "a class without a series")
                yield self._series(number, dimensions), last

    def _series(self, number: int, dimensions: list[str]) -> np.ndarray:
        channels = [self._values(number, place, text) for place, text in enumerate(dimensions, start=1)]
        for place, values in enumerate(channels, start=1):
            if len(values) != len(channels[0]):
                raise self._error(
                    number, f"dimension {place} has {len(values)} steps, and dimension 1 {len(channels[0])}"
                )
        return np.stack(channels, axis=1)

    def _values(self, number: int, dimension: int, text: str) -> np.ndarray:
        cells = text.split(",")
        try:
            if "_" in text:
                raise ValueError
            return np.array(cells, dtype=np.float64)
        except ValueError:
            step, cell = next((n, c.strip()) for n, c in enumerate(cells, start=1) if not _is_number(c))
            told = "a value is missing" if cell in ("?", "") else f"{cell!r} is not a number"
            raise self._error(number, f"dimension {dimension}, step {step}: {told}") from None

    def _error(self, line: int, problem: str) -> BadInputError:
        return BadInputError(f"{self.file}, line {line}: {problem}; correct it, or leave out the line")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
