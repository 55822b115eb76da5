"""Files .ts of the time series archives (sktime, aeon): a header of @ lines, then a series a line.

Dimensions are separated by colons, values by commas, and the class or the number to be said stands last.
"""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import ClassVar

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.padding import end_of
from compressm_cli.data.sources.interface import BATCH, Cells, Source
from compressm_cli.data.sources.text import opened, without_nul
from compressm_cli.data.sources.ts_header import CLASS, TsHeader

SERIES, LABEL, TARGET = "series", "label", "target"
MISSING = ("?", "")
"""What stands for a value that there is not, besides NaN."""


class TsSource(Source):
    """The columns ``series`` and, as the header says, ``label`` or ``target``."""

    kind: ClassVar[str] = "ts"

    @cached_property
    def columns(self) -> list[str]:
        label = self._header.label
        return [SERIES] if label is None else [SERIES, LABEL if label == CLASS else TARGET]

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
    def _header(self) -> TsHeader:
        with opened(self.file, self.kind) as lines:
            return TsHeader.read(without_nul(lines, self.file), self.file)

    def _cases(self) -> Iterator[tuple[np.ndarray, str | None]]:
        """(steps, channels) of each line, with NaN where a value is missing at the end, and what stands last in it."""
        said, header = len(self.columns) > 1, self._header
        header.length = None
        began = False
        with opened(self.file, self.kind) as lines:
            for number, line in enumerate(map(str.strip, without_nul(lines, self.file)), start=1):
                if not began or not line or line.startswith("#"):
                    began = began or line.lower() == "@data"
                    continue
                dimensions = line.split(":")
                last = dimensions.pop().strip() if said else None
                if not dimensions:
                    raise self._error(number, "a class without a series")
                series = self._series(number, dimensions)
                header.require(number, series, last)
                yield series, last

    def _series(self, number: int, dimensions: list[str]) -> np.ndarray:
        channels = [self._values(number, place, text) for place, text in enumerate(dimensions, start=1)]
        for place, values in enumerate(channels, start=1):
            if len(values) != len(channels[0]):
                raise self._error(
                    number, f"dimension {place} has {len(values)} steps, and dimension 1 {len(channels[0])}"
                )
        series = np.stack(channels, axis=1)
        gaps = np.argwhere(np.isnan(series[: end_of(series)]))
        if len(gaps):
            step, channel = gaps[0] + 1
            raise self._error(number, f"dimension {channel}, step {step}: a value is missing")
        return series

    def _values(self, number: int, dimension: int, text: str) -> np.ndarray:
        cells = ["nan" if cell.strip() in MISSING else cell for cell in text.split(",")]
        try:
            if "_" in text:
                raise ValueError
            return np.array(cells, dtype=np.float64)
        except ValueError:
            step, cell = next((n, c.strip()) for n, c in enumerate(cells, start=1) if not _is_number(c))
            raise self._error(
                number, f"dimension {dimension}, step {step}: {cell!r} is not a number"
            ) from None

    def _error(self, line: int, problem: str) -> BadInputError:
        return BadInputError(f"{self.file}, line {line}: {problem}; correct it, or leave out the line")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
