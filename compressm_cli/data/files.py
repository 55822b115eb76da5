"""The user's own data: a csv, json or parquet file, or a folder of texts or images."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.images import decode_images, pixel_sequences
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.labels import class_names, class_numbers
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.tables import read_columns, read_image_folder
from compressm_cli.data.text_folder import read_text_folder
from compressm_cli.data.tokens import BYTE_VOCABULARY, byte_tokens

Place = Annotated[str, Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, lt=0.5)]
ColumnName = Annotated[str, Field(min_length=1)]

HALF = 0.5
"""Mean and deviation that bring pixels from 0..1 to -1..1."""


class Files(TaskConfig):
    """``data: {task: files}``: classify the rows of a table, or the texts or images of a folder.

    A row of numbers is a sequence of one feature a step, in the order of ``feature_columns``, as they
    stand. A text is a sequence of its UTF-8 bytes. An image is a sequence of its pixels, row by row, of
    one feature (grey) or three (colour) scaled to -1..1. Paths start at the current folder.
    """

    paths: ClassVar[tuple[str, ...]] = ("train", "validation", "test")

    task: Literal["files"] = "files"
    format: Literal["csv", "json", "jsonl", "parquet", "text_folder", "image_folder"]
    """``text_folder`` and ``image_folder`` have one folder a class; csv needs a header."""
    train: Place
    """The file or folder of the training rows."""
    validation: Place | Share = 0.1
    """The file or folder of the validation rows, or the share of the training rows to hold out."""
    test: Place | Share = 0.1
    """The file or folder of the test rows, or the share of the training rows to hold out."""
    text_column: ColumnName | None = None
    """Of a table of texts."""
    feature_columns: Annotated[list[ColumnName], Field(min_length=1)] | None = None
    """Of a table of numbers: the columns whose values are the steps."""
    label_column: ColumnName | None = None
    """Of a table: the class, a text or a whole number."""
    max_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Bytes of a text that are read; null reads all."""
    split_seed: Seed = 0
    """Which rows are held out."""

    @model_validator(mode="after")
    def _keys_fit_the_format(self) -> "Files":
        keys = {"text_column": self.text_column, "feature_columns": self.feature_columns}
        given = [key for key, value in keys.items() if value is not None]
        if self.format.endswith("_folder"):
            if given or self.label_column is not None:
                raise ValueError(
                    f"{self.format} has no columns; leave out text_column, feature_columns, label_column"
                )
        elif len(given) != 1 or self.label_column is None:
            raise ValueError(f"{self.format} needs label_column and either text_column or feature_columns")
        if self.max_length is not None and self.text_column is None and self.format != "text_folder":
            raise ValueError("max_length is for texts; leave it out")
        inputs = self._input_columns()
        repeated = [name for name in inputs if inputs.count(name) > 1 or name == self.label_column]
        if repeated:
            raise ValueError(f"column {repeated[0]!r} is used twice; name each input once, and not the label")
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
        given = {key: place for key, place in places.items() if isinstance(place, str)}
        read = {key: self._read(place) for key, place in given.items()}
        classes = class_names(read["train"].labels)
        if len(classes) < 2:
            raise BadInputError(
                f"{self.train}: every row is of class {classes[0]!r}; there must be two classes or more"
            )
        for key, rows in read.items():
            if rows.shape != read["train"].shape:
                raise BadInputError(
                    f"{given[key]}: images of {rows.shape} (height, width, channels), but {self.train} has "
                    f"{read['train'].shape}; bring all to the same size and colours"
                )
        length = max(rows.length for rows in read.values())
        splits = {
            key: rows.split(class_numbers(rows.labels, classes, given[key]), length)
            for key, rows in read.items()
        }
        shares = {key: share for key, share in places.items() if not isinstance(share, str)}
        splits |= self._held_out(splits["train"], shares)
        counts = (len(splits["train"]), len(splits["validation"]), len(splits["test"]))
        return Dataset(read["train"].spec(len(classes), length, counts), **splits, class_names=classes)

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

    def _read(self, place: str) -> "RawRows":
        if self.format == "text_folder":
            texts, labels = read_text_folder(Path(place))
            return RawRows(labels, self._cut(texts))
        if self.format == "image_folder":
            images, labels = read_image_folder(Path(place))
            return RawRows(labels, decode_images(images, place))
        assert self.label_column is not None, "checked with the other keys"
        builder = "json" if self.format == "jsonl" else self.format
        names = self._input_columns()
        columns = read_columns(builder, [Path(place)], [*names, self.label_column])
        labels = columns[self.label_column].labels()
        if self.text_column is not None:
            return RawRows(labels, self._cut(columns[self.text_column].texts()))
        return RawRows(labels, np.stack([columns[name].numbers() for name in names], axis=1))

    def _input_columns(self) -> list[str]:
        return [self.text_column] if self.text_column is not None else list(self.feature_columns or [])

    def _cut(self, texts: list[bytes]) -> list[bytes]:
        return [text[: self.max_length] for text in texts]


@dataclass(frozen=True)
class RawRows:
    """What one file or folder holds: the label of each row, as it stands there, and one of

    texts; pixels (rows, height, width, channels) uint8; numbers (rows, steps) float32.
    """

    labels: list[str]
    content: list[bytes] | np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """What must be the same in all splits."""
        return () if isinstance(self.content, list) else self.content.shape[1:]

    @property
    def length(self) -> int:
        """Steps of the longest sequence."""
        if isinstance(self.content, list):
            return max(len(text) for text in self.content)
        return math.prod(self.shape[:2])

    def split(self, classes: Tensor, length: int) -> Split:
        """The rows as tensors, of ``length`` steps, with their class numbers (rows,)."""
        if isinstance(self.content, list):
            inputs, lengths = byte_tokens(self.content, length)
            return Split(inputs, classes, lengths)
        if self.content.ndim == 4:
            return Split(pixel_sequences(self.content, [HALF], [HALF]), classes)
        return Split(torch.from_numpy(self.content).unsqueeze(-1), classes)

    def spec(self, classes: int, length: int, rows: tuple[int, int, int]) -> DataSpec:
        """The description of a data set made of such rows."""
        if isinstance(self.content, list):
            return DataSpec(classes, length, vocabulary=BYTE_VOCABULARY, rows=rows)
        return DataSpec(classes, length, features=self.shape[2] if len(self.shape) == 3 else 1, rows=rows)


def _taken(rows: Split, index: Tensor) -> Split:
    lengths = None if rows.lengths is None else rows.lengths[index]
    return Split(rows.inputs[index], rows.labels[index], lengths)
