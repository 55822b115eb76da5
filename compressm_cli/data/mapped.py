"""Arrays that may be larger than memory: those of files, read where they lie, and those of temporary files."""

import mmap
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import NOT_OFFERED
from compressm_cli.core.memory import free_memory
from compressm_cli.core.quantities import quantity

SHARE = 0.5
"""Of the memory that is free, what data may take."""
BLOCK = 2**24
"""Bytes that are written at once."""
KEPT = 2**25
"""Bytes of an array in a temporary file that may stay in memory when they were read."""
AROUND = 2**19
"""Bytes that a system brings into memory for one that is read, about."""
IS_LINUX = sys.platform == "linux" and platform.machine() in ("x86_64", "aarch64")
WITHOUT_RESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if IS_LINUX else 0)
"""Else Linux refuses to map what is larger than memory, lest all of it be written to. Python knows it since 3.13."""


def of_file(path: Path, dtype: np.dtype, start: int = 0, count: int = -1) -> np.ndarray:
    """(count,) numbers from a byte of a file on, or all that follow, where they lie.

    What is written to them stays in memory, and takes none before.
    """
    with path.open("rb") as file:
        flags, rights = mmap.MAP_PRIVATE | WITHOUT_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
        content = mmap.mmap(file.fileno(), 0, flags=flags, prot=rights)
    return np.frombuffer(content, dtype=dtype, count=count, offset=start)


def is_large(size: int) -> bool:
    """Whether so many bytes are more than data may take of the memory that is free now."""
    free = free_memory()
    return free is not None and size > SHARE * free


def room_for(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """An array to be filled: in memory, or where that would be too much of it, in a temporary file that has no name."""
    size = prod(shape) * np.dtype(dtype).itemsize
    return in_temporary_file(shape, dtype) if is_large(size) else np.empty(shape, dtype)


class Pages:
    """What is in memory of an array in a temporary file: little, however much of it is read."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self._read = values, 0

    def read(self, places: int, size: int) -> None:
        """So many bytes were, in so many places."""
        self._read += size + places * AROUND
        if self._read > KEPT:
            let_go(self._values)
            self._read = 0


def let_go(values: np.ndarray) -> None:
    """What is in memory of a temporary file is read again when it is asked for; of other arrays nothing happens.

    Else all that was ever looked at would count as taken, until the system wants it back.
    """
    base: Any = values
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    mapping: Any = base
    if isinstance(base, np.memmap) and IS_LINUX:
        mapping._mmap.madvise(mmap.MADV_DONTNEED)


def in_temporary_file(shape: Sequence[int], dtype: Any) -> np.ndarray:
    """Zeros in a temporary file, which is gone with the array, or with the process however that ends.

    Raises BadInputError where the disk has no room.
    """
    size = prod(shape) * np.dtype(dtype).itemsize
    with _room_on_disk(size), TemporaryFile() as file:
        _fill(file, size)
        # Of a file that no one else has, so that nothing is reserved in memory.
        return np.asarray(np.memmap(file, dtype, mode="r+", shape=tuple(shape)))


def _fill(file: IO[bytes], size: int) -> None:
    """Take the room on the disk now: who writes to a mapped file when there is none left is killed."""
    try:
        os.posix_fallocate(file.fileno(), 0, size)
        return
    except AttributeError:  # on macOS
        pass
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
    for start in range(0, size, BLOCK):
        file.write(bytes(min(BLOCK, size - start)))
    file.flush()


@contextmanager
def _room_on_disk(size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BadInputError(
            f"{gettempdir()}: the data take {quantity(size, 'bytes')}, more than half of the memory that is free, and "
            f"no temporary file of that size can be written: {error.strerror or error}; free some space, or name a "
            "folder on a larger disk with the environment variable TMPDIR"
        ) from error
