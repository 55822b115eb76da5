"""The recipes that come with the package, and the comments at their top. Reads text only, so it is fast."""

import os
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from compressm_cli.core.text import shorten
from compressm_cli.recipe.problems import Place, Problem, RecipeError

PACKAGE = Path(__file__).resolve().parents[1]
SHIPPED = "shipped:"
"""Before a path that starts at the folder of the shipped recipes."""
HEADER_KEYS = ("Question", "Command", "Expected", "Source")


@dataclass(frozen=True)
class Header:
    """The comments at the top of a shipped recipe; empty where one is missing."""

    question: str = ""
    command: str = ""
    expected: str = ""
    source: str = ""


def shipped_folder() -> Path:
    """``_recipes`` inside an installed package, ``recipes`` beside the package in a checkout."""
    installed = PACKAGE / "_recipes"
    return installed if installed.is_dir() else PACKAGE.parent / "recipes"


def shipped_recipes() -> dict[str, Path]:
    """Every shipped recipe by name, such as ``quickstart/baseline``, sorted."""
    folder = shipped_folder()
    return {
        path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.yaml"))
    }


def find_recipe(source: str | Path) -> Path:
    """The file that ``source`` means: a path, or where there is no such file the name of a shipped recipe.

    Raises RecipeError where it is neither.
    """
    if os.path.isfile(source):
        return Path(source)
    name = str(source)
    shipped = shipped_recipes()
    if (path := shipped.get(name.removesuffix(".yaml"))) is not None:
        return path
    place = Place(name if name.isprintable() and len(name) < 200 else shorten(name))
    if os.path.isdir(source):
        raise RecipeError([Problem(place, (), "is a folder; give a recipe file, such as recipe.yaml")])
    close = get_close_matches(name.removesuffix(".yaml"), shipped, n=1, cutoff=0.5)
    suggestion = f"did you mean {close[0]!r}?" if close else "'compressm recipes list' shows the shipped ones"
    message = f"no such file, and no shipped recipe of that name; {suggestion}"
    raise RecipeError([Problem(place, (), message)])


def read_header(text: str) -> Header:
    """The comment lines ``# Question: ...`` and so on before the first key; a line may continue below."""
    parts: dict[str, list[str]] = {}
    current: list[str] | None = None
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        content = line.lstrip("#").strip()
        key, colon, rest = content.partition(":")
        if colon and key in HEADER_KEYS:
            current = parts.setdefault(key, [])
            content = rest.strip()
        if current is not None and content:
            current.append(content)
    return Header(**{key.lower(): " ".join(lines) for key, lines in parts.items()})
