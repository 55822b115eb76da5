"""Original files of published sets: where they lie in a folder of the user's."""

from collections.abc import Sequence
from pathlib import Path

from compressm_cli.core.errors import BadInputError


def only_folder(folder: Path, places: Sequence[str], names: Sequence[str]) -> Path | None:
    """The first of ``places`` in a folder in which any file of these names lies; None where none does."""
    for place in places:
        if any((folder / place / name).is_file() for name in names):
            return folder / place
    return None


def required(folder: Path, names: Sequence[str]) -> Path:
    """The first file of these names; BadInputError where there is none."""
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise BadInputError(f"{folder}: {names[0]} is missing; put it beside the others")
