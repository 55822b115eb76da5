"""Rows that a program has in memory, as those of files."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described
from compressm_cli.data.encodings import Inputs
from compressm_cli.data.rows import PAIRED, Kind, Rows
from compressm_cli.data.sources.audio import recordings_of
from compressm_cli.data.sources.images import ImageRows
from compressm_cli.data.sources.text import plain_text

SOURCE = "the rows that were given"
WANTED: dict[Kind, str] = {
    "texts": "a text, str or bytes",
    "pairs": "a pair of texts, str or bytes",
    "series": "a series, an array (steps, channels) of numbers",
    "images": "an image, a path or an array (height, width, channels) of uint8",
    "audio": "a recording, the path of a file",
    "tokens": "an array (steps,) of whole numbers",
}


def given_rows(inputs: Inputs, given: Iterable[Any]) -> Rows:
    """What a program gives to a model with such inputs. Raises BadInputError for none, TypeError for others."""
    kind = inputs.takes
    if isinstance(given, str | bytes | Path) or not isinstance(given, Iterable):
        raise TypeError(f"{SOURCE}: {described(given)}; give a list, of which each entry is {WANTED[kind]}")
    rows = list(given)
    if not rows:
        raise BadInputError(f"{SOURCE}: there are none; give one at least")
    if kind in ("images", "audio") and all(isinstance(row, str | Path) for row in rows):
        return _of_files(kind, [Path(row) for row in rows])
    return Rows(SOURCE, kind, [_row(kind, row, number) for number, row in enumerate(rows, start=1)])


def _of_files(kind: Kind, files: Sequence[Path]) -> Rows:
    """Images or recordings, called by their paths."""
    for file in files:
        if not file.is_file():
            raise BadInputError(f"{file}: no such file (paths start at {Path.cwd()})")
    places = [str(file) for file in files]
    content = ImageRows(files, places) if kind == "images" else recordings_of(files, places)
    return Rows(SOURCE, kind, content, names=places)


def _row(kind: Kind, row: Any, number: int) -> Any:
    read = _READ.get(kind)
    found = None if read is None else read(row)
    if found is None:
        raise TypeError(f"{SOURCE}, row {number}: {_told(row)}; each is {WANTED[kind]}")
    if not len(found):
        raise BadInputError(f"{SOURCE}, row {number}: is empty; leave it out")
    return found


def _told(row: Any) -> str:
    if isinstance(row, np.ndarray):
        return f"an array {row.shape} of {row.dtype}"
    return described(row)


def _text(row: Any) -> bytes | None:
    if isinstance(row, str):
        return row.encode("utf-8", "surrogatepass")
    return plain_text(row, SOURCE) if isinstance(row, bytes) else None


def _pair(row: Any) -> bytes | None:
    """Two texts as one row; empty where one of them is."""
    if not isinstance(row, tuple | list) or len(row) != 2:
        return None
    first, second = map(_text, row)
    if first is None or second is None:
        return None
    return PAIRED.join((first, second)) if first and second else b""


def _series(row: Any) -> np.ndarray | None:
    """(steps, channels) float64."""
    values = _array(row, "iuf")
    if values is None or values.ndim not in (1, 2):
        return None
    return (values[:, None] if values.ndim == 1 else values).astype(np.float64)


def _image(row: Any) -> np.ndarray | None:
    """(height, width, 1 to 4) uint8."""
    values = _array(row, "u")
    if values is None or values.dtype != np.uint8 or values.ndim not in (2, 3):
        return None
    image = values[:, :, None] if values.ndim == 2 else values
    return image if 1 <= image.shape[2] <= 4 and image.size else None


def _tokens(row: Any) -> np.ndarray | None:
    values = _array(row, "iu")
    return values if values is not None and values.ndim == 1 else None


def _array(row: Any, kinds: str) -> np.ndarray | None:
    """An array of numbers of some kinds; None where it is anything else."""
    try:
        values = np.asarray(row)
    except (TypeError, ValueError, RuntimeError):  # lists of several lengths; tensors that need a gradient
        return None
    return values if values.dtype.kind in kinds else None


_READ: dict[Kind, Callable[[Any], Any]] = {
    "texts": _text,
    "pairs": _pair,
    "series": _series,
    "images": _image,
    "tokens": _tokens,
}
