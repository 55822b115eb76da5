"""Language modelling with any vocabulary: tokens of the user's, or drawn at random."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Ids, Tokenizer, Tokens
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.patterns import files_of, require_apart, require_there
from compressm_cli.data.splits import Rows
from compressm_cli.data.text_lm import Share
from compressm_cli.data.token_sources import Dtype, tells_itself, tokens_of
from compressm_cli.data.tokenizer import read_tokenizer
from compressm_cli.data.tokens import id_type
from compressm_cli.data.windows import Stretch, cut, shortest, window_count, window_views, windows

Place = Annotated[str, Field(min_length=1)]

RANDOM_ROWS = 256
"""Training rows of random tokens, unless the recipe says otherwise."""
SEED = 0


class TokenFiles(TaskConfig):
    """``data: {task: tokens}``: say the next token at every step, with the vocabulary of some tokenizer.

    The tokens are cut into three stretches, train, validation, test, where the last two have no files of their own,
    and each of them into windows. All tokens are scored: token 0 is not padding here. A file is one of

    * ``.npy``: integers in one dimension, which are read where they lie, also where they are more than memory holds;
    * ``.jsonl``, also ``.jsonl.gz``: a list of numbers a line. Documents follow each other, and a window may end in
      another one than it begins in: write the token that ends a text yourself;
    * any other with ``dtype``: raw numbers, the lowest byte first, read where they lie too;
    * any other with ``tokenizer``: a text in UTF-8, also packed as ``.gz``.

    A path may be a pattern, ``train-*.npy``: its files follow each other in the order of the numbers in their names.
    Without ``path`` tokens are uniform random numbers, for timing, and for calibration where there is no text; there
    is nothing to learn from them, so no model is judged on them.
    """

    paths: ClassVar[tuple[str, ...]] = ("path", "validation", "test", "tokenizer")
    own_objective: ClassVar[str] = "language"

    task: Literal["tokens"] = "tokens"
    vocabulary: Annotated[int, Field(ge=1, le=10_000_000)]
    """Number of distinct tokens, 0 to vocabulary - 1."""
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Steps of a sequence."""
    path: Place | None = None
    """A file, or a pattern of several: .npy, .jsonl, raw numbers with ``dtype``, or a text (UTF-8) with ``tokenizer``.
    null draws random tokens."""
    validation: Place | None = None
    """The same of the validation stretch; null takes its share of ``path``."""
    test: Place | None = None
    """The same of the test stretch; null takes its share of ``path``."""
    dtype: Dtype | None = None
    """Of files of raw numbers, which have no header that says it."""
    tokenizer: Place | None = None
    """Of a text: the tokenizer.json of a model, read by the package tokenizers. Special tokens are not added, nor are
    rows cut or padded as it says. It is kept in each checkpoint, which grows by its size, often some megabytes."""
    rows: Rows | None = None
    """Training rows of random tokens; null means 256. The shares of validation and test are counted from it."""
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens from one training window of a file to the next; null is ``length``, so that each token is a label once."""
    validation_share: Share = 0.05
    """Share of the tokens that is the validation stretch, where it has no file of its own."""
    test_share: Share = 0.05
    """Share of the tokens that is the test stretch, their end, where it has no file of its own."""

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> "TokenFiles":
        if self.path is None:
            keys = ("tokenizer", "dtype", "stride", "validation", "test")
            given = [key for key in keys if getattr(self, key) is not None]
            if given:
                raise ValueError(f"{' and '.join(given)}: only with path; random tokens have none")
            return self
        if self.rows is not None:
            raise ValueError("rows: only without path; a file has as many windows as fit")
        needed = not all(map(tells_itself, self._sources().values()))
        if [self.tokenizer, self.dtype].count(None) != (1 if needed else 2):
            raise ValueError(
                "write tokenizer for a text, and only for a text, or dtype for raw numbers, and only for these: "
                "a .npy or .jsonl file tells its tokens itself"
            )
        return self

    def load(self) -> Dataset:
        """Read or draw the tokens, and cut them.

        Raises BadInputError for a file that cannot be read, that is too short, or that has a token beyond the
        vocabulary.
        """
        if self.path is None:
            return self._random()
        encoding = Encoding(inputs=self._inputs(), outputs=Tokens())
        train, validation, test = self._stretches()
        self._require_window(shortest((train, validation, test)))
        strides = (self.stride or self.length, self.length, self.length)
        splits = [
            window_views(torch.from_numpy(part.tokens), self.length, stride)
            for part, stride in zip((train, validation, test), strides, strict=True)
        ]
        counts = [
            window_count(len(part.tokens), self.length, stride)
            for part, stride in zip((train, validation, test), strides, strict=True)
        ]
        spec = self._spec((counts[0], counts[1], counts[2]), encoding.inputs.mask)
        return Dataset(spec, *splits, encoding=encoding)

    def encoded_split(self, name: str, encoding: Encoding) -> Split | None:
        """Of a split with a file of its own: as the model's tokenizer, if it has one, makes tokens of it."""
        place = {"validation": self.validation, "test": self.test}.get(name)
        inputs = encoding.inputs
        if place is None or not isinstance(inputs, Ids | Tokenizer):
            return None
        if isinstance(inputs, Ids) and self.dtype is None and not tells_itself(place):
            inputs = self._inputs()
        tokens = tokens_of(files_of(place, "token"), inputs, self.dtype)
        self._require_window(Stretch(name, place, tokens, len(tokens)))
        return window_views(torch.from_numpy(tokens), self.length, self.length)

    def _require_window(self, stretch: Stretch) -> None:
        """BadInputError for a stretch that is too short for one."""
        if len(stretch.tokens) <= self.length:
            raise BadInputError(
                f"{stretch.place}: of {stretch.total:,} tokens, the {stretch.name} part is {len(stretch.tokens):,}, "
                f"and a window of length {self.length} takes {self.length + 1:,}; "
                "write a smaller data.length, other shares, or take a longer file"
            )

    def sources(self) -> dict[str, list[Path]]:
        require_there(self._sources(), "file")
        return {key: files_of(place, "token") for key, place in self._sources().items()}

    def _sources(self) -> dict[str, str]:
        return {key: place for key, place in self.places().items() if key != "tokenizer"}

    def _stretches(self) -> tuple[Stretch, Stretch, Stretch]:
        files = self.sources()
        require_apart(files)
        inputs, places = self._inputs(), self._sources()
        read = {key: (places[key], tokens_of(found, inputs, self.dtype)) for key, found in files.items()}
        return cut(
            read["path"],
            (read.get("validation"), self.validation_share),
            (read.get("test"), self.test_share),
        )

    def _inputs(self) -> Ids | Tokenizer:
        if self.tokenizer is None:
            return Ids(size=self.vocabulary)
        return Tokenizer(size=self.vocabulary, json_text=read_tokenizer(Path(self.tokenizer)))

    def unjudged(self) -> str | None:
        """Random tokens, that is."""
        if self.path is not None:
            return None
        return (
            "the recipe names no text, so the data are uniformly random tokens; write data.path=corpus.txt "
            "data.tokenizer=tokenizer.json (the model's own), or data.path=tokens.npy (token numbers)"
        )

    def spec(self) -> DataSpec:
        """Known without drawing random tokens; a file is read."""
        return self._spec(self._random_rows()) if self.path is None else super().spec()

    def _spec(self, rows: tuple[int, int, int], mask: int | None = None) -> DataSpec:
        return DataSpec(
            classes=self.vocabulary,
            length=self.length,
            vocabulary=self.vocabulary,
            rows=rows,
            per_step=True,
            mask=mask,
        )

    def _random_rows(self) -> tuple[int, int, int]:
        train = self.rows or RANDOM_ROWS
        return train, max(1, round(self.validation_share * train)), max(1, round(self.test_share * train))

    def _random(self) -> Dataset:
        spec = self._spec(self._random_rows())
        splits = (self._drawn(place, rows) for place, rows in enumerate(spec.rows))
        return Dataset(spec, *splits, encoding=Encoding(inputs=Ids(size=self.vocabulary), outputs=Tokens()))

    def _drawn(self, place: int, rows: int) -> Split:
        """Rows of random tokens; each split has a random stream of its own."""
        random = np.random.RandomState([SEED, place])
        tokens = random.randint(self.vocabulary, size=rows * (self.length + 1), dtype=np.int32)
        small = np.ascontiguousarray(tokens, dtype=id_type(self.vocabulary))
        return windows(torch.from_numpy(small), self.length, self.length + 1)
