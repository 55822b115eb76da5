"""Pairs of texts, source and target, one after the other in a row of tokens."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings.interface import Inputs
from compressm_cli.data.encodings.texts import Bytes
from compressm_cli.data.encodings.words import Words
from compressm_cli.data.interface import IGNORE, Split
from compressm_cli.data.rows import Kind, Rows

Steps = Annotated[int, Field(ge=1, le=10_000_000)]


def pairs_of(splits: Sequence[Rows]) -> "SourceTarget":
    """The encoding as bytes that has room for all of some rows, with their ``labels`` as targets."""
    source = max(len(text) for rows in splits for text in rows.content)
    target = max(len(_utf8(text)) for rows in splits for text in rows.labels or [])
    return SourceTarget(tokens=Bytes(), source=source + 1, target=target + 1)


class SourceTarget(Inputs):
    """A source, its end and padding in ``source`` steps; then the target after its beginning, as ``DataSpec.source``
    says. Both are of one vocabulary: that of ``tokens``, and after it the beginning and the end."""

    takes: ClassVar[Kind] = "texts"

    kind: Literal["source_target"] = "source_target"
    tokens: Annotated[Bytes | Words, Field(discriminator="kind")]
    """What makes tokens of both texts; token 0 is the padding."""
    source: Steps
    """Steps of the longest source, with its end."""
    target: Steps
    """Steps of the longest target, with its beginning."""

    @model_validator(mode="after")
    def _whole_texts(self) -> Self:
        if isinstance(self.tokens, Bytes) and self.tokens.max_length is not None:
            raise ValueError("texts of pairs are read whole; max_length must be null")
        return self

    @property
    def vocabulary(self) -> int:
        return self.tokens.vocabulary + 2

    @property
    def beginning(self) -> int:
        """The token before a target."""
        return self.tokens.vocabulary

    @property
    def end(self) -> int:
        """The token after a text."""
        return self.tokens.vocabulary + 1

    @property
    def silent(self) -> tuple[int, ...]:
        return (0, self.beginning)

    def encode(self, rows: Rows) -> tuple[Tensor, None]:
        """(rows, source + 1): the sources, and the beginning of their targets."""
        tokens, lengths = self._encoded(rows)
        self._require_room(rows, lengths + 1, self.source, "source")
        begun = functional.pad(tokens, (0, self.source + 1 - tokens.shape[1]))
        begun[torch.arange(len(begun)), lengths] = self.end
        begun[:, self.source] = self.beginning
        return begun, None

    def split(self, rows: Rows) -> Split:
        """Sources with their targets, the ``labels`` of rows; BadInputError for one that cannot be encoded."""
        if rows.labels is None:
            raise BadInputError(
                f"{rows.source}: has no targets; name their column with data.target_text_column=NAME"
            )
        sources, _ = self.encode(rows)
        targets, lengths = self._encoded(replace(rows, content=list(map(_utf8, rows.labels))))
        self._require_room(rows, lengths + 1, self.target, "target")
        targets = functional.pad(targets, (0, self.target - targets.shape[1]))
        labels = targets.clone()
        labels[torch.arange(len(labels)), lengths] = self.end
        labels[torch.arange(self.target) > lengths[:, None]] = IGNORE
        inputs = torch.cat([sources, targets[:, : self.target - 1]], dim=1)
        labels = functional.pad(labels, (self.source, 0), value=IGNORE)
        return Split(inputs, labels, lengths + 1 + self.source)

    def text(self, tokens: Sequence[int]) -> str:
        """That of the tokens of a source or target, up to its end, without its beginning."""
        plain = [int(token) for token in tokens]
        if self.end in plain:
            plain = plain[: plain.index(self.end)]
        return self.tokens.decode([token for token in plain if token < self.beginning])

    def _encoded(self, rows: Rows) -> tuple[Tensor, Tensor]:
        tokens, lengths = self.tokens.encode(rows)
        assert lengths is not None, "tokens of texts have lengths"
        return tokens, lengths

    def _require_room(self, rows: Rows, steps: Tensor, most: int, what: str) -> None:
        """BadInputError for a text that is longer than those that the model was built for."""
        long = (steps > most).nonzero()
        if len(long):
            row = int(long[0])
            raise BadInputError(
                f"{rows.source}, row {rows.name(row)}: its {what} has {int(steps[row]) - 1} tokens, and the model "
                f"takes at most {most - 1}; shorten it, or leave out the row"
            )


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
