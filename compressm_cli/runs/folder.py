"""One output folder and the files in it. No other module knows these names.

<root>/<recipe name>/v0001/
    recipe.yaml        the resolved recipe, with the one seed of this run; reloadable
    run.json           status, command, seed, versions, device, git commit, times
    metrics.jsonl      one line a logged step or evaluation
    compression.jsonl  one line a layer and check, also when nothing was cut
    summary.json       what ``compare`` reads
    checkpoints/       last-<step>.pt, best.pt, final.pt
    lock               which process trains this run now; empty when none does
    plots/
    summary-<step>.json, checkpoints/final-<step>.pt, plots-<step>/   of earlier ends of a run that was trained longer
<root>/<recipe name>/latest -> v0001
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import bring_to_disk, remove_temporaries, write_atomically
from compressm_cli.core.text import described
from compressm_cli.runs.lock import held, is_held
from compressm_cli.runs.versions import VERSION, create_version, versions

MOST_NAMED = 10
"""Runs that a message lists."""
DEEPEST = 100
"""Mappings and lists within each other, in a file of a run."""
MEND = "the run's record is damaged: mend the line, or delete it, with what it told"
LONGEST_LINE = 65536
"""Bytes of a line of a log."""
LOGS = ("metrics.jsonl", "compression.jsonl")
KINDS = {"git": dict, "device": dict, "machine": dict, "versions": dict, "resumed": list}
"""Of entries of run.json, where they are there and not null."""


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False)


def _value(data: bytes) -> Any:
    """What JSON says; ValueError, whatever is wrong with it."""
    try:
        return json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


class Run:
    """The folder of one run; use ``Run.create``, ``Run.open``, ``Run.newest`` or ``Run.find``."""

    def __init__(self, folder: Path, given: Path | None = None) -> None:
        self.folder = folder
        self._given = given or folder

    @classmethod
    def create(cls, root: Path, name: str) -> "Run":
        """Take the next free version below ``root/name``; two processes never take the same.

        Raises BadInputError where ``root/name`` is a link: runs are written below ``root`` and nowhere else.
        """
        return cls(create_version(root / name, "checkpoints", "plots"))

    @classmethod
    def open(cls, folder: Path) -> "Run":
        """An existing run's folder; BadInputError where it is none."""
        given, folder = folder, folder.resolve()
        if not (folder / "run.json").is_file():
            raise BadInputError(f"{folder}: not a run folder (it has no run.json)")
        return cls(folder, given)

    @classmethod
    def find(cls, path: Path) -> list["Run"]:
        """The runs that a path means: a run folder, or a recipe's folder with all its versions."""
        if not path.exists():
            raise BadInputError(
                f"{path}: no such file or folder; give a run folder such as outputs/NAME/v0001"
            )
        if (path / "run.json").is_file():
            return [cls.open(path)]
        found = versions(path) if path.is_dir() else []
        runs = [cls.open(folder) for folder in found if (folder / "run.json").is_file()]
        if not runs:
            raise BadInputError(
                f"{path}: neither a run folder nor a folder of runs (v0001, v0002, ...){_runs_within(path)}"
            )
        return runs

    @classmethod
    def newest(cls, path: Path) -> "Run":
        """The run that a path means: a run folder, or the newest version in a recipe's folder."""
        return cls.find(path)[-1]

    @property
    def recipe_path(self) -> Path:
        return self.folder / "recipe.yaml"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def plots(self) -> Path:
        return self.folder / "plots"

    @property
    def tensorboard(self) -> Path:
        """Event files, where the recipe asks for them."""
        return self.folder / "tensorboard"

    @property
    def final_checkpoint(self) -> Path:
        """The finished model alone, without the state of training."""
        return self.checkpoints / "final.pt"

    @property
    def best_checkpoint(self) -> Path:
        """The model alone, at its best validation accuracy (perhaps before a cut)."""
        return self.checkpoints / "best.pt"

    def last_checkpoint(self, step: int) -> Path:
        """Model and state of training after ``step`` steps, from which a run resumes."""
        return self.checkpoints / f"last-{step:09d}.pt"

    def last_checkpoints(self) -> list[Path]:
        """The checkpoints to resume from, oldest first."""
        return sorted(self.checkpoints.glob("last-*.pt"))

    def keep_checkpoints(self, newest: Path, count: int) -> None:
        """Delete all but the ``count`` checkpoints up to ``newest``; later ones are those of an undone trial."""
        saved = self.last_checkpoints()
        kept = saved[: saved.index(newest) + 1][-count:]
        for old in set(saved) - set(kept):
            old.unlink()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Be the one process that trains this run; RunLockedError where another one is.

        The kernel's lock on the open file decides, and ends with its process however that dies. A file system
        may not share it between hosts, or not have it: there the lock counts as held until its last touch is
        STALE_SECONDS old. What is in the file is for people, and for that case.

        Raises BadInputError where a link in the folder, or the folder itself, would have writes go elsewhere.
        """
        self._require_no_links()
        with held(self.folder / "lock"):
            yield

    def _require_no_links(self) -> None:
        # ``latest`` is a link to a folder beside it.
        if self._given.is_symlink() and self._given.parent.resolve() != self.folder.parent:
            raise BadInputError(
                f"{self._given}: is a link to {self.folder}; to train there, give that folder itself"
            )
        for path in (*self.folder.iterdir(), *self.checkpoints.glob("*"), *self.plots.glob("*")):
            if path.is_symlink():
                raise BadInputError(
                    f"{path}: is a link to {path.resolve()}, and runs are not written through links; put what it "
                    "links to in its place"
                )

    def remove_leftovers(self) -> None:
        """Delete what writes that a dying process did not finish have left; only who holds the lock may.

        Folders of the run that are missing are made.
        """
        for folder in (self.checkpoints, self.plots):
            folder.mkdir(exist_ok=True)
        for folder in (self.folder, self.checkpoints):
            remove_temporaries(folder)

    def set_aside(self, step: int) -> None:
        """Keep what tells of the run's end after ``step`` steps under names of their own: it is trained longer.

        May be repeated where it did not come to its end.
        """
        number = f"-{step:09d}"
        # The summary first: without it the run counts as not done, and can go on in any case.
        for path in (self.folder / "summary.json", self.final_checkpoint):
            if path.exists():
                os.replace(path, path.with_name(f"{path.stem}{number}{path.suffix}"))
        if self.plots.is_dir() and any(self.plots.iterdir()):
            kept = self.plots.with_name(f"{self.plots.name}{number}")
            shutil.rmtree(kept, ignore_errors=True)
            os.replace(self.plots, kept)
        self.plots.mkdir(exist_ok=True)

    @property
    def is_live(self) -> bool:
        """Whether a process trains this run now, as far as its lock tells."""
        return is_held(self.folder / "lock")

    @property
    def is_done(self) -> bool:
        """Whether the run came to its end, also where ``run.json`` could not be told any more."""
        return (self.folder / "summary.json").is_file()

    def write_recipe(self, text: str) -> None:
        write_atomically(self.recipe_path, text.encode())

    def write_info(self, info: dict[str, Any]) -> None:
        """run.json: status, command, seed, versions, device, commit, times."""
        write_atomically(self.folder / "run.json", (json.dumps(info, indent=2) + "\n").encode())

    def read_info(self) -> dict[str, Any]:
        """run.json; BadInputError where it is damaged."""
        info = self._read("run.json")
        for key, kind in KINDS.items():
            if info.get(key) is not None and type(info[key]) is not kind:
                raise BadInputError(
                    f"{self.folder / 'run.json'}: {key} must be a {'mapping' if kind is dict else 'list'} or null, "
                    f"found {described(info[key])}; the run's record is damaged"
                )
        return info

    def write_summary(self, summary: dict[str, Any]) -> None:
        """summary.json, written once, when the run is done."""
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        write_atomically(self.folder / "summary.json", text.encode())

    def read_summary(self) -> dict[str, Any]:
        """BadInputError where the run has not finished."""
        if not self.is_done:
            raise BadInputError(f"{self.folder}: the run has no summary.json yet; it has not finished")
        return self._read("summary.json")

    def append_metrics(self, line: dict[str, Any]) -> None:
        self._append("metrics.jsonl", line)

    def append_compression(self, line: dict[str, Any]) -> None:
        self._append("compression.jsonl", line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """BadInputError where a line is damaged, but the last one, which a killed run may have torn."""
        return [line for _, line in self._lines("metrics.jsonl")]

    def last_logged(self) -> dict[str, Any] | None:
        """The last whole line of metrics.jsonl, without reading the others; None where there is none."""
        with suppress(OSError), (self.folder / "metrics.jsonl").open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LONGEST_LINE))
            for text in reversed(file.read().splitlines()):
                with suppress(ValueError):
                    if isinstance(line := _value(text), dict) and type(line.get("step")) is int:
                        return line
        return None

    def read_compression(self) -> list[dict[str, Any]]:
        """As ``read_metrics``; also where a line does not tell what was looked at, and how much of it there was."""
        found = [line for _, line in self._lines("compression.jsonl")]
        for number, line in enumerate(found, 1):
            if wrong := _wrong_entry(line):
                raise BadInputError(f"{self.folder / 'compression.jsonl'}:{number}: {wrong}; {MEND}")
        return found

    def forget_after(self, step: int, undecided: int | None = None) -> None:
        """Drop logged lines of later steps, before a resumed run writes them again.

        The verdict on a cut is logged under the step of the cut: where that of step ``undecided`` is still
        to come, its lines are dropped too.
        """
        for name in LOGS:
            if (self.folder / name).is_file():
                decided = name != "compression.jsonl" or undecided is None
                kept = [
                    text
                    for text, line in self._lines(name)
                    if line["step"] <= step and (decided or line["step"] != undecided)
                ]
                write_atomically(self.folder / name, b"".join(text + b"\n" for text in kept))

    def sync_logs(self) -> None:
        """Wait until the logs are on the disk: before a checkpoint, which is later than these lines."""
        for name in LOGS:
            if (self.folder / name).is_file():
                # To append: some systems bring no file to the disk that was opened to be read.
                with (self.folder / name).open("ab") as file:
                    bring_to_disk(file.fileno())

    def _append(self, name: str, line: dict[str, Any]) -> None:
        # As bytes, which reach the system in one call: a killed process leaves a whole line or none.
        data = f"{_json(line)}\n".encode()
        path = self.folder / name
        try:
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:  # of a full disk, which names no file
            error.filename = str(path)
            raise

    def _lines(self, name: str) -> Iterator[tuple[bytes, dict[str, Any]]]:
        """The lines of a log, each as it is there and what it says."""
        path = self.folder / name
        texts = path.read_bytes().splitlines() if path.is_file() else []
        for number, text in enumerate(texts, 1):
            try:
                line = _value(text)
            except ValueError as error:
                if number == len(texts):  # torn, where a run was killed
                    return
                raise BadInputError(f"{path}:{number}: cannot be read: {error}; {MEND}") from error
            if not isinstance(line, dict) or type(line.get("step")) is not int:
                raise BadInputError(f"{path}:{number}: has no step; {MEND}")
            yield text, line

    def _read(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            value = _value(path.read_bytes())
        except (OSError, ValueError) as error:
            raise BadInputError(f"{path}: cannot be read: {error}") from error
        if not isinstance(value, dict):
            raise BadInputError(f"{path}: expected a mapping, found {type(value).__name__}")
        if _is_deeper(value, DEEPEST):
            raise BadInputError(
                f"{path}: mappings and lists more than {DEEPEST} deep; the run's record is damaged"
            )
        return value


def _is_deeper(value: Any, most: int) -> bool:
    """Whether mappings and lists lie within each other more than so many times."""
    level = [value]
    for _ in range(most + 1):
        inner = (
            one.values() if isinstance(one, dict) else one for one in level if isinstance(one, dict | list)
        )
        level = [entry for entries in inner for entry in entries]
        if not level:
            return False
    return True


def _wrong_entry(line: dict[str, Any]) -> str | None:
    """What is wrong with a line about a check; earlier versions knew layers and their orders alone."""
    of_today = "unit" in line
    names = ("unit", "kind") if of_today else ("layer",)
    counts = ("before", "after") if of_today else ("order_before", "order_after")
    wanted: list[tuple[str, str, bool]] = [(name, "text", type(line.get(name)) is str) for name in names]
    wanted += [(name, "a whole number", type(line.get(name)) is int and line[name] >= 0) for name in counts]
    wanted.append(("accepted", "true, false or null", type(line.get("accepted", 0)) in (bool, type(None))))
    if spectrum := line.get("hsv"):
        numbers = type(spectrum) is list and all(type(value) in (int, float) for value in spectrum)
        wanted.append(("hsv", "a list of numbers", numbers))
    for name, what, is_right in wanted:
        if not is_right:
            found = f"must be {what}, found {described(line[name])}" if name in line else "is missing"
            return f"{name} {found}"
    return None


def _runs_within(path: Path) -> str:
    """The runs in folders of a folder, for a message."""
    with suppress(OSError):
        found = sorted(info.parent for info in path.glob("*/v*/run.json") if VERSION.match(info.parent.name))
        if found:
            more = f" and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
            return f"; give one of the runs in it: {', '.join(map(str, found[:MOST_NAMED]))}{more}"
    return ""
