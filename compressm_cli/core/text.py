"""Values and texts as messages show them: on one line, short, and with nothing that a terminal would obey."""

import traceback
import unicodedata
from collections.abc import Callable

CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what a terminal obeys rather than shows: controls, directions of writing, halves of pairs."""


def is_control(sign: str) -> bool:
    """Whether a character is none that can be shown, but changes what is shown."""
    return not sign.isprintable() and unicodedata.category(sign) in CONTROL


def is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8: halves of pairs of surrogates, which JSON may have, cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """The text with escapes, as Python writes them, for all that a terminal would obey; newlines stay."""
    if text.isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if sign != "\n" and is_control(sign) else sign for sign in text)


def one_line(text: str) -> str:
    """The same, with escapes for newlines too."""
    return printable(text).replace("\n", "\\n")


def shorten(value: object, limit: int = 60) -> str:
    """The value as Python would write it, on one line and not longer than ``limit`` characters."""
    text = repr(value)
    return (
        text if len(text) <= limit else f"{text[: limit - 4]}...{text[0] if isinstance(value, str) else ''}"
    )


def counted(number: int, what: str) -> str:
    """``1 channel``, ``2 channels``."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def described(value: object) -> str:
    """A value as an error names it: ``the text 'x'``, ``the number 3``, ``a list``."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return f"the number {shorten(value)}"
    if isinstance(value, str):
        return f"the text {shorten(value)}"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    return f"a value of type {type(value).__name__}"


def error_line(error: BaseException, is_theirs: Callable[[str], bool]) -> str:
    """An error of somebody else's code, on one line, with its innermost place in a file that ``is_theirs``."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if is_theirs(f.filename)]
    place = f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""
    return f"{place}{type(error).__name__}: {one_line(' '.join(str(error).split())) or 'no message'}"
