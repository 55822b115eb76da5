"""The user's own data: a csv, json or parquet file, or a folder of texts or images."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.augmentation import ImageTaskConfig
from compressm_cli.data.encoded import encoded
from compressm_cli.data.encodings import (
    AnyInputs,
    Audio,
    Bytes,
    Classes,
    Encoding,
    Numbers,
    Pixels,
    Series,
    Texts,
    Tokenizer,
    Tokens,
)
from compressm_cli.data.encodings.audio import Features, Rate, Seconds
from compressm_cli.data.encodings.images import WHITE, Grey, Resize, Side, on_background
from compressm_cli.data.encodings.source_target import pairs_of
from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.encodings.tokens import SPARE, numbers_of
from compressm_cli.data.forecasting import ahead_names, stretches, windows_of
from compressm_cli.data.interface import Dataset, DataSpec, Split
from compressm_cli.data.labels import class_names, first_order
from compressm_cli.data.layout import WITHOUT_COLUMNS, Layout
from compressm_cli.data.patterns import files_of, require_apart, require_there
from compressm_cli.data.recordings import Recordings
from compressm_cli.data.report import Report, report_of
from compressm_cli.data.rows import Rows
from compressm_cli.data.scaling import Scaling, Standardize, scaling
from compressm_cli.data.splits import Seed, hold_out
from compressm_cli.data.steps import Steps
from compressm_cli.data.tokenizer import read_tokenizer

Place = Annotated[str, Field(min_length=1)]
Places = Annotated[list[Place], Field(min_length=1)]
Share = Annotated[float, Field(gt=0.0, lt=0.5)]

KEYS = {
    "texts": ("texts", ("max_length", "tokenizer")),
    "images": ("images", ("image_size", "resize", "colours", "background", "as_images", "augment")),
    "audio": ("recordings", ("sampling_rate", "features", "chunk_seconds", "max_seconds")),
}
"""The keys that say how some kind of rows is encoded, and what it is called."""
TEXTS = ("texts", "pairs")
"""Kinds of rows that are encoded alike."""
KEYS_BEFORE = {
    *("task", "format", "train", "validation", "test", "text_column", "feature_columns", "label_column"),
    *("max_length", "split_seed"),
}
"""All keys of the first version of the task, each of which its runs wrote into their recipes."""
PERCENT = re.compile(r"\d+(\.\d+)?\s*%")
"""What is meant for a share, and would be the name of a file."""
HALF = 0.5
"""Mean and deviation that bring pixels from 0..1 to -1..1."""


class Files(Layout, ImageTaskConfig):
    """``data: {task: files}``: say the class, numbers or a text of each row of a table, or the class of each file of a
    folder.

    A row of numbers is a sequence of one feature a step, in the order of ``feature_columns``. Series with several
    features a step are lists in a row (``sequence_column``), or rows that belong together (``id_column``). A text is a
    sequence of its UTF-8 bytes, or of the tokens of a ``tokenizer``. Two texts of a row become one, with a token
    between them; texts without labels are learned from by ``objective: {kind: masked_language}``. An image is a
    sequence of its pixels, row by row, of one feature (grey) or three (colour) scaled to -1..1, or, with ``as_images``,
    as it stands. A recording (.wav, .flac, .aif, .aiff, .au) is the mean of its channels, -1..1, a sample a step, or 13
    mel-frequency cepstral coefficients every 10 ms, and is standardized by the training rows; that takes ``pip install
    'compressm[audio]'``. Paths start at the current folder.

    Of a folder, the outermost folders are the classes, and all files below them with a fitting suffix, in upper or
    lower case, are rows; those of texts are .txt, .text,
    .md, .rst, .tex, .org and .html, or none. Links are followed. What is hidden, left there by a system, of another
    kind, or beside the folders of the classes is left out and counted. Images have 8 bits a channel and one frame;
    they are turned as their EXIF data say.
    """

    paths: ClassVar[tuple[str, ...]] = ("train", "validation", "test", "tokenizer")

    task: Literal["files"] = "files"
    train: Place | Places
    """The file or folder of the training rows; of a table also several files, listed or by a pattern such as
    ``part-*.csv``, whose rows follow one another, 9 before 10."""
    validation: Place | Places | Share = 0.1
    """The same of the validation rows, or the share of the training rows to hold out."""
    test: Place | Places | Share = 0.1
    """The same of the test rows, or the share of the training rows to hold out."""
    max_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Bytes of a text that are read, or its tokens where there is a ``tokenizer``; null reads all. Of a pair the longer
    text loses its end; what stands between the two counts as one."""
    tokenizer: Place | None = None
    """Of texts: a tokenizer.json, read by the package tokenizers, whose tokens are the steps instead of bytes. Special
    tokens are not added. It is kept in each checkpoint."""
    image_size: Annotated[list[Side], Field(min_length=2, max_length=2)] | None = None
    """Height and width that images are brought to as ``resize`` says; null refuses those of another size than the
    first."""
    resize: Resize | None = None
    """``stretch`` to ``image_size``; ``fit`` within it, with ``background`` on two sides; ``crop`` what is beyond it on
    two sides."""
    colours: Literal["grey", "rgb"] | None = None
    """What images are converted to; null refuses those that are not as the first."""
    background: Grey | None = None
    """What shows through where an image is transparent, 0 (black) to 255 (white, as null)."""
    sampling_rate: Rate | None = None
    """Samples a second that recordings are brought to; null is that of the first, and refuses others."""
    features: Features | None = None
    """Of recordings: ``raw`` (as null), a sample a step; ``mfcc``, 13 cepstral coefficients every 10 ms."""
    chunk_seconds: Seconds | None = None
    """Longer recordings are cut into pieces of so many seconds, each a row with the label of its file; all pieces of a
    file are in one split."""
    max_seconds: Seconds | None = None
    """Seconds of a recording that are read; null reads all."""
    window: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """With ``horizon``: steps of a row."""
    stride: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """With ``horizon``: steps from one training row to the next; null is ``window``, as of other rows."""
    standardize: Standardize = "auto"
    """Of series and of ``target_columns``: whether each channel, and each target, is brought to a mean of 0 and a
    deviation of 1, those of the training rows. ``auto`` does where one of them is far from that: a mean of more than 10
    deviations, or a deviation that is not 0.1 to 10."""
    split_seed: Seed = 0
    """Which rows are held out."""

    @model_validator(mode="before")
    @classmethod
    def _as_it_was_before(cls, values: Any) -> Any:
        """What a run of an earlier version wrote, with all keys that there were: numbers were as they stand."""
        if isinstance(values, dict) and values.keys() >= KEYS_BEFORE and "standardize" not in values:
            return {**values, "standardize": False}
        return values

    @model_validator(mode="after")
    def _keys_fit_the_format(self) -> Self:
        said = (self.label_column, self.target_text_column, self.target_columns, self.horizon)
        has_labels = any(value is not None for value in said)
        if self.format not in WITHOUT_COLUMNS and not has_labels and not self.own_tokens:
            raise ValueError(
                f"{self.format} needs label_column and {self.inputs_in_words}, or target_columns or target_text_column"
            )
        self._keys_fit_the_kind()
        if (self.horizon is None) != (self.window is None) or (
            self.stride is not None and self.window is None
        ):
            raise ValueError("horizon, window and stride go together, as in horizon: 24, window: 168")
        shares = (value for value in (self.validation, self.test) if isinstance(value, str))
        if (percent := next((one for one in shares if PERCENT.fullmatch(one)), None)) is not None:
            raise ValueError(f"{percent!r} is no share; write a number below 0.5, such as 0.1")
        named = (
            one for value in self._places().values() for one in ([value] if isinstance(value, str) else value)
        )
        places = [Path.cwd() / place for place in named]
        if len(set(places)) != len(places):
            raise ValueError(
                "train, validation and test must be different; write a share such as 0.1 to split one"
            )
        return self

    def _keys_fit_the_kind(self) -> None:
        own = "texts" if self.kind in TEXTS else self.kind
        for kind, (what, keys) in KEYS.items():
            given = [key for key in keys if (value := getattr(self, key)) is not None and value is not False]
            if given and own != kind:
                raise ValueError(f"{given[0]} is for {what}; leave it out")
        numbers = self.target_columns or self.feature_columns or self.sequence_column or self.format == "ts"
        if self.standardize is True and not numbers:
            raise ValueError("standardize is for series of numbers and for target_columns; leave it out")
        if (self.image_size is None) != (self.resize is None):
            raise ValueError("image_size and resize go together, as in image_size: [32, 32], resize: fit")
        if self.target_text_column is not None and self.max_length is not None:
            raise ValueError("texts of pairs are read whole; leave out max_length")
        if self.chunk_seconds is not None and self.max_seconds is not None:
            raise ValueError(
                "chunk_seconds reads all of a recording and max_seconds its beginning; give one of them"
            )

    @property
    def own_tokens(self) -> bool:
        """Of a table of texts without labels."""
        said = (self.label_column, self.target_columns, self.target_text_column)
        return self.text_column is not None and all(value is None for value in said)

    def default_objective(self) -> str:
        """Numbers are learned by regression, of the steps that follow by forecasting."""
        if self.horizon is not None:
            return "forecasting"
        if self.target_text_column is not None:
            return "translation"
        return "classification" if self.target_columns is None else "regression"

    def load(self) -> Dataset:
        """Read the files.

        Raises BadInputError for what is missing in them or cannot be used, with file, row and column.
        """
        places = {"train": self.train, "validation": self.validation, "test": self.test}
        named = {key: place for key, place in self._places().items() if key in places}
        require_there(named, "folder" if self.format.endswith("_folder") else "file")
        if not self.format.endswith("_folder"):
            require_apart({key: files_of(place, self.format) for key, place in named.items()})
        read = {key: self.read(place) for key, place in places.items() if not isinstance(place, float)}
        whole, files = read["train"], list(read)
        classes = self._classes(whole)
        shares = {key: share for key, share in places.items() if isinstance(share, float)}
        read |= self._held_out(whole, classes, shares)
        scalings = self._scalings(read["train"])
        encoding = self._encoding(read, whole, classes, scalings)
        read = {key: self._windows(key, rows) for key, rows in read.items()}
        splits = encoded(read, encoding)
        counts = (len(splits["train"]), len(splits["validation"]), len(splits["test"]))
        spec = encoding.spec(splits["train"].length, counts)
        report = report_of(read, splits, encoding, scalings, files)
        return Dataset(spec, **splits, class_names=encoding.class_names, encoding=encoding, report=report)

    def target_text(self, tokens: Sequence[int]) -> str:
        return Bytes().decode(tokens)

    def _encoding(
        self, read: dict[str, Rows], whole: Rows, classes: Classes | None, scalings: dict[str, Scaling]
    ) -> Encoding:
        """What the rows ask for: those of training, and of pairs of texts the longest of all splits."""
        if self.target_text_column is not None:
            return Encoding(inputs=pairs_of(list(read.values())), outputs=Texts())
        outputs = Tokens(ahead=0) if self.own_tokens else classes or self._numbers(scalings["targets"])
        return Encoding(inputs=self._inputs(whole, read["train"], scalings), outputs=outputs)

    def described(self) -> tuple[DataSpec, Report | None]:
        dataset = self.dataset()
        return dataset.spec, dataset.report

    def encoded_split(self, name: str, encoding: Encoding) -> Split | None:
        """Of a split with a file of its own; BadInputError for a label that is none of the model's."""
        place = getattr(self, name)
        if isinstance(place, float):
            return None
        return encoded({name: self._windows(name, self.read(place))}, encoding)[name]

    def _classes(self, rows: Rows) -> Classes | None:
        """The classes of all rows of the training file; None where they have targets instead, or say themselves."""
        others = (self.target_columns, self.target_text_column, self.horizon)
        if any(value is not None for value in others) or self.own_tokens:
            return None
        names = class_names(rows.labels or [])
        if len(names) < 2:
            raise BadInputError(
                f"{rows.source}: every row is of class {names[0]!r}; there must be two classes or more"
            )
        return Classes(names=names)

    def _scalings(self, rows: Rows) -> dict[str, Scaling]:
        """What becomes of the numbers of the training rows: of the channels of series, and of targets."""
        found = {}
        if rows.kind == "series":
            found["channels"] = scaling(Steps(rows.content), list(rows.channels or []), self.standardize)
        if rows.targets is not None:
            found["targets"] = scaling(rows.targets, list(rows.target_names or []), self.standardize)
        if rows.step_targets is not None:
            values = np.concatenate(rows.step_targets)
            found["targets"] = scaling(values, list(rows.target_names or []), self.standardize)
        return found

    def _numbers(self, found: Scaling) -> Numbers:
        """Of each row, or of the steps after each step."""
        names, scales = list(found.names), found.standardization
        if self.horizon is None:
            return Numbers(names=names, standardization=scales)
        if scales is not None:
            scales = Standardization(
                mean=scales.mean * self.horizon, deviation=scales.deviation * self.horizon
            )
        return Numbers(names=ahead_names(names, self.horizon), standardization=scales, per_step=True)

    def _windows(self, split: str, rows: Rows) -> Rows:
        """Of series that are to be forecast, their windows; other rows as they are."""
        if self.horizon is None or self.window is None:
            return rows
        stride = self.stride if split == "train" else None
        return windows_of(rows, split, self.window, self.horizon, stride or self.window)

    def _inputs(self, whole: Rows, rows: Rows, scalings: dict[str, Scaling]) -> AnyInputs:
        """The encoding that the training rows ask for, of the ``whole`` that was read."""
        if rows.kind in TEXTS:
            return self._text_inputs(rows.kind == "pairs")
        if rows.kind == "images":
            return self._pixels(whole.content[0])
        if rows.kind == "audio":
            return self._audio(rows)
        columns = None if rows.columns is None else list(rows.columns)
        found = scalings["channels"]
        return Series(
            channels=list(found.names),
            named=rows.named,
            columns=columns,
            standardization=found.standardization,
        )

    def _text_inputs(self, pairs: bool) -> Bytes | Tokenizer:
        if self.tokenizer is None:
            return Bytes(max_length=self.max_length, pairs=pairs)
        text = read_tokenizer(Path(self.tokenizer))
        size = numbers_of(text) + SPARE
        return Tokenizer(size=size, json_text=text, max_length=self.max_length, pairs=pairs)

    def _pixels(self, first: bytes | np.ndarray) -> Pixels:
        """Of the size and colours that are asked for, else of the first image."""
        assert isinstance(first, np.ndarray), "images are arrays"
        height, width, channels = on_background(first).shape
        if self.colours is not None:
            channels = 1 if self.colours == "grey" else 3
        height, width = self.image_size or (height, width)
        return Pixels(
            height=height,
            width=width,
            mean=[HALF] * channels,
            deviation=[HALF] * channels,
            any_colours=self.colours is not None,
            background=WHITE if self.background is None else self.background,
            resize=self.resize,
            as_images=self.as_images,
        )

    def _audio(self, rows: Rows) -> Audio:
        """At the rate that is asked for, else at that of all recordings."""
        assert isinstance(rows.content, Recordings), "audio is recordings"
        rates = [clip.rate for clip in rows.content.clips]
        if self.sampling_rate is None and (other := next((r for r in rates if r != rates[0]), None)):
            raise BadInputError(
                f"{rows.content.places[rates.index(other)]}: {other:,} samples a second, and the first has "
                f"{rates[0]:,}; write the rate that all are brought to, such as data.sampling_rate={min(rates)}"
            )
        inputs = Audio(
            sampling_rate=self.sampling_rate or rates[0],
            represented=self.features or "raw",
            chunk_seconds=self.chunk_seconds,
            max_seconds=self.max_seconds,
        )
        return inputs.fitted(rows)

    def _held_out(self, rows: Rows, classes: Classes | None, shares: dict[str, float]) -> dict[str, Rows]:
        """The training rows, less those that become the splits named in ``shares``."""
        if not shares:
            return {}
        if self.horizon is not None:
            return stretches(rows, shares)
        counts = [max(1, round(share * len(rows))) for share in shares.values()]
        if sum(counts) >= len(rows):
            raise BadInputError(
                f"{rows.source}: {len(rows)} rows are too few to hold some out; add rows, or give files of "
                f"their own as {' and '.join(f'data.{key}' for key in shares)}"
            )
        labels = torch.zeros(len(rows), dtype=torch.int64)
        if classes is not None:
            labels = Classes(names=first_order(classes.names)).encode(rows)
        indices = hold_out(labels, counts, self.split_seed)
        return {
            key: rows.taken(index.numpy()) for key, index in zip([*shares, "train"], indices, strict=True)
        }
