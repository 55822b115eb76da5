"""What looks wrong in data that can be read: a line each, with what to write instead."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from compressm_cli.data.interface import Split
from compressm_cli.data.rows import Rows
from compressm_cli.data.scaling import Scaling

SHOWN = 3
FEW = 10
"""Up to so many classes are never too many."""
NAMES_OF_STEPS = {
    "time",
    "timestamp",
    "date",
    "datetime",
    "step",
    "t",
    "seconds",
    "series",
    "series_id",
    "sequence_id",
}
"""Columns that a table with a row a step has."""
VALUES_AT_ONCE = 2**22
"""Inputs that are looked at at once."""
FEW_COLUMNS = 32
"""A table of more columns of numbers hardly has a row a step."""


def suspicions(
    read: Mapping[str, Rows],
    splits: Mapping[str, Split],
    classes: Sequence[str] | None,
    scalings: Mapping[str, Scaling],
) -> list[str]:
    """Of the rows of each split, the tensors that they became, the classes' names, and what became of numbers."""
    found = list(_of_splits(splits))
    if classes is not None:
        named = list(_of_classes(classes, len(splits["train"])))
        found = [
            *named,
            *([] if _are_too_many(classes, len(splits["train"])) else _missing(splits, classes)),
            *found,
        ]
    return [*found, *_of_numbers(read["train"], scalings)]


def _are_too_many(names: Sequence[str], rows: int) -> bool:
    """Whether nearly each row is a class of its own."""
    return len(names) > max(FEW, rows / 2)


def _of_classes(names: Sequence[str], rows: int) -> Iterator[str]:
    numbers = [number for number in map(_number, names) if number is not None]
    amounts = len(numbers) == len(names) and any(
        number != int(number) for number in numbers if abs(number) < 1e15
    )
    many = _are_too_many(names, rows)
    if amounts or (many and len(numbers) == len(names)):
        yield (
            f"the labels are {len(names):,} different numbers in {rows:,} training rows, each a class of its own; "
            "where they are amounts to be said, write their column as data.target_columns instead of data.label_column"
        )
    elif many:
        yield (
            f"{len(names):,} classes in {rows:,} training rows: nearly every row is a class of its own; see whether "
            "data.label_column is the right column"
        )
    alike = defaultdict(list)
    for name in names:
        number = _number(name)
        alike[" ".join(name.split()).casefold() if number is None else number].append(name)
    for same in list(filter(lambda several: len(several) > 1, alike.values()))[:SHOWN]:
        yield (
            f"the classes {_listed(same)} differ in blanks, capitals or the form of a number alone, and are classes of "
            "their own; write one name where they are the same"
        )


def _missing(splits: Mapping[str, Split], names: Sequence[str]) -> Iterator[str]:
    for key, split in splits.items():
        counts = np.bincount(split.labels.numpy(), minlength=len(names))
        missing = [name for name, count in zip(names, counts, strict=True) if not count]
        if missing:
            consequence = "it cannot be learned" if key == "train" else "nothing is known of it there"
            yield f"the {key} split has no row of class {_listed(missing)}: {consequence}"


def _of_splits(splits: Mapping[str, Split]) -> Iterator[str]:
    """Rows of one split that are in another one, too."""
    hashes = {key: _hashes(split) for key, split in splits.items()}
    for key, other in (("validation", "train"), ("test", "train"), ("test", "validation")):
        twice = int(np.isin(hashes[key], hashes[other]).sum())
        if twice:
            yield (
                f"{twice:,} of the {len(hashes[key]):,} rows of the {key} split have the inputs of a row of the "
                f"{other} split: what is measured on them is no test; leave out rows that are there twice"
            )


def _hashes(split: Split) -> np.ndarray:
    """(rows,) int64, of the inputs of each without their padding."""
    lengths = np.full(len(split), split.length) if split.lengths is None else split.lengths.numpy()
    rows = (row for part in split.padded.parts(VALUES_AT_ONCE) for row in part.numpy())
    hashes = (hash(row[:length].tobytes()) for row, length in zip(rows, lengths.tolist(), strict=True))
    return np.fromiter(hashes, dtype=np.int64, count=len(split))


def _of_numbers(rows: Rows, scalings: Mapping[str, Scaling]) -> Iterator[str]:
    for what, found in scalings.items():
        if found.coarse:
            yield (
                f"standardize: false, and {_listed(found.coarse)} of the {what} far from a mean of 0 and a "
                "deviation of 1: in single precision different numbers may become the same; write standardize: auto"
            )
        if found.constant and what == "targets":
            yield f"targets {_listed(found.constant)} have one value alone: there is nothing to learn"
    if rows.columns is not None:
        yield from _of_columns(rows)
    elif rows.kind == "series" and all(row.shape[1] > len(row) > 1 for row in map(np.asarray, rows.content)):
        steps, channels = np.asarray(rows.content[0]).shape
        yield (
            f"all series have more channels than steps (the first {channels:,} and {steps:,}): where they are the "
            "other way round in the file, write them as steps of channels"
        )


def _of_columns(rows: Rows) -> Iterator[str]:
    """Of a table whose steps are columns."""
    columns = list(rows.columns or [])
    first, same = np.full(len(columns), np.nan), np.ones(len(columns), dtype=bool)
    for row in rows.content:
        values = np.asarray(row)[:, 0]
        known = first[: len(values)]  # rows may be shorter than others
        np.copyto(known, values, where=np.isnan(known))
        same[: len(values)] &= values == known
    constant = [name for name, is_one in zip(columns, same, strict=True) if is_one]
    if len(rows) > 1 and len(constant) > max(1, len(columns) / 10):
        yield (
            f"{len(constant):,} of {len(columns):,} columns have one value in all training rows: {_listed(constant)}; "
            "see whether data.feature_columns are the right ones"
        )
    unused = [name for name in rows.unused or [] if name.strip().casefold() in NAMES_OF_STEPS]
    if unused and len(columns) <= FEW_COLUMNS:
        yield (
            f"{_listed(unused)} {'is' if len(unused) == 1 else 'are'} not read, and each row is a series of its own, "
            f"of {len(columns):,} steps; where rows are the steps of series, name these as data.id_column and "
            "data.time_column"
        )


def _number(name: str) -> float | None:
    try:
        number = float(name)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(map(repr, names[:SHOWN])) + more
