"""Files of bytes, perhaps packed by gzip."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

PACKED = ".gz"


def suffix_of(path: str | Path) -> str:
    """What a file holds by its name, also where it is packed: ``.jsonl`` of ``a.jsonl.gz``."""
    return Path(str(path).lower().removesuffix(PACKED)).suffix


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked where its name ends in .gz."""
    with path.open("rb") as file:
        if path.suffix.lower() != PACKED:
            yield cast(BinaryIO, file)
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)
