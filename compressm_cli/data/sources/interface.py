"""What a reader of one format promises: the names of a file's columns, and their cells, some rows at a time."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.patterns import missing_column

Cells = Sequence[Any] | np.ndarray
"""Some cells of a column: texts, numbers, lists, ... as the file holds them, None where there is none."""

BATCH = 1000
"""Rows of a block, at most."""
CHARACTERS = 2**22
"""Of the text of a block, about, at most: a row may be long."""


@dataclass(frozen=True)
class Form:
    """What a reader must be told of a file besides its format."""

    header: bool = True
    """Of csv and tsv: whether the first row has the names; else columns are called 1, 2, 3, ..."""
    delimiter: str | None = None
    """Of csv and tsv: what separates cells; None is the format's own."""
    encoding: str | None = None
    """Of csv and tsv: that of their text; None is UTF-8."""
    lengths: str | None = None
    """Of npz: the array of the lengths of the series."""
    series: Sequence[str] = ()
    """Of npz: the arrays of series; others have an entry a row."""


class Source(ABC):
    """One file of the user's."""

    def __init__(self, file: Path, form: Form) -> None:
        self.file = file
        self.form = form

    @property
    @abstractmethod
    def columns(self) -> list[str]:
        """The names of the columns, as they stand, also twice; BadInputError where they cannot be read."""

    def missing(self, name: str) -> BadInputError:
        """What is told where a column is not there."""
        return missing_column(self.file, name, self.columns)

    @abstractmethod
    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        """The cells of some columns that there are, of some rows at a time; BadInputError where they are damaged."""
