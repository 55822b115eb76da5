"""Writing files whole."""

import errno
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

TEMPORARY = re.compile(r"^\..+\.\d+\.[0-9a-f]{32}$")
NOT_OFFERED = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""What a file system answers that does not know a call. That the call failed (a full disk) is another answer."""
NO_FOLDERS = NOT_OFFERED | {errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}
"""The same of a folder, which perhaps cannot be opened, or not as ``fsync`` wants it."""

WRITABLE = "make it writable"
SPACE = "free some space"
ADVICE = {
    errno.ENOSPC: SPACE,
    errno.EDQUOT: f"{SPACE}, or ask for a larger quota",
    errno.EFBIG: "lift the limit on the size of files (ulimit -f)",
    errno.EROFS: WRITABLE,
    errno.EACCES: WRITABLE,
    errno.EPERM: WRITABLE,
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.EIO: "see whether the disk is sound",
}
"""What to do where something cannot be written, by the error that the system gave."""


def unwritable(where: object, error: OSError, otherwise: str) -> str:
    """The line about something that cannot be written: why, and what to do, ``otherwise`` where nothing else helps."""
    advice = ADVICE.get(error.errno or 0)
    return f"{where}: cannot be written: {error.strerror or error}; {f'{advice}, or ' if advice else ''}{otherwise}"


def try_to_write(path: Path) -> None:
    """OSError where a file cannot be written, before there is anything to write; folders may be missing."""
    if path.exists():
        with path.open("ab"):
            return
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    temporary = folder / f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}"
    try:
        temporary.open("xb").close()
        temporary.unlink()
    except OSError as error:
        error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    # Not mkstemp, whose files only their owner may read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex}")
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            bring_to_disk(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError):
            # A write does not tell it, and the temporary name tells nobody anything.
            error.filename = str(path)
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _bring_folder_to_disk(path.parent)


def bring_to_disk(descriptor: int) -> None:
    """``fsync``, as far as the file system has it: without, what is written is as safe as that system makes it."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise


def _bring_folder_to_disk(folder: Path) -> None:
    """Make a rename in it last, as far as the file system has that: the file is in its place all the same."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in NO_FOLDERS:
            error.filename = str(folder)
            raise


def remove_temporaries(folder: Path) -> None:
    """Delete what ``write_atomically`` was writing into a folder when its process was killed."""
    for entry in os.listdir(folder):
        if TEMPORARY.match(entry):
            (folder / entry).unlink(missing_ok=True)
