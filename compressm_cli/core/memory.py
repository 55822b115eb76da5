"""How much memory is free; whether memory is what was missing, whoever asked for it."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

NO_MEMORY = (
    *("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory"),
    *("bad allocation", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED"),
    "failed to map segment from shared object",
)
"""What messages of PyTorch, and of the system that loads a library, contain when memory is what is missing."""

MACHINE, OWN_GROUPS, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")
NAMES = {
    True: ("memory.max", "memory.current", "inactive_file"),
    False: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}
"""Of control groups, version 2 or not: what may be taken, what is taken, what of that is in files and need not be."""


def free_memory() -> int | None:
    """Bytes that a process may still take; None where the system does not tell.

    It is what the machine has, or what a container or a job may still take; of several processes that torchrun started
    on one machine, each one's part.
    """
    known = [free for free in (_of_machine(), *_of_groups()) if free is not None]
    processes = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(known) // max(1, int(processes) if processes.isdecimal() else 1) if known else None


def _of_machine() -> int | None:
    try:
        lines = MACHINE.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(sizes[0]) * 1024 if sizes else None


def _of_groups() -> Iterator[int | None]:
    """Of each group that this process is in, and of those around it."""
    try:
        lines = OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, kinds, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if not kinds or "memory" in kinds.split(","):
            root = GROUPS if not kinds else GROUPS / "memory"
            inner = Path(path.lstrip("/"))
            for place in (inner, *inner.parents):
                yield _of_group(root / place, *NAMES[not kinds])


def _of_group(folder: Path, most: str, taken: str, again: str) -> int | None:
    """None where there is no limit."""
    try:
        limit, used = (folder / most).read_text().strip(), int((folder / taken).read_text())
        told = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        return None
    return max(0, int(limit) - used + int(told.get(again, 0))) if limit.isdecimal() else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, is what was missing; knows the errors of torch without it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in NO_MEMORY)
