"""Names by pattern: files of a folder, columns of a table; in natural order, in which 9 comes before 10."""

import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import translate
from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.same_files import FilesMet

RANGE = re.compile(r"\[(?P<first>.*?\d+)\.\.(?P<last>.*?\d+)\]")
NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)")
DIGITS = 1000
"""Of a number at most; Python reads none that are much longer."""
SHOWN = 8
"""Columns that a message names at most, of each end."""


def natural(name: str) -> list[tuple[int, int, str]]:
    """A key to sort by: whole numbers within a name count as numbers, unless they are no sensible ones."""
    parts = re.split(r"(\d+)", name)
    return [
        (0, int(part), part) if part.isdecimal() and len(part) <= DIGITS else (1, 0, part) for part in parts
    ]


def files_of(place: str | Sequence[str], wanted: str) -> list[Path]:
    """The files that a path, a pattern such as ``part-*.csv``, or a list of them names, each once.

    A path that exists is taken as it is, whatever signs it has. Raises BadInputError where nothing is there, naming
    what is ``wanted``, or where a file is named twice.
    """
    files: list[Path] = []
    for one in [place] if isinstance(place, str) else place:
        found = _matches(Path(one))
        if not found:
            problem = "no file is called so" if is_pattern(one) else "no such file"
            raise BadInputError(f"{one}: {problem}; give a {wanted} file (paths start at {Path.cwd()})")
        for file in found:
            if file.is_dir():
                raise BadInputError(
                    f"{file}: a folder; give a {wanted} file, or a pattern for several such as {file / '*'}"
                )
        files += found
    met = FilesMet()
    for file in files:
        if (other := met.first(file)) is not file:
            problem = "named twice" if other == file else f"is the same file as {other}, by a link"
            raise BadInputError(f"{file}: {problem}; name each file once")
    return files


def require_apart(read: Mapping[str, Sequence[Path]]) -> None:
    """BadInputError for a file that is read for two keys of ``data``: what a model is judged on is not learned from."""
    met, whose = FilesMet(), dict[Path, str]()
    for key, files in read.items():
        for file in files:
            other = whose.setdefault(met.first(file), key)
            if other != key:
                raise BadInputError(f"{file}: is of data.{other} and of data.{key}; leave it in one of them")


def require_there(places: Mapping[str, str | Sequence[str]], what: str) -> None:
    """BadInputError where a file or folder (``what``) of a key of the recipe is gone; patterns are left to be tried."""
    for key, place in places.items():
        for one in [place] if isinstance(place, str) else place:
            if not Path(one).exists() and not is_pattern(one):
                raise BadInputError(
                    f"{one}: no such {what}; where it has moved, write data.{key}=NEWPATH (paths start at {Path.cwd()})"
                )


def _matches(path: Path) -> list[Path]:
    """Part by part, each either a name that exists or a pattern."""
    found = [Path(path.anchor)]
    for part in path.parts[1:] if path.anchor else path.parts:
        found = [match for folder in found for match in _entries(folder, part)]
    return found


def _entries(folder: Path, part: str) -> list[Path]:
    if (folder / part).exists() or not is_pattern(part):
        return [folder / part] if (folder / part).exists() else []
    found = [entry for entry in folder.glob(part) if part.startswith(".") or not entry.name.startswith(".")]
    return sorted(found, key=lambda entry: natural(entry.name))


def is_pattern(text: str) -> bool:
    """Whether a path that does not exist is one for several files."""
    return any(sign in text for sign in "*?[")


def chosen_columns(
    patterns: Sequence[str], present: Sequence[str], used: Sequence[str], source: str
) -> list[str]:
    """The columns that names and patterns choose of those that are ``present``.

    A column's own name comes first; ``[t0..t49]`` is a range; ``*`` and ``?`` stand for any signs, but never for a
    column that is ``used`` otherwise, and take what they find in natural order. Raises BadInputError for what is not
    there, or is chosen twice.
    """
    chosen: list[str] = []
    known = set(present)
    for pattern in patterns:
        chosen += [pattern] if pattern in known else _chosen(pattern, present, used, source)
    if (twice := repeated(chosen)) is not None:
        raise BadInputError(
            f"{source}: column {twice!r} is chosen twice by {list(patterns)}; choose each once"
        )
    return chosen


def _chosen(pattern: str, present: Sequence[str], used: Sequence[str], source: str) -> list[str]:
    """What a pattern chooses that is no name itself."""
    if ends := RANGE.fullmatch(pattern):
        names, known = [], set(present)
        for name in _range(
            ends["first"], ends["last"], source
        ):  # which may be far longer than there are columns
            if name not in known:
                raise missing_column(source, name, present)
            names.append(name)
        return names
    if "*" not in pattern and "?" not in pattern:
        raise missing_column(source, pattern, present)
    match = re.compile(translate(pattern.replace("[", "[[]"))).match
    found = sorted((name for name in present if name not in used and match(name)), key=natural)
    if not found:
        raise BadInputError(f"{source}: no column is called {pattern!r}; its columns are {_present(present)}")
    return found


def _range(first: str, last: str, source: str) -> Iterator[str]:
    """``t08`` to ``t11``: t08, t09, t10, t11."""
    one, two = NUMBERED.fullmatch(first), NUMBERED.fullmatch(last)
    too_long = max(len(first), len(last)) > DIGITS
    if (
        (one is None or two is None or too_long)
        or one["stem"] != two["stem"]
        or int(one["number"]) > int(two["number"])
    ):
        raise BadInputError(f"{source}: no range of columns: [{first}..{last}]; write one such as [t0..t49]")
    width = len(one["number"]) if one["number"].startswith("0") else 0
    return (f"{one['stem']}{n:0{width}d}" for n in range(int(one["number"]), int(two["number"]) + 1))


def repeated(names: Sequence[str]) -> str | None:
    """The first name that is there twice; None where there is none."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def missing_column(source: object, name: str, present: Sequence[str]) -> BadInputError:
    """What is told of a column that is not there."""
    return BadInputError(f"{source}: has no column {name!r}; its columns are {_present(present)}")


def _present(columns: Sequence[str]) -> str:
    """The columns that there are; where it is one alone, also what may separate more."""
    hint = ""
    if len(columns) == 1 and (signs := [sign for sign in "\t;|," if sign in columns[0]]):
        hint = f"; perhaps they are separated by {signs[0]!r}: write it as data.delimiter"
    return f"{_listed(columns)}{hint}"


def _listed(names: Sequence[str]) -> str:
    if len(names) <= 3 * SHOWN:
        return ", ".join(map(repr, names)) or "none"
    return f"{', '.join(map(repr, names[: 2 * SHOWN]))}, ... ({len(names)} in all)"
