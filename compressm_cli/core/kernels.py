"""Functions that numba compiles, and where their machine code is kept from one process to the next."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache

from compressm_cli.core.caches import Place, cache_place, claim, temporary_place, try_writing

CONFIG: Any = numba.config


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """``numba.njit`` without the interpreter's lock; what it compiles is kept where there is a place for that."""

    def decorate(function: Callable[..., Any]) -> Any:
        kernel = numba.njit(nogil=True, **options)(function)
        sources = Path(function.__code__.co_filename).parent
        place = kernel_place(sources)
        # RuntimeError: numba found no place after all, which was lost since we looked.
        with _kept_in(place.folder, sources), suppress(RuntimeError):
            if place.folder is not None:
                kernel._cache = _Cache(function)
        return kernel

    return decorate


@cache
def kernel_place(sources: Path) -> Place:
    """Where the machine code of a folder's functions is kept, and why not elsewhere.

    That is where numba keeps it, where that can be written to; then our cache; then a temporary folder. Where all
    fails, each process compiles for itself, to the same bits.
    """
    problems: list[str] = []
    for folder, why, make in _candidates(sources):
        try:
            make(folder)
            return Place(folder, "; ".join([why, *problems]))
        except OSError as error:
            problems.append(f"{error.filename or folder}: {error.strerror}")
    return Place(None, "; ".join(["compiled anew by each process", *problems]))


def _candidates(sources: Path) -> Iterator[tuple[Path, str, Callable[[Path], None]]]:
    if given := CONFIG.CACHE_DIR:
        yield Path(given), "$NUMBA_CACHE_DIR", try_writing
    yield sources / "__pycache__", "beside the sources", try_writing
    for place in (cache_place(), temporary_place()):
        if place.folder is not None:
            # Code is loaded from there: in a folder that others can write to, it would be theirs.
            yield place.folder / "numba", place.why, claim


@contextmanager
def _kept_in(folder: Path | None, sources: Path) -> Iterator[None]:
    """Have numba choose this folder for the functions that it is given meanwhile."""
    before = CONFIG.CACHE_DIR
    CONFIG.CACHE_DIR = "" if folder is None or folder.parent == sources else str(folder)
    try:
        yield
    finally:
        CONFIG.CACHE_DIR = before


class _Cache(FunctionCache):
    """numba's, where a file that is damaged, or cannot be read or written, is no failure of the function."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:  # whatever comes of damaged pickles and machine code
            try:
                self.flush()
            except OSError:
                self.disable()
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(OSError):  # a full disk
            super().save_overload(sig, data)
