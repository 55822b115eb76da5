"""Rows as they stand in the user's files, before a model's encoding makes tensors of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

Kind = Literal["texts", "series", "images", "tokens"]


@dataclass(frozen=True)
class Rows:
    """What a file or folder holds, row by row."""

    source: str
    """The file or folder, as messages name it."""
    kind: Kind
    content: Sequence[bytes] | Sequence[np.ndarray]
    """Of each row: a text in UTF-8; a series (steps, channels) float64; an image (height, width, channels) uint8,
    grey, grey with alpha, RGB or RGBA; tokens (steps,) of any integer type."""
    names: Sequence[str] | None = None
    """What the rows are called: files, or ids; None where they have their numbers alone, from 1."""
    labels: Sequence[str] | None = None
    """The class of each row, as it stands there; None where none is read."""
    targets: np.ndarray | None = None
    """(rows, targets) float64, real numbers to be said of each row; None where none are read."""
    channels: Sequence[str] | None = None
    """The names of the channels of series."""
    columns: Sequence[str] | None = None
    """Of series whose steps are columns of a table: their names."""
    target_names: Sequence[str] | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    """How many files or rows are not taken, by the reason."""

    def __len__(self) -> int:
        return len(self.content)

    def name(self, row: int) -> str:
        """What a row is called, counted from 0."""
        return str(row + 1) if self.names is None else self.names[row]
