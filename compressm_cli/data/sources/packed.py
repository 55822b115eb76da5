"""Files of bytes, perhaps packed by gzip."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from compressm_cli.core.errors import BadInputError

PACKED = ".gz"


def suffix_of(path: str | Path) -> str:
    """What a file holds by its name, also where it is packed: ``.jsonl`` of ``a.jsonl.gz``."""
    return Path(str(path).lower().removesuffix(PACKED)).suffix


def require_file(path: Path) -> None:
    """BadInputError for a pipe or a device: opening one could wait for its writer."""
    if not path.is_file():
        raise BadInputError(f"{path}: not a file; write its content into one, and give that")


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The content of a file, unpacked where its name ends in .gz; BadInputError for what is no file."""
    require_file(path)
    with path.open("rb") as file:
        if path.suffix.lower() != PACKED:
            yield cast(BinaryIO, file)
            return
        with gzip.GzipFile(fileobj=file) as unpacked:
            yield cast(BinaryIO, unpacked)
