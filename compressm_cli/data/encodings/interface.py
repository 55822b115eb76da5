"""What an encoding promises: rows as they stand in files in, tensors out, with nothing but what it has stored."""

from abc import abstractmethod
from typing import ClassVar, Protocol

from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.rows import Kind, Rows


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

    takes: ClassVar[Kind]
    """The kind of rows that are encoded."""

    kind: str

    @property
    def vocabulary(self) -> int | None:
        """Number of distinct tokens; None where steps are real vectors."""
        return None

    @property
    def features(self) -> int | None:
        """Real features a step; None where steps are tokens."""
        return None

    @property
    def silent(self) -> tuple[int, ...]:
        """Tokens that stand for no text, and are never written."""
        return ()

    def stream(self) -> TextStream:
        """What makes text of tokens; BadInputError where steps are no tokens of a text."""
        raise BadInputError(f"a model whose inputs are {self.kind} writes no text")

    @abstractmethod
    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """(rows, length, features) float32 or (rows, length) tokens, and (rows,) lengths where they can differ.

        Raises BadInputError for a row that cannot be encoded so, naming it.
        """

    def require_kind(self, rows: Rows) -> None:
        """BadInputError for rows of another kind."""
        if rows.kind != self.takes:
            raise BadInputError(
                f"{rows.source}: holds {rows.kind}, and the model takes {self.takes}; give such a file"
            )
