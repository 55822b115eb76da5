"""Language modelling with any vocabulary: tokens of the user's, or drawn at random."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Ids, Tokenizer, Tokens
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.reading import reading
from compressm_cli.data.splits import Rows
from compressm_cli.data.text_lm import Share
from compressm_cli.data.tokenizer import read_tokenizer
from compressm_cli.data.tokens import id_type
from compressm_cli.data.windows import NAMES, stretch_sizes, window_count, windows

Place = Annotated[str, Field(min_length=1)]

RANDOM_ROWS = 256
"""Training rows of random tokens, unless the recipe says otherwise."""
SEED = 0


class TokenFiles(TaskConfig):
    """``data: {task: tokens}``: say the next token at every step, with the vocabulary of some tokenizer.

    The tokens are cut into three stretches, train, validation, test, and each of them into windows. All
    tokens are scored: token 0 is not padding here. Without ``path`` tokens are uniform random numbers, for
    timing, and for calibration where there is no text; there is nothing to learn from them, so no model is judged on
    them.
    """

    paths: ClassVar[tuple[str, ...]] = ("path", "tokenizer")
    own_objective: ClassVar[str] = "language"

    task: Literal["tokens"] = "tokens"
    vocabulary: Annotated[int, Field(ge=1, le=10_000_000)]
    """Number of distinct tokens, 0 to vocabulary - 1."""
    length: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    """Steps of a sequence."""
    path: Place | None = None
    """A .npy file of integers in one dimension, or a text file (UTF-8) with ``tokenizer``. null draws random tokens."""
    tokenizer: Place | None = None
    """Of a text: the tokenizer.json of a model, read by the package tokenizers. Special tokens are not added, nor are
    rows cut or padded as it says. It is kept in each checkpoint, which grows by its size, often some megabytes."""
    rows: Rows | None = None
    """Training rows of random tokens; null means 256. The shares of validation and test are counted from it."""
    stride: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Tokens from one training window of a file to the next; null is ``length``, so that each token is a label once."""
    validation_share: Share = 0.05
    """Share of the tokens that is the validation stretch."""
    test_share: Share = 0.05
    """Share of the tokens that is the test stretch, their end."""

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> "TokenFiles":
        if self.path is None:
            given = [key for key in ("tokenizer", "stride") if getattr(self, key) is not None]
            if given:
                raise ValueError(f"{' and '.join(given)}: only with path; random tokens have none")
        elif self.rows is not None:
            raise ValueError("rows: only without path; a file has as many windows as fit")
        elif self.path.endswith(".npy") == (self.tokenizer is not None):
            raise ValueError(
                "write tokenizer for a text, and only for a text: a .npy file holds tokens already"
            )
        return self

    def load(self) -> Dataset:
        """Read or draw the tokens, and cut them.

        Raises BadInputError for a file that cannot be read, that is too short, or that has a token beyond the
        vocabulary.
        """
        if self.path is None:
            return self._random()
        tokens = self._read(Path(self.path))
        sizes = stretch_sizes(len(tokens), self.validation_share, self.test_share)
        if min(sizes) <= self.length:
            raise BadInputError(
                f"{self.path}: of {len(tokens):,} tokens, the {NAMES[sizes.index(min(sizes))]} part is {min(sizes):,}, "
                f"and a window of length {self.length} takes {self.length + 1:,}; "
                "write a smaller data.length, other shares, or take a longer file"
            )
        strides = (self.stride or self.length, self.length, self.length)
        counts = [window_count(size, self.length, s) for size, s in zip(sizes, strides, strict=True)]
        pieces = torch.from_numpy(self._small(tokens)).split(list(sizes))
        splits = (windows(piece, self.length, s) for piece, s in zip(pieces, strides, strict=True))
        return Dataset(
            self._spec((counts[0], counts[1], counts[2])),
            *splits,
            encoding=Encoding(inputs=self._inputs(), outputs=Tokens()),
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

    def _spec(self, rows: tuple[int, int, int]) -> DataSpec:
        return DataSpec(
            classes=self.vocabulary,
            length=self.length,
            vocabulary=self.vocabulary,
            rows=rows,
            per_step=True,
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
        return windows(torch.from_numpy(self._small(tokens)), self.length, self.length + 1)

    def _small(self, tokens: np.ndarray) -> np.ndarray:
        """The same in the smaller of the two types that hold them."""
        return np.ascontiguousarray(tokens, dtype=id_type(self.vocabulary))

    def _read(self, path: Path) -> np.ndarray:
        """The file's tokens (tokens,), all within the vocabulary."""
        inputs = self._inputs()
        tokens = (
            _encoded(path, inputs, str(self.tokenizer)) if isinstance(inputs, Tokenizer) else _numbers(path)
        )
        outside = np.flatnonzero((tokens < 0) | (tokens >= self.vocabulary))
        if len(outside):
            raise BadInputError(
                f"{path}: token {tokens[outside[0]]} at position {outside[0]:,} ({len(outside):,} such in all) is not "
                f"of the vocabulary, 0 to {self.vocabulary - 1}; correct data.vocabulary or the file"
            )
        return tokens


def _numbers(path: Path) -> np.ndarray:
    if not path.exists():
        raise BadInputError(f"{path}: no such file; correct data.path")
    with reading(path, "not a readable .npy file of integers", "correct data.path"):
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(tokens, np.ndarray):
        raise BadInputError(f"{path}: several arrays; write one, of integers in one dimension")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: an array of {tokens.dtype} and shape {tokens.shape}; write integers in one dimension"
        )
    return tokens


def _encoded(path: Path, tokenizer: Tokenizer, place: str) -> np.ndarray:
    """The tokens of a text."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read ({error.strerror}); correct the path") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: not a UTF-8 text ({error})") from error
    with reading(path, f"{place} cannot make tokens of it", "correct data.path or data.tokenizer"):
        return tokenizer.ids(text)
