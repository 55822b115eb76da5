"""Files of text, perhaps packed by gzip."""

import gzip
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from compressm_cli.data.reading import reading


@contextmanager
def opened(file: Path, kind: str) -> Iterator[TextIO]:
    """A file of UTF-8, with or without a mark at its beginning; what fails within is told as a fault of the file."""
    with reading(file, f"cannot be read as {kind}", "save it as UTF-8 text"):
        packed = file.suffix.lower() == ".gz"
        with (
            gzip.open(file, "rt", encoding="utf-8-sig", newline="")
            if packed
            else file.open(encoding="utf-8-sig", newline="") as lines
        ):
            assert not isinstance(lines, gzip.GzipFile), "text is asked for"
            yield lines
