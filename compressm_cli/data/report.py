"""What was read of the user's files: rows, classes, lengths, what became of the numbers, and what looks wrong."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from compressm_cli.core.text import counted
from compressm_cli.data.encodings import Encoding, Numbers
from compressm_cli.data.interface import Split
from compressm_cli.data.rows import Rows
from compressm_cli.data.scaling import Scaling
from compressm_cli.data.suspicions import suspicions

MOST_CLASSES = 1000
"""Classes whose rows are told by name, at most."""


@dataclass(frozen=True)
class SplitReport:
    """What is in one split."""

    rows: int
    classes: Mapping[str, int] | None
    """The rows of each class by its name; None where labels are no classes, or too many."""
    lengths: tuple[int, float, int]
    """The shortest, the median and the longest row, in steps."""


@dataclass(frozen=True)
class Report:
    """What was read, and what is to be looked at."""

    splits: Mapping[str, SplitReport]
    inputs: str
    """What a step is."""
    numbers: Sequence[str]
    """Whether channels and targets are standardized, and why."""
    files: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Of a split of several files: their names, in order."""
    left_out: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Of the files of a split: how many rows or files are not taken, by the reason."""
    filled: Mapping[str, int] = field(default_factory=dict)
    """Of the files of a split: how many series were filled up with NaN, which was taken off."""
    warnings: Sequence[str] = ()


def report_of(
    read: Mapping[str, Rows],
    splits: Mapping[str, Split],
    encoding: Encoding,
    scalings: Mapping[str, Scaling],
    from_files: Sequence[str],
) -> Report:
    """Of the rows of each split, and the tensors that they became; some splits are files of their own."""
    names = encoding.class_names
    return Report(
        splits={key: _split_report(splits[key], names) for key in ("train", "validation", "test")},
        inputs=_inputs(read["train"], encoding),
        numbers=[_told(what, found, encoding) for what, found in scalings.items()],
        files={key: list(read[key].files) for key in from_files if len(read[key].files) > 1},
        left_out={key: dict(rows.left_out) for key, rows in read.items() if _is_told(key, read, from_files)},
        filled={key: read[key].filled for key in from_files if read[key].filled},
        warnings=[
            *_cut(splits, encoding),
            *(f"{read[key].source}: {warning}" for key in from_files for warning in read[key].warnings),
            *suspicions(read, splits, names, scalings),
        ],
    )


def _cut(splits: Mapping[str, Split], encoding: Encoding) -> Iterator[str]:
    """That pairs of texts do not fit into the length that is read."""
    most = getattr(encoding.inputs, "max_length", None)
    if encoding.inputs.separator is None or most is None:
        return
    counts = {
        key: (len(split) if split.length == most else 0)
        if split.lengths is None
        else int((split.lengths == most).sum())
        for key, split in splits.items()
    }
    if any(counts.values()):
        told = ", ".join(f"{count:,} of {key}" for key, count in counts.items() if count)
        yield (
            f"pairs that fill max_length ({most:,}): {told}; of longer ones the longer text has lost its end, which a "
            "larger data.max_length keeps"
        )


def _is_told(key: str, read: Mapping[str, Rows], from_files: Sequence[str]) -> bool:
    """Whether something is left out of a split, and not told already of the rows that it is held out of."""
    left_out = read[key].left_out
    return bool(left_out) and (key in from_files or left_out != read["train"].left_out)


def _split_report(split: Split, names: Sequence[str] | None) -> SplitReport:
    lengths = np.full(len(split), split.length)
    if split.lengths is not None:
        lengths = split.lengths.numpy()
    classes = None
    if names is not None and len(names) <= MOST_CLASSES:
        counts = np.bincount(split.labels.numpy(), minlength=len(names))
        classes = dict(zip(names, counts.tolist(), strict=True))
    ends = int(lengths.min()), float(np.median(lengths)), int(lengths.max())
    return SplitReport(len(split), classes, ends)


def _inputs(rows: Rows, encoding: Encoding) -> str:
    """A step in words."""
    if rows.columns is not None:
        columns = rows.columns
        return f"one number, of the columns {columns[0]!r} to {columns[-1]!r} ({len(columns):,})"
    if rows.kind == "series":
        channels = rows.channels or []
        listed = ", ".join(channels[:8]) + (f", ... {channels[-1]}" if len(channels) > 8 else "")
        return f"{len(channels):,} channels: {listed}" if len(channels) > 1 else "one number"
    if encoding.inputs.image is not None:
        depth, height, width = encoding.inputs.image
        return f"a pixel of {counted(depth, 'channel')}, and a row an image of {height} x {width}"
    if encoding.inputs.features is not None:
        return "one number" if encoding.inputs.features == 1 else f"{encoding.inputs.features} numbers"
    return f"one of {encoding.inputs.vocabulary:,} tokens"


def _told(what: str, found: Scaling, encoding: Encoding) -> str:
    """What became of some columns, and what it means for what is measured."""
    constant = f"; one value alone: {', '.join(map(repr, found.constant[:3]))}" if found.constant else ""
    scales = encoding.outputs.standardization if isinstance(encoding.outputs, Numbers) else None
    if what != "targets" or scales is None:
        return f"{what} {found.told}{constant}"
    units = ", ".join(
        f"{deviation:.4g} of {name!r}"
        for name, deviation in zip(found.names[:8], scales.deviation, strict=False)
    )
    return f"{what} {found.told}{constant}; in losses, mse and mae 1 is a deviation: {units}"
