"""Cells of a table that are files, named by their paths or kept in the table itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compressm_cli.data.columns import CORRECT, Column, Place
from compressm_cli.data.sources import Cells


@dataclass(frozen=True)
class FileCell:
    """One file."""

    source: Path | bytes
    """Where it is, or what is in it."""
    place: str
    """What messages call it."""
    path: str | None
    """As the cell has it; None where that has the content."""


class FileCells(Column[Sequence[FileCell]]):
    """Paths, relative ones from the folder of the table on, or mappings of ``bytes`` and ``path``."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what
        self._files: list[FileCell] = []

    def add(self, cells: Cells, place: Place) -> None:
        for row, cell in enumerate(cells):
            self._files.append(self._file(cell, row, place))

    def _file(self, cell: Any, row: int, place: Place) -> FileCell:
        data, path = (cell.get("bytes"), cell.get("path")) if isinstance(cell, dict) else (None, cell)
        if not isinstance(data, bytes | None) or not isinstance(path, str | None) or not (data or path):
            raise place.error(row, f"the {self._what} is missing", "name a file there, or leave out the row")
        told = f"{place.file}, {self._what} {place.first + row + 1}" + (f" ({path})" if path else "")
        if data is not None:
            return FileCell(data, told, None)
        file = place.file.parent / str(path)
        if not file.is_file():
            raise place.error(row, f"{path}: no such file in {place.file.parent}", CORRECT)
        return FileCell(file, told, path)

    @property
    def values(self) -> Sequence[FileCell]:
        return self._files

    @property
    def names(self) -> list[str] | None:
        """The paths, where each cell is one; else None."""
        names = [file.path for file in self._files if file.path is not None]
        return names if len(names) == len(self._files) else None
