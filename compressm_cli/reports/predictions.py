"""Predictions as a table, and in files: csv, jsonl, parquet."""

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import unwritable, write_atomically
from compressm_cli.engine.prediction import Predictions

MOST_CLASSES = 20
"""Of which the probabilities are told, unless it is said how many are wanted."""

DIGITS = 7
"""Of a probability that are told."""

Columns = dict[str, list[str] | list[float]]


def columns_of(predictions: Predictions, top: int | None = None) -> Columns:
    """The columns of the file: ``row``, then ``prediction`` and ``probability`` and those of all classes; or targets;
    or, of a model that translates, ``row`` and ``prediction``.

    With ``top``, or more than ``MOST_CLASSES`` classes, the most probable ones instead, each with its name.
    """
    columns: Columns = {"row": list(predictions.names)}
    if predictions.targets is not None:
        wanted = predictions.target_names or []
        for place, name in enumerate(wanted):
            columns[_free(name, columns, wanted)] = predictions.targets[:, place].tolist()
        return columns
    if predictions.texts is not None:
        return columns | {"prediction": predictions.texts}
    shares, names = predictions.probabilities, predictions.class_names
    assert shares is not None, "there are targets or classes"
    assert names is not None, "beside the probabilities"
    columns["prediction"], columns["probability"] = predictions.classes, _told(shares.max(axis=1))
    if top is None and len(names) <= MOST_CLASSES:
        return columns | {f"probability:{name}": _told(shares[:, i]) for i, name in enumerate(names)}
    # Stable, so that equal ones come in the order of the classes, as the first does.
    order = np.argsort(-shares, axis=1, kind="stable")[:, : top or 1]
    for rank in range(1, order.shape[1]):
        places = order[:, rank]
        columns[f"prediction:{rank + 1}"] = [names[place] for place in places]
        columns[f"probability:{rank + 1}"] = _told(shares[np.arange(len(shares)), places])
    return columns


def _told(shares: np.ndarray) -> list[float]:
    """With as many digits as a model in single precision has."""
    return [float(f"{share:.{DIGITS}g}") for share in shares.tolist()]


def _free(name: str, columns: Columns, wanted: Sequence[str]) -> str:
    """A target's own name, unless a column has it already; then one that no other target has."""
    while name in columns:
        name = f"prediction:{name}"
        while name in wanted:
            name = f"prediction:{name}"
    return name


def _csv(columns: Columns) -> bytes:
    lines = _Lines()
    writer = csv.writer(lines, lineterminator=_Lines.end)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return "".join(lines.written).encode()


class _Lines:
    """What is written line by line; a cell with any of the signs of ``end`` in it is quoted."""

    end = "\r\n"

    def __init__(self) -> None:
        self.written: list[str] = []

    def write(self, line: str) -> None:
        self.written.append(line.removesuffix(self.end) + "\n")


def _jsonl(columns: Columns) -> bytes:
    rows = zip(*columns.values(), strict=True)
    lines = (json.dumps(dict(zip(columns, row, strict=True)), ensure_ascii=False) for row in rows)
    return "".join(f"{line}\n" for line in lines).encode()


def _parquet(columns: Columns) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


FORMATS: dict[str, Callable[[Columns], bytes]] = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}
"""What writes a file, by its suffix."""


def require_writable(path: Path) -> None:
    """Before any work is done: BadInputError for a file of another kind, or one that exists."""
    if path.suffix.lower() not in FORMATS:
        raise BadInputError(
            f"--output {path}: not a kind of file that is written; write {', '.join(f'*{s}' for s in FORMATS)}"
        )
    if path.exists():
        raise BadInputError(f"--output {path}: exists already; choose another name, or remove it")


def as_csv(columns: Columns) -> str:
    """The file as text."""
    return _csv(columns).decode()


def write(columns: Columns, path: Path) -> None:
    """Write the file; BadInputError where that is not possible."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, FORMATS[path.suffix.lower()](columns))
    except OSError as error:
        raise BadInputError(unwritable(path, error, "choose another --output")) from error
