"""The user's own data: a csv, json or parquet file, or a folder of texts or images."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import AnyInputs, Bytes, Classes, Encoding, Pixels, Series
from compressm_cli.data.interface import Dataset, Split, TaskConfig
from compressm_cli.data.labels import class_names
from compressm_cli.data.layout import Layout
from compressm_cli.data.rows import Rows
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tokens import of_one_length

Place = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, lt=0.5)]

HALF = 0.5
"""Mean and deviation that bring pixels from 0..1 to -1..1."""


class Files(Layout, TaskConfig):
    """``data: {task: files}``: classify the rows of a table, or the texts or images of a folder.

    A row of numbers is a sequence of one feature a step, in the order of ``feature_columns``, as they
    stand. A text is a sequence of its UTF-8 bytes. An image is a sequence of its pixels, row by row, of
    one feature (grey) or three (colour) scaled to -1..1. Paths start at the current folder.
    """

    paths: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    task: Literal["files"] = "files"
    train: Place
    """The file or folder of the training rows."""
    validation: Place | Share = 0.1
    """The file or folder of the validation rows, or the share of the training rows to hold out."""
    test: Place | Share = 0.1
    """The file or folder of the test rows, or the share of the training rows to hold out."""
    max_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Bytes of a text that are read; null reads all."""
    split_seed: Seed = 0
    """Which rows are held out."""

    @model_validator(mode="after")
    def _keys_fit_the_format(self) -> Self:
        if not self.format.endswith("_folder") and self.label_column is None:
            raise ValueError(f"{self.format} needs label_column and either text_column or feature_columns")
        if self.max_length is not None and self.text_column is None and self.format != "text_folder":
            raise ValueError("max_length is for texts; leave it out")
        places = [Path.cwd() / place for place in self.places().values()]
        if len(set(places)) != len(places):
            raise ValueError(
                "train, validation and test must be different; write a share such as 0.1 to split one"
            )
        return self

    def load(self) -> Dataset:
        """Read the files.

        Raises BadInputError for what is missing in them or cannot be used, with file, row and column.
        """
        places = {"train": self.train, "validation": self.validation, "test": self.test}
        read = {key: self.read(place) for key, place in places.items() if isinstance(place, str)}
        encoding = self._fitted(read["train"])
        splits = of_one_length({key: encoding.split(rows) for key, rows in read.items()})
        shares = {key: share for key, share in places.items() if not isinstance(share, str)}
        splits |= self._held_out(splits["train"], shares)
        counts = (len(splits["train"]), len(splits["validation"]), len(splits["test"]))
        spec = encoding.spec(splits["train"].inputs.shape[1], counts)
        return Dataset(spec, **splits, class_names=encoding.class_names, encoding=encoding)

    def encoded_split(self, name: str, encoding: Encoding) -> Split | None:
        """Of a split with a file of its own; BadInputError for a label that is none of the model's."""
        place = getattr(self, name)
        return encoding.split(self.read(place)) if isinstance(place, str) else None

    def _fitted(self, rows: Rows) -> Encoding:
        """The encoding that the training rows ask for."""
        names = class_names(rows.labels or [])
        if len(names) < 2:
            raise BadInputError(
                f"{self.train}: every row is of class {names[0]!r}; there must be two classes or more"
            )
        return Encoding(inputs=self._inputs(rows), outputs=Classes(names=names))

    def _inputs(self, rows: Rows) -> AnyInputs:
        if rows.kind == "texts":
            return Bytes(max_length=self.max_length)
        if rows.kind == "images":
            first = rows.content[0]
            assert isinstance(first, np.ndarray), "images are arrays"
            height, width, channels = first.shape
            return Pixels(height=height, width=width, mean=[HALF] * channels, deviation=[HALF] * channels)
        return Series(channels=list(rows.channels or []))

    def _held_out(self, rows: Split, shares: dict[str, float]) -> dict[str, Split]:
        """The training rows, less those that become the splits named in ``shares``."""
        if not shares:
            return {}
        counts = [max(1, round(share * len(rows))) for share in shares.values()]
        if sum(counts) >= len(rows):
            raise BadInputError(
                f"{self.train}: {len(rows)} rows are too few to hold some out; add rows, or give files of "
                f"their own as {' and '.join(f'data.{key}' for key in shares)}"
            )
        indices = hold_out(rows.labels, counts, self.split_seed)
        return {key: _taken(rows, index) for key, index in zip([*shares, "train"], indices, strict=True)}


def _taken(rows: Split, index: torch.Tensor) -> Split:
    lengths = None if rows.lengths is None else rows.lengths[index]
    return Split(rows.inputs[index], rows.labels[index], lengths)
