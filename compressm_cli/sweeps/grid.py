"""What a sweep goes through: settings with several values, rows of a file, and the points that come of them."""

import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described, shorten
from compressm_cli.recipe.overrides import KEY
from compressm_cli.recipe.problems import Place, Problem, RecipeError
from compressm_cli.recipe.yaml_text import MAX_BYTES, Node, parse_yaml, scalar

Change = tuple[str, str]
"""A key path and a value as YAML text."""

MOST_POINTS = 10_000
LONGEST_NAME = 90
"""Characters of a point's name; names of recipes have 100 at most."""
NOT_SWEPT = {
    "seeds": "write --seeds, such as --seeds 0..4",
    "name": "points are named after their settings; --name names the sweep",
    "output": "give one place for all, such as --output DIR",
}
"""Settings that a sweep goes through in another way, or not at all, by the first part of their key."""


@dataclass(frozen=True)
class Axis:
    """A setting and the values, as YAML texts, that it takes one after the other."""

    key: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Point:
    """One recipe of a sweep."""

    name: str
    """After what is particular about it; unique, and safe as the name of a folder."""
    changes: tuple[Change, ...]

    @property
    def overrides(self) -> list[str]:
        """As a command line has them."""
        return [f"{key}={text}" for key, text in self.changes]


def read_words(words: Iterable[str]) -> tuple[list[Axis], list[str]]:
    """``key=v1,v2`` are axes; ``key=v`` is a change for all points, given back as it is.

    Raises BadInputError where a setting cannot be swept, is there twice, or has an empty value.
    """
    axes: list[Axis] = []
    fixed: list[str] = []
    for word in words:
        key, equals, text = word.partition("=")
        values = split_values(text) if equals else []
        if len(values) < 2:
            fixed.append(word)
            continue
        require_sweepable(key, shorten(word))
        if "" in values:
            raise BadInputError(f"{shorten(word)}: an empty value; write {key}=VALUE,VALUE, or null for none")
        axes.append(Axis(key, tuple(values)))
    keys = [axis.key for axis in axes] + [word.partition("=")[0] for word in fixed if "=" in word]
    for key, count in Counter(keys).items():
        if count > 1 and any(axis.key == key for axis in axes):
            raise BadInputError(
                f"{key} is given {count} times; write all of its values in one list, {key}=A,B"
            )
    return axes, fixed


def split_values(text: str) -> list[str]:
    """The text at its commas, those in brackets and quotes left alone: ``[4,4],[8,8]`` are two values."""
    parts, depth, quote, start, at = [], 0, "", 0, 0
    opens = True  # whether a quotation mark here begins a text in quotes
    while at < len(text):
        sign = text[at]
        if quote:
            doubled = quote == "'" and text[at : at + 2] == "''"
            if doubled or (quote == '"' and sign == "\\"):
                at += 1
            elif sign == quote:
                quote = ""
        elif opens and sign in "'\"":
            quote = sign
        elif sign in "[{":
            depth += 1
        elif sign in "]}":
            depth = max(0, depth - 1)
        elif sign == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
        opens = sign in "[{,:" or (opens and sign == " ")
        at += 1
    return [part.strip() for part in (*parts, text[start:])]


def read_list(path: Path) -> list[tuple[Change, ...]]:
    """The rows of a file of points: a YAML list of mappings, or CSV whose first line has the keys.

    An empty cell of a CSV changes nothing. Raises BadInputError with the place of what is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise BadInputError(f"--list {path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInputError(f"--list {path}: is not UTF-8 text") from error
    if len(data) > MAX_BYTES:
        raise BadInputError(f"--list {path}: larger than {MAX_BYTES} bytes")
    if path.suffix.lower() == ".csv":
        return _read_csv(path, text)
    if path.suffix.lower() in (".yaml", ".yml"):
        return _read_yaml(path, text)
    raise BadInputError(f"--list {path}: give a file that ends in .yaml or .csv")


def points_of(axes: Sequence[Axis], rows: Sequence[tuple[Change, ...]], alone: str) -> list[Point]:
    """All rows with all combinations of the axes' values, the last axis changing fastest; names are made for them.

    ``alone`` is the name of the one point without either.
    """
    count = max(1, len(rows))
    for axis in axes:
        count *= len(axis.values)
        if count > MOST_POINTS:
            raise BadInputError(f"this sweep has more than {MOST_POINTS:,} points; give fewer values")
    taken = {axis.key for axis in axes}
    if twice := next((key for row in rows for key, _ in row if key in taken), None):
        raise BadInputError(f"{twice} is in the list and an axis as well; give it in one of the two")
    grid = list(product(*([(axis.key, text) for text in axis.values] for axis in axes)))
    changes = [(*row, *chosen) for row in rows or [()] for chosen in grid]
    return [Point(name, those) for name, those in zip(_names(changes, alone), changes, strict=True)]


def require_sweepable(key: str, where: str) -> None:
    """BadInputError, which begins with ``where``, for what is no setting or one that is not swept."""
    if not KEY.fullmatch(key):
        raise BadInputError(f"{where}: {shorten(key)} is not a key path; write key=A,B")
    if (why := NOT_SWEPT.get(key.partition(".")[0])) is not None:
        raise BadInputError(f"{where}: {key} is nothing to sweep over: {why}")


def _read_csv(path: Path, text: str) -> list[tuple[Change, ...]]:
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        keys = [cell.strip() for cell in next(rows, [])]
        for key in keys:
            require_sweepable(key, f"{path}:1")
        if not keys or len(set(keys)) < len(keys):
            raise BadInputError(f"{path}:1: the first line must have the keys of settings, each once")
        found = []
        for cells in rows:
            if not any(cell.strip() for cell in cells):
                continue
            if len(cells) != len(keys):
                raise BadInputError(f"{path}:{rows.line_num}: {len(cells)} cells for {len(keys)} keys")
            found.append(tuple((k, c.strip()) for k, c in zip(keys, cells, strict=True) if c.strip()))
    except csv.Error as error:
        raise BadInputError(f"{path}:{rows.line_num}: not valid CSV: {error}") from error
    if not found:
        raise BadInputError(f"{path}: no points; write a line for each below the keys")
    return found


def _read_yaml(path: Path, text: str) -> list[tuple[Change, ...]]:
    root, problems = parse_yaml(text, lambda line, column: Place(str(path), line, column))
    if problems:
        raise RecipeError(problems)
    if root is None or not isinstance(root.value, list) or not root.value:
        what = "nothing" if root is None else described(root.plain())
        raise BadInputError(f"{path}: found {what}; write a list of points, such as - {{train.steps: 100}}")
    return [_read_row(node, index) for index, node in enumerate(root.value)]


def _read_row(node: Node, index: int) -> tuple[Change, ...]:
    if not isinstance(node.value, dict):
        message = f"found {described(node.plain())}; write a mapping of settings, such as train.steps: 100"
        raise RecipeError([Problem(node.place, (index,), message)])
    for key, child in node.value.items():
        require_sweepable(key, str(child.key_place or child.place))
    return tuple((key, _as_text(child.plain())) for key, child in node.value.items())


def _as_text(value: Any) -> str:
    """A value as YAML on one line: JSON is, but for infinities, which no setting takes."""
    return json.dumps(value, ensure_ascii=False)


# ---- names --------------------------------------------------------------------------------------------------


def _names(points: Sequence[tuple[Change, ...]], alone: str) -> list[str]:
    short = _short_keys(dict.fromkeys(key for changes in points for key, _ in changes))
    names: list[str] = []
    seen: set[str] = set()
    for changes in points:
        name = ",".join(f"{short[key]}={_word(text)}" for key, text in changes) or alone
        if len(name) > LONGEST_NAME:
            whole = hashlib.blake2b(json.dumps(changes).encode(), digest_size=4).hexdigest()
            name = f"{name[: LONGEST_NAME - 9]}-{whole}"
        stem, count = name, 1
        while name.lower() in seen:  # some file systems take upper case for lower case
            count += 1
            name = f"{stem}-{count}"
        seen.add(name.lower())
        names.append(name)
    return names


def _short_keys(keys: Iterable[str]) -> dict[str, str]:
    """As few of the last parts of each key as tell it from the others."""
    known = list(keys)
    found = {}
    for key in known:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            tail = parts[-count:]
            if sum(other.split(".")[-count:] == tail for other in known) == 1:
                break
        found[key] = ".".join(tail).lstrip("_-") or "key"
    return found


def _word(text: str) -> str:
    """A value in a name: ``4e-3`` -> ``0.004``, ``[4, 4]`` -> ``4-4``."""
    try:
        node, _ = parse_yaml(text, lambda line, column: Place("value"))
    except RecipeError:
        node = None
    return _plain_word(scalar(text) if node is None else node.plain())


def _plain_word(value: Any) -> str:
    if isinstance(value, list):
        return "-".join(map(_plain_word, value))
    if isinstance(value, dict):
        return "-".join(f"{key}-{_plain_word(inner)}" for key, inner in value.items())
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return str(value).replace("+", "").removesuffix(".0")
    text = str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "empty"
