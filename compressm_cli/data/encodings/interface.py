"""What an encoding promises: rows as they stand in files in, tensors out, with nothing but what it has stored."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.rows import Kind, Rows
from compressm_cli.data.tokens import id_type, padded


class TextStream(Protocol):
    """Tokens that come one at a time, as the text that they are: never half a character."""

    def add(self, token: int) -> str:
        """The text that is certain with one more token, perhaps none."""
        ...

    def end(self) -> str:
        """What is left; what is no whole character becomes U+FFFD."""
        ...


class Inputs(Config):
    """How rows become what a model takes; each kind is one subclass, named in ``encodings.Encoding``."""

    kind: str

    @property
    @abstractmethod
    def takes(self) -> Kind:
        """The kind of rows that are encoded."""

    @property
    def vocabulary(self) -> int | None:
        """Number of distinct tokens; None where steps are real vectors."""
        return None

    @property
    def separator(self) -> int | None:
        """The token between the two texts of a pair; None where there are none."""
        return None

    @property
    def mask(self) -> int | None:
        """A token that stands for no text, and may hide another one; None where there is none."""
        return None

    @property
    def features(self) -> int | None:
        """Real features a step; None where steps are tokens."""
        return None

    @property
    def image(self) -> tuple[int, int, int] | None:
        """Channels, height and width, where rows are images; None where they are sequences."""
        return None

    @property
    def silent(self) -> tuple[int, ...]:
        """Tokens that stand for no text, and are never written."""
        return ()

    def stream(self, before: Sequence[int] = ()) -> TextStream:
        """What makes text of the tokens after ``before``; BadInputError where steps are no tokens of a text."""
        raise BadInputError(f"a model whose inputs are {self.kind} writes no text")

    def pieces(self, rows: Rows) -> Rows:
        """The rows that a model takes one by one: these, unless long ones are cut into several."""
        return rows

    @abstractmethod
    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """(rows, length, features) float32 or (rows, length) tokens, and (rows,) lengths where they can differ; of
        images (rows, channels, height, width) float32.

        Raises BadInputError for a row that cannot be encoded so, naming it.
        """

    def steps(self, rows: Rows) -> np.ndarray | None:
        """(rows,) int64, how many each will have; None where only encoding tells it."""
        return None

    def require_kind(self, rows: Rows) -> None:
        """BadInputError for rows of another kind."""
        if rows.kind != self.takes:
            raise BadInputError(
                f"{rows.source}: holds {rows.kind}, and the model takes {self.takes}; give such a file"
            )


class TokenInputs(Inputs):
    """Inputs that are tokens, of which texts can be made again."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens of one row; ValueError for a number that is no token."""

    @abstractmethod
    def stream(self, before: Sequence[int] = ()) -> TextStream:
        """The same token by token: what it says in all is what ``decode`` says of them together, after ``before``."""

    def require_tokens(self, tokens: Sequence[int]) -> list[int]:
        """The tokens as plain numbers; ValueError for one that is not of the vocabulary."""
        plain = [int(token) for token in tokens]
        for token in plain:
            if not 0 <= token < (self.vocabulary or 0):
                raise ValueError(f"{token} is no token, which are from 0 to {(self.vocabulary or 0) - 1}")
        return plain

    def _padded(self, rows: Rows, ids: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Rows of tokens (steps,) as one tensor, and their lengths; BadInputError for one that cannot be a row."""
        vocabulary = self.vocabulary or 0
        for row, tokens in enumerate(ids):
            place = f"{rows.source}, row {rows.name(row)}"
            if tokens.ndim != 1 or not len(tokens):
                raise BadInputError(f"{place}: there is no token in it; correct it, or leave out the row")
            if tokens.dtype.kind not in "iu":
                raise BadInputError(f"{place}: {tokens.dtype} numbers; tokens are whole numbers")
            outside = np.flatnonzero((tokens < 0) | (tokens >= vocabulary))
            if len(outside):
                raise BadInputError(
                    f"{place}: token {tokens[outside[0]]} at position {outside[0]:,} is not of the model's "
                    f"vocabulary, 0 to {vocabulary - 1}"
                )
        return padded(ids, max(map(len, ids)), id_type(vocabulary))
