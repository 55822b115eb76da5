"""What is wrong with a recipe, and where: the one form in which all its errors are told."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from compressm_cli.errors import BadInputError

KeyPath = tuple[str | int, ...]


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
        return f"{self.place}: {path}: {self.message}" if path else f"{self.place}: {self.message}"


class RecipeError(BadInputError):
    """Everything that is wrong with a recipe, in the order of the file; ``str()`` gives one line each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        ordered = sorted(problems, key=lambda p: (p.place.rank, p.place.line, p.place.column))
        self.problems = [str(problem) for problem in ordered]
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
