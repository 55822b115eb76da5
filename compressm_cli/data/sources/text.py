"""Files of text, perhaps packed by gzip."""

import codecs
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.sources.packed import MARK, PACKED, unpacked

CHUNK = 2**20
"""Bytes that are looked at at once."""
LOOKED_AT = 4096
"""Bytes at the beginning of a file that tell its encoding."""
ADVICE = "save it as UTF-8 text"
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # which begins as that of UTF-16 does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NULS = 1 / 4
"""Of the signs of a text in UTF-16, of how many the higher byte is 0, at least; in English of all."""


@contextmanager
def opened(file: Path, kind: str, encoding: str | None = None, advice: str = ADVICE) -> Iterator[TextIO]:
    """A file of some encoding, or of UTF-8, with or without a mark at its beginning.

    What fails within is told as a fault of the file, and so is a text that is in UTF-16 and not said to be.
    """
    with (
        reading(file, f"cannot be read as {kind}", advice),
        unpacked(file) as content,
    ):
        start = content.peek(LOOKED_AT)[:LOOKED_AT]
        if start.startswith(MARK):
            raise BadInputError(f"{file}: gzip has packed it; let its name end in {PACKED}")
        found = wide_encoding(start)
        if found is not None and (encoding != "utf-16" or found == "utf-32"):
            raise BadInputError(f"{file}: a text in {found.upper()}; {advice}")
        yield io.TextIOWrapper(content, encoding=found or encoding or "utf-8-sig", newline="")


def wide_encoding(start: bytes) -> str | None:
    """The encoding of a text that begins so, as Python calls it, where its signs have two bytes or four; else None."""
    for mark, name in MARKS:
        if start.startswith(mark):
            return name
    pairs = len(start) // 2
    first, second = (start[place : 2 * pairs : 2].count(0) for place in (0, 1))
    if first + second > pairs:
        return "utf-32"
    if second >= max(1, NULS * pairs) and not first:
        return "utf-16-le"
    return "utf-16-be" if first >= max(1, NULS * pairs) and not second else None


def without_nul(lines: Iterable[str], file: Path) -> Iterator[str]:
    """The lines; BadInputError at the first that has a byte of value 0, as damaged files and none of text have."""
    for number, line in enumerate(lines, start=1):
        if "\0" in line:
            raise BadInputError(
                f"{file}, line {number}: a byte of value 0, which is no sign of a text; correct or replace the file"
            )
        yield line


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
    """A text of UTF-8 without the mark at its beginning; BadInputError for other texts, and what is none."""
    if content.startswith(MARK):
        raise BadInputError(f"{place}: gzip has packed it; let its name end in {PACKED}, or unpack it first")
    if (found := wide_encoding(content[:LOOKED_AT])) is not None:
        raise BadInputError(f"{place}: a text in {found.upper()}; {ADVICE}")
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
