"""Where what can be made again is kept, by us and by libraries. That there is no place for it is no failure."""

import errno
import json
import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressm_cli.core.files import write_atomically

LIBRARIES = {
    "MPLCONFIGDIR": ("matplotlib", (".cache/matplotlib", ".config/matplotlib")),
    "HF_HOME": ("huggingface", (".cache/huggingface",)),
    "TRITON_HOME": ("triton", (".triton",)),
}
"""Variable that tells a library where to keep its things -> its name, and where in the user's home they are else."""
ELSEWHERE = {".cache": "XDG_CACHE_HOME", ".config": "XDG_CONFIG_HOME"}
"""Variables that stand for folders of the home."""
TEMPORARY = ("/tmp", "/var/tmp")
"""Where temporary files are, where $TMPDIR does not say it."""


@dataclass(frozen=True)
class Place:
    """A folder to keep things in, which may not exist yet; None where there is none. And why it is this one."""

    folder: Path | None
    why: str


def cache_place() -> Place:
    """$COMPRESSM_CACHE, else compressm in the user's cache, else a temporary folder of the user's own."""
    if given := os.environ.get("COMPRESSM_CACHE"):
        return Place(Path(given), "$COMPRESSM_CACHE")
    problem = _problem(".cache/compressm")
    if problem is None:
        return Place(_in_home(".cache/compressm"), "the user's cache")
    other = temporary_place()
    return Place(other.folder, f"{other.why}; {problem}")


def temporary_place() -> Place:
    """A folder of this user alone among the system's temporary files."""
    # Not tempfile.gettempdir, which ends with the current folder.
    for place in filter(None, (*map(os.environ.get, ("TMPDIR", "TEMP", "TMP")), *TEMPORARY)):
        folder = Path(place) / f"compressm-{os.geteuid()}"
        with suppress(OSError):
            if not _lets_others_rename(folder.parent):
                claim(folder)
                return Place(folder, "a temporary folder")
    return Place(None, "no folder for temporary files is this user's alone")


def cache_folder() -> Path | None:
    """Where what can be made again is kept; None where there is no place for it."""
    return cache_place().folder


def remembered(name: str) -> Any:
    """What a process kept under a file's name by ``remember``; None where nothing is, or nothing whole."""
    folder = cache_folder()
    try:
        return None if folder is None else json.loads((folder / name).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember(name: str, value: Any) -> None:
    """Keep what can be written as JSON for the next process, where there is a place for it."""
    folder = cache_folder()
    if folder is not None:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, json.dumps(value).encode())


def settle_libraries() -> None:
    """Where libraries cannot keep their things in the user's home, have them do it beside ours.

    Some fail otherwise, and others make a folder named ``~``. What the user has set stays, and so do data sets that
    can only be read.
    """
    folder = cache_folder()
    if folder is None:
        return
    for variable, (name, own) in LIBRARIES.items():
        if any(map(_problem, own)) and not (variable == "HF_HOME" and _is_there(own[0])):
            os.environ.setdefault(variable, str(folder / name))
    if not _user_has_a_name():  # which is that of a folder of torch.compile's
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "torchinductor"))


def obstacle(folder: Path) -> str | None:
    """What speaks against writing to a folder that may not exist yet; None where nothing does."""
    folder = folder.absolute()
    # Not Path.exists, which raises where a folder above may not be looked into.
    existing = next(f for f in (folder, *folder.parents) if os.path.exists(f))
    if not os.path.isdir(existing):
        return f"{existing} is not a folder"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"no permission to write to {existing}"
    return None


def claim(folder: Path) -> None:
    """Make a folder that only this user can use, or see that it is one; OSError otherwise."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise PermissionError(errno.EACCES, "not a folder of this user alone", str(folder))
    try_writing(folder)


def try_writing(folder: Path) -> None:
    """Make a folder, if need be, and a file in it, which is gone afterwards; OSError where that fails."""
    from tempfile import TemporaryFile

    folder.mkdir(parents=True, exist_ok=True)
    TemporaryFile(dir=folder).close()


def _in_home(name: str) -> Path:
    """RuntimeError where the user has no home, as one without an entry in the system's list of users."""
    first, _, rest = name.partition("/")
    given = os.environ.get(ELSEWHERE.get(first, ""))
    return Path(given) / rest if given else Path.home() / name


def _problem(name: str) -> str | None:
    """What speaks against writing to a folder of the user's home; None where nothing does."""
    try:
        return obstacle(_in_home(name))
    except RuntimeError:
        return "this user has no home"


def _is_there(name: str) -> bool:
    try:
        return os.path.isdir(_in_home(name))
    except RuntimeError:
        return False


def _lets_others_rename(folder: Path) -> bool:
    mode = folder.stat().st_mode
    return bool(mode & stat.S_IWOTH) and not mode & stat.S_ISVTX


def _user_has_a_name() -> bool:
    from getpass import getuser

    try:
        return bool(getuser())
    except (KeyError, OSError, ImportError):
        return False
