"""Files of bytes, perhaps packed by gzip."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import cast

from compressm_cli.core.errors import BadInputError

PACKED = ".gz"
MARK = b"\x1f\x8b"
"""How what gzip has packed begins."""


def suffix_of(path: str | Path) -> str:
    """What a file holds by its name, also where it is packed: ``.jsonl`` of ``a.jsonl.gz``."""
    return Path(str(path).lower().removesuffix(PACKED)).suffix


def require_file(path: Path) -> None:
    """BadInputError for a pipe or a device: opening one could wait for its writer."""
    if not path.is_file():
        raise BadInputError(f"{path}: not a file; write its content into one, and give that")


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The content of a file, unpacked where its name ends in .gz; BadInputError for what is no file."""
    require_file(path)
    with unpacked(path) as content:
        yield content


@contextmanager
def unpacked(path: Path) -> Iterator[BufferedReader]:
    """As ``opened``, of what is known to be a file; BadInputError where gzip has not packed it, as its name says."""
    with path.open("rb") as file:
        if path.suffix.lower() != PACKED:
            yield file
            return
        start = file.peek(len(MARK))[: len(MARK)]
        if start and start != MARK:
            raise BadInputError(
                f"{path}: not packed by gzip, as its name says; let it end in "
                f"{path.with_suffix('').suffix or 'what it holds'}, or pack it with: gzip"
            )
        with gzip.GzipFile(fileobj=file) as content:
            # Which reads and can be looked into as one.
            yield cast(BufferedReader, content)
