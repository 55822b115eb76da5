"""Files by what they are rather than by their names: a link of either kind leads to a file that may have others."""

import os
from pathlib import Path


class FilesMet:
    """The files that were met so far, each by its first name."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int], Path] = {}

    def first(self, file: Path) -> Path:
        """The name under which this file was met first, which is this one where it was not met before."""
        status = file.stat()
        other = self._known.setdefault((status.st_dev, status.st_ino), file)
        if other is file:
            return file
        # Some file systems give several files one number.
        is_same = status.st_nlink > 1 or os.path.realpath(file) == os.path.realpath(other)
        return other if is_same else file
