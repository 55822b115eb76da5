"""What an encoding promises: rows as they stand in files in, tensors out, with nothing but what it has stored."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.rows import Kind, Rows


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
