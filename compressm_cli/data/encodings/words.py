"""Texts as their words, of a list that is known."""

from collections.abc import Sequence
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import numpy as np
from pydantic import AfterValidator, Field
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.data.encodings.interface import TextStream, TokenInputs
from compressm_cli.data.rows import Kind, Rows


def _words(names: list[str]) -> list[str]:
    """Words that are different, and have no blanks; ValueError for others."""
    for name in names:
        if name.split() != [name]:
            raise ValueError(f"{shorten(name)} is no word")
    if len(set(names)) < len(names):
        raise ValueError("a word is there twice")
    return names


class Words(TokenInputs):
    """A text is the sequence of its words, between blanks: the first of ``names`` is token 1, and 0 is the padding."""

    takes: ClassVar[Kind] = "texts"

    kind: Literal["words"] = "words"
    names: Annotated[list[str], Field(min_length=1, max_length=1_000_000), AfterValidator(_words)]

    @property
    def vocabulary(self) -> int:
        return len(self.names) + 1

    @property
    def silent(self) -> tuple[int, ...]:
        return (0,)

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names, start=1)}

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        """Raises BadInputError for a word that is not known, naming it."""
        self.require_kind(rows)
        return self._padded(rows, [self._ids(rows, row) for row in range(len(rows))])

    def _ids(self, rows: Rows, row: int) -> np.ndarray:
        words = bytes(rows.content[row]).decode("utf-8", "replace").split()
        known = self._numbers
        for word in words:
            if word not in known:
                raise BadInputError(
                    f"{rows.source}, row {rows.name(row)}: the model does not know the word {shorten(word)}; it knows "
                    f"{len(known):,}, such as {shorten(' '.join(self.names[:5]))}, as they are written there"
                )
        return np.array([known[word] for word in words], dtype=np.int64)

    def decode(self, tokens: Sequence[int]) -> str:
        """With blanks between the words; padding stands for nothing."""
        return " ".join(self.names[token - 1] for token in self.require_tokens(tokens) if token)

    def stream(self, before: Sequence[int] = ()) -> TextStream:
        return _Stream(self, begun=any(before))


class _Stream:
    """Words that come one at a time, with blanks between them."""

    def __init__(self, inputs: Words, begun: bool) -> None:
        self._inputs, self._begun = inputs, begun

    def add(self, token: int) -> str:
        word = self._inputs.decode([token])
        text = f" {word}" if self._begun and word else word
        self._begun = self._begun or bool(word)
        return text

    def end(self) -> str:
        return ""
