"""Who may write to a run folder: the one process that holds its lock."""

import errno
import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.files import NOT_OFFERED, unwritable

HEARTBEAT_SECONDS = 15.0
"""How often the process that holds a run's lock touches it."""
STALE_SECONDS = 120.0
"""Since its last touch, a lock of another host is that of a dead process."""
MOST_SAID = 4096
"""Bytes of what a lock says of its holder."""
HELD = {errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES}
"""What ``flock`` answers where another process holds the lock; EACCES is SMB's."""


class RunLockedError(BadInputError):
    """Another process is training this run."""


@contextmanager
def held(path: Path, what: str = "run") -> Iterator[int]:
    """Hold the lock file of a run, or of what else is called so; gives its descriptor.

    A process that inherits the descriptor holds the lock, too, until it ends. RunLockedError where another process has
    it, RunFailedError where it cannot be had.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        way_on = f"copy the {what} to a place that can be written, and resume it there"
        raise RunFailedError(unwritable(path, error, way_on)) from error
    try:
        _take(path, descriptor, what)
        stop = threading.Event()
        heartbeat = threading.Thread(target=_touch, args=(descriptor, stop), name="run-lock", daemon=True)
        heartbeat.start()
        try:
            yield descriptor
        finally:
            stop.set()
            heartbeat.join()
            # Not removed: who waits for a file that is gone, and who makes a new one, would both hold a lock.
            os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock file of a run, as far as it can be told without touching it.

    To try the lock would keep a process away that is just taking it. What holds a lock here stands among the kernel's
    locks, where it lists them; else a lock counts as held as ``held`` has it, and its process must live.
    """
    try:
        found = path.stat()
        holder = _said(path.read_bytes()[:MOST_SAID]) if found.st_size else None
    except OSError:
        return False
    if holder is None:
        return False
    pid = holder.get("pid")
    if holder.get("host") == platform.node() and type(pid) is int and pid > 0:
        if (pid, found.st_ino) in _kernel_locks():
            return True
        if not _lives(pid):
            return False
    return time.time() - found.st_mtime < STALE_SECONDS


def _kernel_locks() -> set[tuple[int, int]]:
    """Process and inode of each lock that the kernel lists; empty where it lists none."""
    try:
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        # 1: FLOCK  ADVISORY  WRITE 1234 08:01:5678 0 EOF
        fields = [line.split() for line in lines]
        return {(int(f[4]), int(f[5].rpartition(":")[2])) for f in fields if len(f) > 5 and f[1] == "FLOCK"}
    except (OSError, ValueError):
        return set()


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _take(path: Path, descriptor: int, what: str) -> None:
    shared = True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            holder = _holder(descriptor, patience=1.0)
            raise _locked(path, holder, "wait for it to end, or stop it", what) from error
        if error.errno not in NOT_OFFERED | {errno.ENOLCK}:
            raise
        shared = False  # a file system without locks
    holder, age = _holder(descriptor), time.time() - os.fstat(descriptor).st_mtime
    if holder and age < STALE_SECONDS and (holder.get("host") != platform.node() or not shared):
        raise _locked(
            path,
            holder,
            f"its lock was touched {max(age, 0):.0f} s ago; if that process is dead, try again when it is "
            f"{STALE_SECONDS:.0f} s old",
            what,
        )
    now = datetime.now(UTC).isoformat(timespec="seconds")
    mine = {"pid": os.getpid(), "host": platform.node(), "started": now}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{json.dumps(mine)}\n".encode(), 0)


def _locked(path: Path, holder: dict[str, Any], advice: str, what: str) -> RunLockedError:
    who = f"process {holder.get('pid', 'unknown')} on {holder.get('host', 'an unknown host')}"
    since = holder.get("started", "just now")
    if _has_ended(holder):
        return RunLockedError(
            f"{path.parent}: this {what} is live: {who} has ended, and processes that it started are still at work; "
            "wait for them to end, which they do by themselves"
        )
    return RunLockedError(f"{path.parent}: this {what} is live: {who} trains it since {since}; {advice}")


def _has_ended(holder: dict[str, Any]) -> bool:
    """Whether the process that took the lock is known to be gone, so that one which inherited it must have it."""
    pid = holder.get("pid")
    return holder.get("host") == platform.node() and type(pid) is int and pid > 0 and not _lives(pid)


def _holder(descriptor: int, patience: float = 0.0) -> dict[str, Any]:
    """What the lock says of its holder, who perhaps is just writing it; empty where nobody holds it."""
    until = time.monotonic() + patience
    while True:
        try:
            found = _said(os.pread(descriptor, MOST_SAID, 0))
        except OSError:  # where locks are mandatory (SMB), a locked file cannot be read either
            found = None
        if found is not None:
            return found
        if time.monotonic() >= until:
            return {}
        time.sleep(0.05)


def _said(data: bytes) -> dict[str, Any] | None:
    """What a lock says of its holder; None where nobody holds it, or who does is just writing it."""
    with suppress(ValueError, RecursionError):
        found = json.loads(data)
        return found if isinstance(found, dict) else None
    return None


def _touch(descriptor: int, stop: threading.Event) -> None:
    while not stop.wait(HEARTBEAT_SECONDS):
        with suppress(OSError):  # one missed beat of many
            _beat(descriptor)


def _beat(descriptor: int) -> None:
    try:
        os.utime(descriptor)
    except OSError:  # a file system where times cannot be set: writing sets them
        os.pwrite(descriptor, os.pread(descriptor, 1, 0), 0)
