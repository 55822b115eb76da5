"""How a file or folder of the user's is laid out, and the rows that are read of it."""

from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from compressm_cli.core.config import Config
from compressm_cli.data.rows import Kind, Rows
from compressm_cli.data.sources.folders import suffix_of
from compressm_cli.data.sources.images import IMAGES, read_image_folder
from compressm_cli.data.sources.texts import TEXTS, read_text_folder
from compressm_cli.data.tables import read_columns

ColumnName = Annotated[str, Field(min_length=1)]
Format = Literal["csv", "json", "jsonl", "parquet", "text_folder", "image_folder"]


SUFFIXES: dict[str, Format] = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".parquet": "parquet"}
"""What a file holds by its name, where nobody says it."""
FOLDERS: dict[Kind, Format] = {"texts": "text_folder", "images": "image_folder"}
"""What a folder holds, or one file of those that lie in it, by what the model takes."""
CONTENTS = {"texts": TEXTS, "images": IMAGES}


def format_of(place: Path, takes: Kind) -> Format | None:
    """The format of a file or folder of the user's, for a model that takes such rows; None where nothing tells it."""
    content = CONTENTS.get(takes)
    alone = content is not None and suffix_of(place.name) in content.suffixes
    return FOLDERS.get(takes) if alone or place.is_dir() else SUFFIXES.get(place.suffix.lower())


class Layout(Config):
    """The keys of ``data: {task: files}`` that say what stands where; also those of an input to be predicted."""

    format: Format
    """``text_folder`` and ``image_folder`` have one folder a class; csv needs a header."""
    text_column: ColumnName | None = None
    """Of a table of texts."""
    feature_columns: Annotated[list[ColumnName], Field(min_length=1)] | None = None
    """Of a table of numbers: the columns whose values are the steps."""
    label_column: ColumnName | None = None
    """Of a table: the class, a text or a whole number."""

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> Self:
        keys = {"text_column": self.text_column, "feature_columns": self.feature_columns}
        given = [key for key, value in keys.items() if value is not None]
        if self.format.endswith("_folder"):
            if given or self.label_column is not None:
                raise ValueError(
                    f"{self.format} has no columns; leave out text_column, feature_columns, label_column"
                )
        elif len(given) != 1:
            raise ValueError(f"{self.format} needs label_column and either text_column or feature_columns")
        inputs = self.input_columns
        repeated = [name for name in inputs if inputs.count(name) > 1 or name == self.label_column]
        if repeated:
            raise ValueError(f"column {repeated[0]!r} is used twice; name each input once, and not the label")
        return self

    @property
    def input_columns(self) -> list[str]:
        """The columns of a table that the model takes."""
        return [self.text_column] if self.text_column is not None else list(self.feature_columns or [])

    def read(self, place: str, labelled: bool = True) -> Rows:
        """The rows of a file or folder, with their labels where they are ``labelled``.

        Raises BadInputError for what is missing in it or cannot be used, with file, row and column.
        """
        if self.format == "text_folder":
            return read_text_folder(Path(place), labelled)
        if self.format == "image_folder":
            return read_image_folder(Path(place), labelled)
        return self._read_table(place, labelled)

    def _read_table(self, place: str, labelled: bool) -> Rows:
        builder = "json" if self.format == "jsonl" else self.format
        label = [self.label_column] if labelled and self.label_column is not None else []
        columns = read_columns(builder, [Path(place)], [*self.input_columns, *label])
        labels = columns[label[0]].labels() if label else None
        if self.text_column is not None:
            return Rows(place, "texts", columns[self.text_column].texts(), labels=labels)
        numbers = np.stack([columns[name].numbers() for name in self.input_columns], axis=1)
        return Rows(place, "series", list(numbers[:, :, None]), labels=labels, channels=["value"])
