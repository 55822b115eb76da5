"""Tokens in files: arrays, numbers as they lie, lists of numbers, and texts for a tokenizer."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from compressm_cli.core.contents import found_instead
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.data.encodings import Ids, Tokenizer
from compressm_cli.data.flat import Growing
from compressm_cli.data.mapped import of_file, room_for
from compressm_cli.data.reading import arrays_of_any_age, reading
from compressm_cli.data.sources.packed import PACKED, opened, require_file, suffix_of
from compressm_cli.data.sources.text import plain_text
from compressm_cli.data.tokens import id_type

Dtype = Literal["uint8", "uint16", "int16", "uint32", "int32", "int64"]
ARRAY, LISTS = ".npy", ".jsonl"
"""How names of files end that tell themselves how their tokens are stored."""
CHUNK = 2**22
"""Tokens that are looked at at once: files may be larger than memory."""
FEW = 16
"""Numbers of which nothing can be said."""


def tells_itself(place: str) -> bool:
    """Whether a file needs neither a dtype nor a tokenizer to be read."""
    return suffix_of(place) in (ARRAY, LISTS)


def tokens_of(files: Sequence[Path], inputs: Ids | Tokenizer, dtype: Dtype | None) -> np.ndarray:
    """(tokens,) of some files, one after the other, all within the vocabulary.

    One array in a file stays there, and is read as it is used; several are copied into one, in memory or, where they
    are large, in a temporary file. Raises BadInputError, with the file and the position in it, for what cannot be used.
    """
    read = [_tokens(file, inputs, dtype) for file in files]
    if len(read) == 1:
        return read[0]
    whole = room_for([sum(map(len, read))], id_type(inputs.vocabulary))
    return np.concatenate(read, out=whole, casting="unsafe")  # they fit: all are within the vocabulary


def _tokens(file: Path, inputs: Ids | Tokenizer, dtype: Dtype | None) -> np.ndarray:
    if suffix_of(file) == LISTS:
        return _lists(file, inputs.vocabulary)
    if suffix_of(file) == ARRAY:
        tokens = _array(file)
    elif isinstance(inputs, Tokenizer):
        tokens = _encoded(file, inputs)
    else:
        assert dtype is not None, "else there is a tokenizer"
        tokens = _raw(file, dtype)
    require_vocabulary(tokens, inputs.vocabulary, str(file))
    return tokens


def require_vocabulary(tokens: np.ndarray, vocabulary: int, place: str) -> None:
    """BadInputError for numbers that are no tokens, with the position of the first, counted from 0."""
    outside, first = 0, -1
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start : start + CHUNK]
        found = np.flatnonzero((part < 0) | (part >= vocabulary))
        first = start + int(found[0]) if len(found) and not outside else first
        outside += len(found)
    if outside:
        raise BadInputError(
            f"{place}: token {tokens[first]} at position {first:,} ({outside:,} such in all) is not of the "
            f"vocabulary, 0 to {vocabulary - 1}; correct data.vocabulary or the file (of raw numbers, data.dtype)"
        )


def _array(path: Path) -> np.ndarray:
    _require_unpacked(path)
    advice = found_instead(path) or "correct data.path"
    with reading(path, "not a readable .npy file of integers", advice), arrays_of_any_age():
        tokens = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(tokens, np.ndarray):
        raise BadInputError(f"{path}: several arrays; write one, of integers in one dimension")
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise BadInputError(
            f"{path}: an array of {tokens.dtype} and shape {tokens.shape}; write integers in one dimension"
        )
    mapped = of_file(path, tokens.dtype, getattr(tokens, "offset", 0), len(tokens)) if len(tokens) else tokens
    return np.asarray(mapped, dtype=tokens.dtype.newbyteorder("="))


def _raw(path: Path, dtype: Dtype) -> np.ndarray:
    """Numbers one after the other, the lowest byte first, without any header."""
    _require_unpacked(path)
    kind = np.dtype(dtype).newbyteorder("<")
    with reading(path, "cannot be read", "correct data.path"):
        size = path.stat().st_size
        if size % kind.itemsize:
            raise BadInputError(
                f"{path}: {size:,} bytes are no whole number of {dtype}, of {kind.itemsize} bytes each; correct "
                "data.dtype, or the file, which may be truncated"
            )
        if size == 0:
            raise BadInputError(f"{path}: it is empty; correct data.path")
        tokens = of_file(path, kind)
    if _are_halves(tokens):
        wider = f"of {2 * kind.itemsize} bytes"
        raise BadInputError(
            f"{path}: every second number is 0, as where numbers {wider} are read as {dtype}; write their data.dtype, "
            "or, if they are as they should be, save them as a .npy file"
        )
    return np.asarray(tokens, dtype=np.dtype(dtype))


def _are_halves(tokens: np.ndarray) -> bool:
    """Whether the numbers look like the lower and the upper halves of others."""
    if len(tokens) < FEW or tokens[0:CHUNK:2].max() == 0:
        return False
    return not any(tokens[start : start + CHUNK : 2].any() for start in range(1, len(tokens), CHUNK))


def _lists(path: Path, vocabulary: int) -> np.ndarray:
    """A list of numbers a line: documents, one after the other."""
    found = Growing(np.dtype(id_type(vocabulary)))
    number = 0
    with reading(path, "cannot be read", "correct data.path"), opened(path) as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                document = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise BadInputError(
                    f"{place}: not JSON; write a list of token numbers on each line"
                ) from error
            if not isinstance(document, list):
                raise BadInputError(
                    f"{place}: found {shorten(document)}; write a list of token numbers on each line"
                )
            found.add(_numbers(document, vocabulary, place))
    if not number:
        raise BadInputError(f"{path}: it is empty; write a list of token numbers on each line")
    return found.whole()


def _numbers(document: list[object], vocabulary: int, place: str) -> np.ndarray:
    for position, value in enumerate(document):
        if type(value) is not int:
            raise BadInputError(
                f"{place}: {shorten(value)} at position {position:,} is no token; write whole numbers"
            )
        if not 0 <= value < vocabulary:
            raise BadInputError(
                f"{place}: token {shorten(value)} at position {position:,} is not of the vocabulary, 0 to "
                f"{vocabulary - 1}; correct data.vocabulary or the file"
            )
    return np.array(document, dtype=id_type(vocabulary))


def _encoded(path: Path, tokenizer: Tokenizer) -> np.ndarray:
    """The tokens of a text."""
    with reading(path, "cannot be read", "correct the path"), opened(path) as file:
        text = plain_text(file.read(), path).decode("utf-8")
    with reading(path, "data.tokenizer cannot make tokens of it", "correct data.path or data.tokenizer"):
        return tokenizer.ids(text)


def _require_unpacked(path: Path) -> None:
    require_file(path)
    if path.suffix.lower() == PACKED:
        raise BadInputError(f"{path}: numbers are read where they lie; unpack the file: gunzip {path.name}")
