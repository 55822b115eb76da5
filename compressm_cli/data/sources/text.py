"""Files of text, perhaps packed by gzip."""

import codecs
import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading

CHUNK = 2**20
"""Bytes that are looked at at once."""
ADVICE = "save it as UTF-8 text"


@contextmanager
def opened(file: Path, kind: str, encoding: str | None = None, advice: str = ADVICE) -> Iterator[TextIO]:
    """A file of some encoding, or of UTF-8, with or without a mark at its beginning.

    What fails within is told as a fault of the file.
    """
    codec = encoding or "utf-8-sig"
    with reading(file, f"cannot be read as {kind}", advice):
        packed = file.suffix.lower() == ".gz"
        with (
            gzip.open(file, "rt", encoding=codec, newline="")
            if packed
            else file.open(encoding=codec, newline="") as lines
        ):
            assert not isinstance(lines, gzip.GzipFile), "text is asked for"
            yield lines


def not_utf8(text: bytes) -> int | None:
    """The place of the first byte that is not UTF-8, from 0; None where all are, but for half a sign at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(text), CHUNK):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(text[start : start + CHUNK])
        except UnicodeDecodeError as error:
            return start - held + error.start
    return None


def plain_text(content: bytes, place: object) -> bytes:
    """A text of UTF-8 without the mark at its beginning; BadInputError at the first byte that is none of one."""
    text = content.removeprefix(codecs.BOM_UTF8)
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        position = len(content) - len(text) + error.start
        raise BadInputError(
            f"{place}: not a UTF-8 text: the byte {text[error.start]:#04x} at position {position + 1:,}; "
            "save it as UTF-8"
        ) from None
    return text
