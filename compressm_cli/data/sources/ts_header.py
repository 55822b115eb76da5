"""The @ lines before the series of a .ts file, and whether these are as they say."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from compressm_cli.core.errors import BadInputError

CLASS, TARGET = "classlabel", "targetlabel"
YES_OR_NO = ("univariate", "equallength", "missing", "timestamps", CLASS, TARGET)
NUMBERS = ("serieslength", "dimensions")
SYNONYMS = {"dimension": "dimensions"}
"""Keys that some writers call otherwise."""
FEW = 10
"""Names of classes that are told."""


@dataclass
class TsHeader:
    """What is said of all series; of what is not said anything will do."""

    file: Path
    said: dict[str, str] = field(default_factory=dict)
    """By the first word of each line, in lower case."""
    lines: dict[str, int] = field(default_factory=dict)
    """Where it is said."""
    length: int | None = None
    """Steps of the first series, of those that are to have as many."""

    @classmethod
    def read(cls, lines: Iterable[str], file: Path) -> "TsHeader":
        """Up to @data; BadInputError where that is not there, or the lines contradict each other."""
        found = cls(file)
        for number, line in enumerate(map(str.strip, lines), start=1):
            if line.startswith("@"):
                key, _, value = line[1:].partition(" ")
                if key.lower() == "data":
                    found._require_sense()
                    return found
                found._say(key.lower(), value.strip() or "false", number)
            elif line and not line.startswith("#"):
                break
        raise BadInputError(
            f"{file}: cannot be read as ts: no @data before the series; correct or replace it"
        )

    @property
    def label(self) -> str | None:
        """``CLASS`` or ``TARGET``, what stands last in each line; None where nothing does."""
        return next((key for key in (CLASS, TARGET) if self._says(key, True)), None)

    @property
    def classes(self) -> list[str]:
        """Their names; none where they are not said."""
        return self.said.get(CLASS, "").split()[1:]

    def require(self, number: int, series: np.ndarray, label: str | None) -> None:
        """BadInputError where the series (steps, channels) and the label of a line are not as was said."""
        steps, channels = series.shape
        if self.classes and label not in self.classes:
            names = ", ".join(self.classes[:FEW]) + (", ..." if len(self.classes) > FEW else "")
            raise self._error(number, f"the class {label!r} is none of the header's, {names}")
        if self._says("univariate", True) and channels > 1:
            raise self._contradicted(number, f"{channels} dimensions", "univariate")
        if self._says("univariate", False) and channels == 1:
            raise self._contradicted(number, "1 dimension", "univariate")
        if channels != self._number("dimensions", channels):
            raise self._contradicted(number, f"{channels} dimension{'s' * (channels > 1)}", "dimensions")
        if self._says("missing", False) and np.isnan(series).any():
            raise self._contradicted(number, "a value is missing", "missing")
        if self._says("equallength", False):  # then serieslength is of one of them, if of any
            return
        if steps != self._number("serieslength", steps):
            raise self._contradicted(number, f"{steps:,} steps", "serieslength")
        if self._says("equallength", True):
            self.length = self.length or steps
            if steps != self.length:
                raise self._contradicted(
                    number, f"{steps:,} steps, and the first series {self.length:,}", "equallength"
                )

    def _say(self, key: str, value: str, number: int) -> None:
        key = SYNONYMS.get(key, key)
        if self.said.get(key, value) != value:
            raise self._error(
                number, f"@{key} {value}, and line {self.lines[key]} says @{key} {self.said[key]}"
            )
        self.said[key], self.lines[key] = value, number

    def _require_sense(self) -> None:
        for key in YES_OR_NO:
            if key in self.said and self._first(key) not in ("true", "false"):
                raise self._error(self.lines[key], f"@{key} {self.said[key]}; write true or false")
        for key in NUMBERS:
            if key in self.said and not (self.said[key].isdecimal() and len(self.said[key]) < FEW):
                raise self._error(self.lines[key], f"@{key} {self.said[key]}; write a whole number")
        if self._says("timestamps", True):
            raise BadInputError(
                f"{self.file}: has time stamps, which are not read; write it with @timestamps false"
            )
        if self._says(CLASS, True) and self._says(TARGET, True):
            raise BadInputError(
                f"{self.file}: has @classlabel true and @targetlabel true; a series has one of them"
            )
        if self._says(CLASS, False) and self.classes:
            raise self._error(self.lines[CLASS], "@classlabel false, and names of classes")
        if self._says("univariate", True) and self._number("dimensions", 1) != 1:
            raise self._contradicted(
                self.lines["dimensions"], f"@dimensions {self.said['dimensions']}", "univariate"
            )

    def _says(self, key: str, value: bool) -> bool:
        return key in self.said and self._first(key) == str(value).lower()

    def _first(self, key: str) -> str:
        return self.said[key].split()[0].lower()

    def _number(self, key: str, otherwise: int) -> int:
        return int(self.said.get(key, otherwise))

    def _contradicted(self, number: int, found: str, key: str) -> BadInputError:
        return self._error(number, f"{found}, and line {self.lines[key]} says @{key} {self.said[key]}")

    def _error(self, line: int, problem: str) -> BadInputError:
        return BadInputError(f"{self.file}, line {line}: {problem}; correct it, or leave out the line")
