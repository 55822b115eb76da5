"""What is wrong with a recipe, and where: the one form in which all its errors are told."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import printable, shorten

KeyPath = tuple[str | int, ...]

MAX_TOLD = 50
"""Problems told of one recipe."""
MAX_LINE = 1000
"""Characters of one."""


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
