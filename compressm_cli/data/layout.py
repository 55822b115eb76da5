"""How a file or folder of the user's is laid out, and the rows that are read of it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.patterns import repeated
from compressm_cli.data.rows import Kind, Rows
from compressm_cli.data.sources.audio import AUDIO, read_audio_folder
from compressm_cli.data.sources.folders import suffix_of
from compressm_cli.data.sources.images import IMAGES, read_image_folder
from compressm_cli.data.sources.texts import TEXTS, read_text_folder
from compressm_cli.data.table_rows import TableRows


def _by_number(value: Any) -> Any:
    """Columns of a file without a header are called 1, 2, 3, ..., which YAML takes for numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


ColumnName = Annotated[str, BeforeValidator(_by_number), Field(min_length=1)]
ColumnNames = Annotated[list[ColumnName], Field(min_length=1)]
Pair = Annotated[list[ColumnName], Field(min_length=2, max_length=2)]
Format = Literal[
    "csv", "json", "jsonl", "parquet", "tsv", "npz", "ts", "text_folder", "image_folder", "audio_folder"
]
BY_TEXT = ("csv", "tsv")
"""Formats whose cells are texts."""
INPUTS = ("text_column", "feature_columns", "sequence_column", "image_column", "audio_column")
"""The keys that say what the model takes of a table; one of them is given."""
WITHOUT_COLUMNS = ("ts", "text_folder", "image_folder", "audio_folder")
"""Formats whose inputs and classes have no names."""


SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".tsv": "tsv",
    ".npz": "npz",
    ".ts": "ts",
}
"""What a file holds by its name, where nobody says it; before ``.gz`` where it is packed."""
FOLDERS: dict[Kind, Format] = {"texts": "text_folder", "images": "image_folder", "audio": "audio_folder"}
"""What a folder holds, or one file of those that lie in it, by what the model takes."""
CONTENTS = {"texts": TEXTS, "images": IMAGES, "audio": AUDIO}


def format_of(place: Path, takes: Kind) -> Format | None:
    """The format of a file or folder of the user's, for a model that takes such rows; None where nothing tells it."""
    content = CONTENTS.get(takes)
    alone = content is not None and suffix_of(place.name) in content.suffixes
    if alone or place.is_dir():
        return FOLDERS.get(takes)
    name = place.with_suffix("") if place.suffix.lower() == ".gz" else place
    return SUFFIXES.get(name.suffix.lower())


def in_format(format_: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a layout for a file of perhaps another format: without those that are for the old one alone."""
    if format_ in WITHOUT_COLUMNS:
        return {"format": format_}
    others = {"delimiter"} if format_ != settings.get("format") else set()
    others |= {"header", "decimal", "encoding"} if format_ not in BY_TEXT else set()
    others |= {"lengths_column"} if format_ != "npz" else set()
    return {key: value for key, value in settings.items() if key not in others} | {"format": format_}


class Layout(Config):
    """The keys of ``data: {task: files}`` that say what stands where; also those of an input to be predicted."""

    format: Format
    """``text_folder``, ``image_folder`` and ``audio_folder`` have one folder a class. Text formats may be packed by
    gzip (.gz). ``npz`` are arrays by name, which are its columns; ``ts`` are files of the archives of time series, with
    the class or the target last."""
    text_column: ColumnName | Pair | None = None
    """Of a table of texts; or two columns, ``[premise, hypothesis]``, of texts that are read together."""
    feature_columns: ColumnNames | None = None
    """Of a table of numbers: the columns whose values are the steps; with ``id_column`` the channels. Names, patterns
    such as ``t*``, ranges such as ``[t0..t49]``; ``*`` is all that are not named otherwise, 9 before 10."""
    sequence_column: ColumnName | ColumnNames | None = None
    """Of json, jsonl and parquet: the column of lists, one a row, of a number a step or of a list of numbers a step; or
    several columns of lists of numbers, one a channel. Of npz: the array (rows, steps) or (rows, steps, channels)."""
    lengths_column: ColumnName | None = None
    """Of npz: the array of the lengths of the series, where these are padded at the end, or one after another in an
    array (steps in all) or (steps in all, channels)."""
    image_column: ColumnName | None = None
    """Of a table of images: their paths, relative ones from the folder of the table on; in parquet also mappings of
    ``bytes`` and ``path``."""
    audio_column: ColumnName | None = None
    """The same of a table of recordings."""
    label_column: ColumnName | None = None
    """Of a table: the class, a text or a whole number."""
    target_columns: ColumnNames | None = None
    """Of a table, instead of a label: the numbers to be said of each row. In ts a name of yours for the number at the
    end."""
    target_text_column: ColumnName | None = None
    """Of a table of texts, instead of a label: the text to be said of each, such as its translation."""
    id_column: ColumnName | None = None
    """Of a table with a row a step: what series a row belongs to. Its label, or its targets, must
    be the same in all of them."""
    time_column: ColumnName | None = None
    """With ``id_column`` or ``horizon``: the order of the rows of a series, numbers or dates and times (ISO 8601); null
    is the order in the file. Steps count as equally far apart."""
    horizon: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """To forecast: rows are steps, of one series or, with ``id_column``, of several, and at each step the values that
    ``target_columns`` (null: all ``feature_columns``) have in so many steps after it are to be said."""
    header: bool = True
    """Of csv and tsv: whether the first line has the names of the columns; else they are called 1, 2, 3, ..."""
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """Of csv and tsv: what separates cells; null is a comma, and in tsv a tab. A blank stands for any run of them."""
    decimal: Literal["comma"] | None = None
    """Of csv and tsv: what is before the decimals of numbers; null is a point."""
    encoding: Literal["utf-16", "latin-1", "cp1252"] | None = None
    """Of csv and tsv: that of their text; null is UTF-8."""

    @model_validator(mode="after")
    def _columns_fit_the_format(self) -> Self:
        given = [key for key in INPUTS if getattr(self, key) is not None]
        if self.format in WITHOUT_COLUMNS:
            named = [] if self.format == "ts" else self.target_columns or []
            if given or named or self.label_column is not None or self.id_column is not None:
                raise ValueError(
                    f"{self.format} has no columns; leave out text_column, feature_columns, label_column"
                )
        elif len(given) != 1:
            raise ValueError(f"{self.format} needs label_column and {self.inputs_in_words}")
        elif self.format == "npz" and self.sequence_column is None:
            raise ValueError("npz needs sequence_column, the array of the series")
        elif self.sequence_column is not None and self.format in BY_TEXT:
            raise ValueError(
                f"sequence_column: the cells of {self.format} are texts; write lists as json, jsonl or parquet"
            )
        if self.lengths_column is not None and self.format != "npz":
            raise ValueError("lengths_column is for npz; leave it out")
        if self.format == "ts" and len(self.target_columns or [0]) > 1:
            raise ValueError("target_columns: ts has one number to be said; write one name")
        if self.label_column is not None and self.target_columns is not None:
            raise ValueError(
                "label_column is a class and target_columns are numbers to be said; write one of them"
            )
        if self.target_text_column is not None:
            if not isinstance(self.text_column, str):
                raise ValueError(
                    "target_text_column goes with text_column, one column of the texts that are read"
                )
            if self.label_column is not None or self.target_columns is not None:
                raise ValueError(
                    "target_text_column is what is to be said; leave out label_column and target_columns"
                )
        self._text_keys_fit()
        self._step_keys_fit()
        self._columns_differ()
        return self

    def _text_keys_fit(self) -> None:
        given = (None if self.header else False, self.delimiter, self.decimal, self.encoding)
        if self.format not in BY_TEXT and any(value is not None for value in given):
            raise ValueError("header, delimiter, decimal and encoding are for csv and tsv; leave them out")
        if self.delimiter in ('"', "\n", "\r"):
            raise ValueError(f"delimiter: {self.delimiter!r} cannot separate cells; write one such as ';'")

    def _step_keys_fit(self) -> None:
        if self.horizon is not None and (self.feature_columns is None or self.label_column is not None):
            raise ValueError(
                "horizon goes with feature_columns, and with target_columns rather than label_column"
            )
        if self.time_column is not None and self.id_column is None and self.horizon is None:
            raise ValueError("time_column goes with id_column, which says what series a row belongs to")
        if self.id_column is not None and self.feature_columns is None:
            raise ValueError("id_column goes with feature_columns, the channels of each step")

    def _columns_differ(self) -> None:
        names = [*self.input_columns, *self.named_columns]
        if (twice := repeated(names)) is not None:
            raise ValueError(f"column {twice!r} is used twice; name each input once, and not the label")

    @property
    def inputs_in_words(self) -> str:
        """The keys of which a table needs one."""
        if self.format == "npz":
            return "sequence_column"
        lists = "" if self.format in BY_TEXT else "sequence_column, "
        return f"either text_column or feature_columns (or {lists}image_column, audio_column)"

    @property
    def input_columns(self) -> list[str]:
        """The columns of a table that the model takes, as names or patterns."""
        given = next((value for key in INPUTS if (value := getattr(self, key)) is not None), None)
        return [given] if isinstance(given, str) else list(given or [])

    @property
    def kind(self) -> Kind:
        """What the rows are."""
        if self.text_column is not None:
            return "pairs" if isinstance(self.text_column, list) else "texts"
        if self.image_column is not None:
            return "images"
        if self.audio_column is not None:
            return "audio"
        return next((kind for kind, folder in FOLDERS.items() if folder == self.format), "series")

    @property
    def named_columns(self) -> list[str]:
        """The columns of a table that are named for anything else."""
        # What is forecast from itself is an input, too.
        targets = self.target_columns if self.horizon is None else None
        named = (
            *(self.label_column, self.target_text_column, *(targets or [])),
            *(self.id_column, self.time_column, self.lengths_column),
        )
        return [name for name in named if name is not None]

    def read(self, place: str | Sequence[str], labelled: bool = True) -> Rows:
        """The rows of a file or folder, or of files (also by a pattern), with their labels where they are ``labelled``.

        Raises BadInputError for what is missing in it or cannot be used, with file, row and column.
        """
        if self.format == "text_folder":
            return read_text_folder(self._folder(place), labelled)
        if self.format == "image_folder":
            return read_image_folder(self._folder(place), labelled)
        if self.format == "audio_folder":
            return read_audio_folder(self._folder(place), labelled)
        return TableRows(self, place, labelled).read()

    def _folder(self, place: str | Sequence[str]) -> Path:
        if not isinstance(place, str):
            raise BadInputError(f"{', '.join(place)}: {self.format} is one folder; give one alone")
        return Path(place)
