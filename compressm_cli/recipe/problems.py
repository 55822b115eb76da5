"""What is wrong with a recipe, and where: the one form in which all its errors are told."""

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from compressm_cli.errors import BadInputError

KeyPath = tuple[str | int, ...]

MAX_TOLD = 50
"""Problems told of one recipe."""
MAX_LINE = 1000
"""Characters of one."""
CONTROL = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what a terminal obeys rather than shows: controls, directions of writing, halves of pairs."""


@dataclass(frozen=True)
class Place:
    """A position in a file (``line`` and ``column`` count from 1), or an origin without lines (both 0)."""

    where: str
    line: int = 0
    column: int = 0
    rank: int = 0
    """Order among origins: the file is 0, the overrides follow as given."""

    def __str__(self) -> str:
        return f"{self.where}:{self.line}:{self.column}" if self.line else self.where


@dataclass(frozen=True)
class Problem:
    """One error: ``place: key path: what is wrong; what to write``."""

    place: Place
    path: KeyPath
    message: str

    def __str__(self) -> str:
        path = key_path(self.path)
        text = f"{self.place}: {path}: {self.message}" if path else f"{self.place}: {self.message}"
        return printable(text if len(text) <= MAX_LINE else f"{text[: MAX_LINE - 4]} ...").replace(
            "\n", "\\n"
        )


class RecipeError(BadInputError):
    """Everything that is wrong with a recipe, in the order of the file; ``str()`` gives one line each.

    Of very many the first ones are told, and how many more there are (``untold`` are not even among them).
    """

    def __init__(self, problems: Iterable[Problem], untold: int = 0) -> None:
        ordered = sorted(problems, key=lambda p: (p.place.rank, p.place.line, p.place.column))
        self.count = len(ordered) + untold
        self.problems = [str(problem) for problem in ordered[:MAX_TOLD]]
        if self.count > MAX_TOLD:
            self.problems.append(f"and {self.count - MAX_TOLD} more")
        super().__init__("\n".join(self.problems))


def key_path(path: KeyPath) -> str:
    """``("model", "layer", "state_dim", 1)`` -> ``model.layer.state_dim[1]``."""
    text = ""
    for item in path:
        if isinstance(item, int):
            text += f"[{item}]"
        else:
            name = item if re.fullmatch(r"[\w-]{1,60}", item) else shorten(item)
            text += f".{name}" if text else name
    return text


def is_control(sign: str) -> bool:
    """Whether a character is none that can be shown, but changes what is shown."""
    return not sign.isprintable() and unicodedata.category(sign) in CONTROL


def printable(text: str) -> str:
    """The text with escapes, as Python writes them, for all that a terminal would obey; newlines stay."""
    if text.isprintable():
        return text
    return "".join(ascii(sign)[1:-1] if sign != "\n" and is_control(sign) else sign for sign in text)


def shorten(value: object, limit: int = 60) -> str:
    """The value as Python would write it, on one line and not longer than ``limit`` characters."""
    text = repr(value)
    return (
        text if len(text) <= limit else f"{text[: limit - 4]}...{text[0] if isinstance(value, str) else ''}"
    )


def found(value: object) -> str:
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
