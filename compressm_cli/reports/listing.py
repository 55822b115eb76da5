"""Runs below folders, a row each: what their files say, without building or importing anything of theirs."""

import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described, one_line, shorten
from compressm_cli.recipe.yaml_text import plain_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.runs.versions import VERSION

DEEPEST = 8
"""Folders below a given one that are looked through."""
MOST_FOLDERS = 100_000
COLUMNS = (
    *("folder", "name", "version", "seed", "status", "metric", "test", "validation", "steps", "flops", "seconds"),
    *("orders", "axes", "when", "reason"),
)  # fmt: skip
"""What is known of every run, or null."""
DOCUMENTS = ("recipe", "summary", "run")
"""Where other entries are looked for, in this order, or by these names before the first dot."""
OLD_PRIMARY = {"name": "accuracy", "title": "accuracy", "unit": "share", "higher_is_better": True}
"""Of summaries of the first format, which knew nothing else."""
MISSING = object()


@dataclass
class Found:
    """Runs, and what could not be looked through."""

    runs: list["Entry"] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Entry:
    """One run; what its files do not say is None, and ``reason`` tells why where they should."""

    folder: Path
    """As it was found: below the folder that was given."""
    status: str
    """``running``, ``done``, ``failed``, ``interrupted``, ``damaged``, or another word of its run.json."""
    reason: str | None
    info: dict[str, Any]
    """run.json, and ``summary`` summary.json; empty where they are not there or damaged."""
    summary: dict[str, Any]
    steps: int | None

    @property
    def name(self) -> str:
        """Of its recipe."""
        told = self.info.get("recipe", self.summary.get("recipe"))
        return told if type(told) is str else self.folder.parent.name

    @property
    def version(self) -> str:
        return self.folder.resolve().name

    @property
    def seed(self) -> int | None:
        return next((s for s in (self.info.get("seed"), self.summary.get("seed")) if type(s) is int), None)

    @property
    def primary(self) -> dict[str, Any] | None:
        """What it is judged by: name, title, unit; None before its end."""
        if not self.summary:
            return None
        told = self.summary.get("primary") or OLD_PRIMARY
        return told if isinstance(told, dict) and type(told.get("name")) is str else None

    @property
    def metric(self) -> str | None:
        return None if self.primary is None else str(self.primary["name"])

    @property
    def test(self) -> float | None:
        return self._number(f"test.{self.metric}") if self.metric else None

    @property
    def validation(self) -> float | None:
        return self._number(f"validation.{self.metric}") if self.metric else None

    @property
    def flops(self) -> float | None:
        """Of its training."""
        return self._number("flops.training")

    @property
    def seconds(self) -> float | None:
        """Wall time, all together."""
        return self._number("seconds.total")

    @property
    def orders(self) -> dict[str, int] | None:
        """By layer, at the end."""
        return self._counts("orders.final")

    @property
    def axes(self) -> dict[str, int] | None:
        """Units of all axes of a kind together, at the end."""
        return self._counts("axes.final")

    @property
    def when(self) -> str | None:
        """It ended; began, where it has not."""
        times = (self.info.get("finished"), self.info.get("started"))
        return next((time for time in times if type(time) is str), None)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """Its resolved recipe; empty where it cannot be read."""
        try:
            told = plain_yaml(Run(self.folder).recipe_path.read_text(encoding="utf-8"))
        except (OSError, ValueError, BadInputError):
            return {}
        return told if isinstance(told, dict) else {}

    def value(self, key: str) -> Any:
        """A column, or an entry of its recipe, summary.json or run.json by its dotted key; else MISSING."""
        if key in COLUMNS:
            return str(self.folder) if key == "folder" else getattr(self, key)
        first, _, rest = key.partition(".")
        if first in DOCUMENTS and rest:
            return entry(self._document(first), rest)
        found = (entry(self._document(name), key) for name in DOCUMENTS)
        return next((value for value in found if value is not MISSING), MISSING)

    def all_keys(self) -> Iterator[str]:
        """All that ``value`` has one for."""
        yield from COLUMNS
        for name in DOCUMENTS:
            yield from _leaves(self._document(name))

    def record(self) -> dict[str, Any]:
        """All columns."""
        return {column: self.value(column) for column in COLUMNS}

    def _document(self, name: str) -> dict[str, Any]:
        return {"recipe": lambda: self.recipe, "summary": lambda: self.summary, "run": lambda: self.info}[
            name
        ]()

    def _number(self, key: str) -> float | None:
        value = entry(self.summary, key)
        return value if is_number(value) else None

    def _counts(self, key: str) -> dict[str, int] | None:
        found = entry(self.summary, key)
        right = isinstance(found, dict) and all(type(count) is int for count in found.values())
        return found if right else None


def runs_below(folders: Iterable[Path]) -> Found:
    """All runs below folders, each once, oldest first; BadInputError where a folder is not there.

    Links are not followed. What is damaged or half written is an entry that says so.
    """
    found = Found()
    seen: set[Path] = set()
    for folder in folders:
        if not folder.is_dir():
            raise BadInputError(
                f"{folder}: no such folder; give a folder of runs, such as outputs, or the root of your recipes"
            )
        for path in _run_folders(folder, found):
            if (whole := path.resolve()) not in seen:
                seen.add(whole)
                found.runs.append(read_entry(path))
    found.runs.sort(key=lambda run: (run.when or "", str(run.folder)))
    return found


def read_entry(folder: Path) -> Entry:
    """What the files of a run say; nothing that is wrong with them is an error."""
    run = Run(folder)
    live, is_done = run.is_live, run.is_done
    info, wrong = _read(run.read_info, folder)
    if wrong and not (folder / "run.json").is_file():
        wrong = None if live else "has no run.json: its process ended before it was written"
    summary, wrong_summary = _read(run.read_summary, folder) if is_done else ({}, None)
    wrong = wrong or wrong_summary or (_wrong(summary) if is_done else None)
    status, reason = ("damaged", wrong) if wrong else _status(info, live, is_done)
    return Entry(folder, status, reason, info, summary, _steps(run, summary))


def entry(document: Any, key: str) -> Any:
    """An entry by its dotted key, where names may have dots themselves; MISSING where there is none."""
    if not key:
        return document
    if isinstance(document, list):
        first, _, rest = key.partition(".")
        is_index = first.isascii() and first.isdigit() and int(first[:9]) < len(document)
        return entry(document[int(first[:9])], rest) if is_index else MISSING
    if not isinstance(document, dict):
        return MISSING
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if (name := ".".join(parts[:length])) in document:
            found = entry(document[name], ".".join(parts[length:]))
            if found is not MISSING:
                return found
    return MISSING


def is_number(value: object) -> bool:
    """Whether it is a finite number."""
    return type(value) in (int, float) and abs(value) <= sys.float_info.max  # type: ignore[arg-type]


def _leaves(document: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(document, dict) and document:
        for name, value in document.items():
            yield from _leaves(value, f"{prefix}.{name}" if prefix else str(name))
    elif prefix:
        yield prefix


def _run_folders(top: Path, found: Found) -> Iterator[Path]:
    """Breadth first, in the order of names, no deeper than DEEPEST; what cannot be read is told."""
    level, looked = [top], 0
    for _ in range(DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            if looked == MOST_FOLDERS:
                found.warnings.append(
                    f"{top}: has more than {MOST_FOLDERS:,} folders; the others are left out"
                )
                return
            looked += 1
            try:
                with os.scandir(folder) as entries:
                    names = {e.name: e.is_dir(follow_symlinks=False) for e in entries}
            except OSError as error:
                found.warnings.append(f"{folder}: cannot be read: {error.strerror}")
                continue
            if "run.json" in names or (VERSION.match(folder.name) and names.get("checkpoints")):
                yield folder
            else:
                below += [folder / name for name in sorted(names) if names[name] and not name.startswith(".")]
        level = below
    if level:
        found.warnings.append(f"{top}: folders more than {DEEPEST} levels below it are left out")


def _read(read: Any, folder: Path) -> tuple[dict[str, Any], str | None]:
    """What a file says, or what is wrong with it."""
    try:
        return read(), None
    except BadInputError as error:
        return {}, str(error).replace(f"{folder}{os.sep}", "")


def _wrong(summary: dict[str, Any]) -> str | None:
    """What of a summary that a listing shows is not what it must be."""
    primary = summary.get("primary") or OLD_PRIMARY
    if not isinstance(primary, dict) or type(primary.get("name")) is not str:
        return f"summary.json: primary must be a mapping with a name, found {described(primary)}"
    name = primary["name"]
    for key in (f"test.{name}", f"validation.{name}", "flops.training", "seconds.total", "steps"):
        value = entry(summary, key)
        if value is MISSING:
            return f"summary.json: has no entry {shorten(key)}"
        if value is not None and not is_number(value):
            return f"summary.json: {one_line(key)} must be null or a finite number, found {described(value)}"
    return None


def _status(info: dict[str, Any], live: bool, is_done: bool) -> tuple[str, str | None]:
    told, error = info.get("status"), info.get("error")
    if live:
        return "running", None
    if is_done:
        return "done", None
    if told == "done":
        return "damaged", "is done by its run.json, and has no summary.json"
    if told == "running":
        return "interrupted", "its process ended without a word"
    if type(told) is not str or not 0 < len(told) <= 30:
        return "damaged", f"run.json: status must be a word, found {described(told)}"
    if told == "interrupted":
        return told, f"by {shorten(info['signal'], 20)}" if info.get("signal") else None
    return told, None if error is None else " ".join(str(error).split())


def _steps(run: Run, summary: dict[str, Any]) -> int | None:
    """How far it is, or was trained."""
    if type(steps := summary.get("steps")) is int:
        return steps
    return line["step"] if (line := run.last_logged()) is not None else None
