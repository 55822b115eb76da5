"""Texts as their bytes."""

from codecs import getincrementaldecoder
from collections.abc import Sequence
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.data.encodings.interface import TokenInputs
from compressm_cli.data.encodings.pairs import kept, require_room
from compressm_cli.data.rows import PAIRED, Kind, Rows, lengths_of
from compressm_cli.data.tokens import BYTE_VOCABULARY, byte_tokens


class Bytes(TokenInputs):
    """A text is the sequence of its UTF-8 bytes, each one more than its value: token 0 is the padding."""

    kind: Literal["bytes"] = "bytes"
    max_length: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    """Bytes of a row that are read; None reads all."""
    pairs: bool = False
    """Whether a row is two texts, with a byte between them that no text in UTF-8 has."""

    @model_validator(mode="after")
    def _room_for_both(self) -> Self:
        require_room(self.pairs, self.max_length)
        return self

    @property
    def takes(self) -> Kind:
        return "pairs" if self.pairs else "texts"

    @property
    def separator(self) -> int | None:
        return PAIRED[0] + 1 if self.pairs else None

    @property
    def mask(self) -> int:
        """The padding, which stands for no byte."""
        return 0

    @property
    def vocabulary(self) -> int:
        return BYTE_VOCABULARY

    @property
    def silent(self) -> tuple[int, ...]:
        """The padding."""
        return (0,)

    def stream(self, before: Sequence[int] = ()) -> "ByteStream":
        stream = ByteStream()
        for token in before:
            stream.add(token)
        return stream

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        self.require_kind(rows)
        texts = [self._cut(bytes(text)) for text in rows.content]
        return byte_tokens(texts, max(map(len, texts)))

    def _cut(self, text: bytes) -> bytes:
        """What is read of a row."""
        if self.max_length is None or len(text) <= self.max_length:
            return text
        if not self.pairs:
            return text[: self.max_length]
        first, _, second = text.partition(PAIRED)
        a, b = kept(len(first), len(second), self.max_length - 1)
        return first[:a] + PAIRED + second[:b]

    def steps(self, rows: Rows) -> np.ndarray:
        lengths = lengths_of(rows.content)
        return lengths if self.max_length is None else np.minimum(lengths, self.max_length)

    def decode(self, tokens: Sequence[int]) -> str:
        """U+FFFD stands for bytes that are no character; padding for nothing."""
        return _raw(self.require_tokens(tokens)).decode("utf-8", "replace")


class ByteStream:
    """Bytes that come one at a time, as UTF-8; a byte that belongs to no character becomes U+FFFD."""

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(_raw([token]))

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


def _raw(tokens: Sequence[int]) -> bytes:
    """The bytes of tokens without the padding, which stands for none."""
    return bytes(token - 1 for token in tokens if token)
