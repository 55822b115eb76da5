"""Writing files whole, and where the user's cache is."""

import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

TEMPORARY = re.compile(r"^\..+\.\d+\.[0-9a-f]{32}$")


def cache_folder() -> Path:
    """Where what can be made again is kept: $COMPRESSM_CACHE, else compressm in the user's cache."""
    if given := os.environ.get("COMPRESSM_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "compressm"


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    # Not mkstemp, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            # A write does not tell it, and the temporary name tells nobody anything.
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def remove_temporaries(folder: Path) -> None:
    """Delete what ``write_atomically`` was writing into a folder when its process was killed."""
    for entry in os.listdir(folder):
        if TEMPORARY.match(entry):
            (folder / entry).unlink(missing_ok=True)
