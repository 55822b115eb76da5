"""Tokens of some vocabulary: as their numbers, or as a tokenizer makes them of texts."""

import json
from collections.abc import Sequence
from functools import lru_cache
from itertools import groupby
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.byte_tokenizer import byte_tokenizer
from compressm_cli.data.encodings.interface import TextStream, TokenInputs
from compressm_cli.data.encodings.pairs import kept, require_room
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import PAIRED, Kind, Rows
from compressm_cli.data.tokenizer import LARGEST, known_tokenizer

Size = Annotated[int, Field(ge=1, le=10_000_000)]
SEPARATORS, MASKS = ("[SEP]", "</s>"), ("[MASK]", "<mask>")
"""What tokenizers call the token between two texts, and that of a hidden one."""
SPARE = 2
"""Tokens for the same, of a model whose tokenizer has none."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""What stands for bytes that are no character, or none yet."""


class Ids(TokenInputs):
    """Tokens are whole numbers from 0 to ``size`` - 1, as they stand."""

    kind: Literal["ids"] = "ids"
    size: Size
    """Number of distinct tokens."""

    @property
    def takes(self) -> Kind:
        return "tokens"

    @property
    def vocabulary(self) -> int:
        return self.size

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        self.require_kind(rows)
        return self._padded(rows, [np.asarray(row) for row in rows.content])

    def decode(self, tokens: Sequence[int]) -> str:
        """The numbers, with blanks between them."""
        return " ".join(map(str, self.require_tokens(tokens)))

    def stream(self, before: Sequence[int] = ()) -> TextStream:
        return _Numbers(self, begun=len(before) > 0)


class Tokenizer(TokenInputs):
    """Texts become the tokens of a model's tokenizer, without special tokens added."""

    kind: Literal["tokenizer"] = "tokenizer"
    size: Size
    """Number of distinct tokens of the model, which may be more than the tokenizer has."""
    json_text: Annotated[str, Field(max_length=LARGEST)]
    """The whole tokenizer.json, so that no file is needed where the model goes."""
    max_length: Size | None = None
    """Tokens of a row that are read; None reads all."""
    pairs: bool = False
    """Whether a row is two texts, with ``separator`` between them."""

    @model_validator(mode="after")
    def _room_for_both(self) -> Self:
        require_room(self.pairs, self.max_length)
        return self

    @property
    def takes(self) -> Kind:
        return "pairs" if self.pairs else "texts"

    @property
    def separator(self) -> int | None:
        """The tokenizer's own token for it; else the first number that it does not use."""
        return _special(self.json_text, self.size, SEPARATORS, 0) if self.pairs else None

    @property
    def mask(self) -> int | None:
        """The tokenizer's own token for it; else the second number that it does not use, or of bytes the padding."""
        if self.json_text == byte_tokenizer():
            return 0
        return _special(self.json_text, self.size, MASKS, 1)

    @property
    def vocabulary(self) -> int:
        return self.size

    @property
    def silent(self) -> tuple[int, ...]:
        """Those that the tokenizer has not, as models have for their size to be round; of bytes the padding."""
        return _unknown(self.json_text, self.size)

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        self.require_kind(rows)
        return self._padded(rows, [self._ids(rows, row) for row in range(len(rows))])

    def ids(self, text: str) -> np.ndarray:
        """(tokens,) int64 of a text, not compared with the vocabulary."""
        encoded = known_tokenizer(self.json_text).encode(text, add_special_tokens=False)
        return np.array(encoded.ids, dtype=np.int64)

    def named(self, name: str) -> int | None:
        """The token of this name, such as ``<|endoftext|>``; None where there is none that the model knows."""
        token = known_tokenizer(self.json_text).token_to_id(name)
        return token if token is not None and token < self.size else None

    def unread(self, text: str) -> list[str]:
        """The parts of a text, but for blanks, that no token or that of what is unknown stands for."""
        known = known_tokenizer(self.json_text)
        encoded, unknown = known.encode(text, add_special_tokens=False), _of_the_unknown(self.json_text)
        is_read = bytearray(len(text))
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            if token != unknown:
                is_read[start:end] = bytes([1]) * (end - start)
        parts = groupby(range(len(text)), key=lambda place: bool(is_read[place]) or text[place].isspace())
        return ["".join(text[place] for place in places) for seen, places in parts if not seen]

    def _ids(self, rows: Rows, row: int) -> np.ndarray:
        place = f"{rows.source}, row {rows.name(row)}"
        parts = bytes(rows.content[row]).split(PAIRED) if self.pairs else [bytes(rows.content[row])]
        try:
            texts = [part.decode("utf-8") for part in parts]
        except UnicodeDecodeError as error:
            raise BadInputError(f"{place}: not a UTF-8 text ({error})") from error
        with reading(place, "the model's tokenizer cannot make tokens of it", "correct it"):
            found = [self.ids(text) for text in texts]
        return self._joined(found[0], found[1], place) if self.pairs else found[0][: self.max_length]

    def _joined(self, first: np.ndarray, second: np.ndarray, place: str) -> np.ndarray:
        """Two texts as one row."""
        separator = self.separator
        if separator is None:
            raise BadInputError(
                f"{place}: the tokenizer has no token to stand between two texts, and size {self.size} leaves no room"
            )
        for name, tokens in (("first", first), ("second", second)):
            if not len(tokens):
                raise BadInputError(f"{place}: there is no token in the {name} text; correct it")
            if separator in tokens:
                raise BadInputError(
                    f"{place}: the {name} text has the token {separator} in it, which stands between the two; remove it"
                )
        a, b = kept(len(first), len(second), (self.max_length or len(first) + len(second) + 1) - 1)
        return np.concatenate([first[:a], [separator], second[:b]])

    def decode(self, tokens: Sequence[int]) -> str:
        return str(
            known_tokenizer(self.json_text).decode(self.require_tokens(tokens), skip_special_tokens=False)
        )

    def stream(self, before: Sequence[int] = ()) -> TextStream:
        return _Pieces(self, self.require_tokens(before))


@lru_cache(maxsize=4)
def _unknown(json_text: str, size: int) -> tuple[int, ...]:
    if json_text == byte_tokenizer():
        return (0,)
    known = set(known_tokenizer(json_text).get_vocab(with_added_tokens=True).values())
    return tuple(token for token in range(size) if token not in known)


@lru_cache(maxsize=16)
def _special(json_text: str, size: int, names: tuple[str, ...], spare: int) -> int | None:
    """The token of the first of these names; else the one after so many that the tokenizer leaves; None beyond size."""
    known = known_tokenizer(json_text)
    named = next((token for name in names if (token := known.token_to_id(name)) is not None), None)
    found = numbers_of(json_text) + spare if named is None else named
    return found if found < size else None


@lru_cache(maxsize=4)
def numbers_of(json_text: str) -> int:
    """One more than the largest number that a tokenizer gives to a token."""
    known = known_tokenizer(json_text).get_vocab(with_added_tokens=True)
    return max(known.values(), default=-1) + 1


@lru_cache(maxsize=4)
def _of_the_unknown(json_text: str) -> int | None:
    """The token that stands for all that the vocabulary has not; None where there is none."""
    model = json.loads(json_text).get("model", {})
    if isinstance(name := model.get("unk_token"), str):
        return known_tokenizer(json_text).token_to_id(name)
    place = model.get("unk_id")  # of a Unigram model
    return place if isinstance(place, int) else None


class _Numbers:
    """Numbers with blanks between them."""

    def __init__(self, inputs: Ids, begun: bool) -> None:
        self._inputs, self._begun = inputs, begun

    def add(self, token: int) -> str:
        text = (" " if self._begun else "") + self._inputs.decode([token])
        self._begun = True
        return text

    def end(self) -> str:
        return ""


class _Pieces:
    """What a tokenizer's tokens say, each after those before it; it may end within a character."""

    def __init__(self, inputs: Tokenizer, before: list[int]) -> None:
        self._inputs = inputs
        self._tokens = list(before)
        self._context, self._told = 0, len(before)

    def add(self, token: int) -> str:
        self._tokens.append(token)
        text = self._untold()
        if not text or text.endswith(REPLACEMENT):
            return ""
        self._context, self._told = self._told, len(self._tokens)
        return text

    def end(self) -> str:
        text = self._untold()
        self._context = self._told = len(self._tokens)
        return text

    def _untold(self) -> str:
        """What the tokens since the last text add to it."""
        before = self._inputs.decode(self._tokens[self._context : self._told])
        return self._inputs.decode(self._tokens[self._context :])[len(before) :]
