"""Rows of files as the tensors of splits: all at once, or in parts where they are too many to be all in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from math import prod

import numpy as np
import torch
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Tokens
from compressm_cli.data.encodings.images import of_pixels, to_pixels
from compressm_cli.data.flat import FlatRows
from compressm_cli.data.interface import IGNORE, Split
from compressm_cli.data.mapped import Pages, in_temporary_file, is_large, let_go
from compressm_cli.data.ragged import Ragged
from compressm_cli.data.rows import Rows
from compressm_cli.data.tokens import id_type, of_one_length

PART = 2**24
"""Bytes of tensors that are made at once where they are put into a file."""
AHEAD = 2**14
"""Rows of which a part is made, at most."""


def encoded(read: Mapping[str, Rows], encoding: Encoding) -> dict[str, Split]:
    """Splits of rows with their labels or targets, all padded to the longest row.

    Where they take more than half of the memory that is free, or were put into a temporary file as they were read,
    their inputs are in temporary files, and have the same values. Raises BadInputError for a row that cannot be
    encoded, and where memory has too little room and the disk has none.
    """
    inputs = encoding.inputs
    pieces = {key: inputs.pieces(rows) for key, rows in read.items()}
    steps = {key: inputs.steps(rows) for key, rows in pieces.items()}
    known = {key: count for key, count in steps.items() if count is not None}
    longest = max((int(count.max()) for count in known.values()), default=0)
    values = longest * (inputs.features or 1) * _type(encoding).itemsize
    must = is_large(sum(len(count) for count in known.values()) * values)
    if known and (must or any(isinstance(rows.content, FlatRows) for rows in pieces.values())):
        try:
            rooms = {key: _room(encoding, count) for key, count in known.items()}
        except BadInputError:
            if must:
                raise
        else:
            return _labelled(_put_into(rooms, pieces, encoding, known, longest), encoding)
    return _labelled(of_one_length({key: encoding.split(rows) for key, rows in read.items()}), encoding)


def _labelled(splits: dict[str, Split], encoding: Encoding) -> dict[str, Split]:
    """The same, with their tokens as labels where these are what a model says."""
    if not isinstance(encoding.outputs, Tokens):
        return splits
    return {key: replace(split, labels=_own_tokens(split)) for key, split in splits.items()}


def _own_tokens(split: Split) -> Tensor:
    """(rows, length), ``IGNORE`` at padding."""
    labels = torch.full(split.padded.shape, IGNORE, dtype=split.inputs.dtype)
    start = 0
    for part in split.padded.parts(PART):
        rows = slice(start, start + len(part))
        real = torch.ones(part.shape, dtype=torch.bool)
        if split.lengths is not None:
            real = torch.arange(split.length) < split.lengths[rows, None]
        labels[rows] = torch.where(real, part, IGNORE)
        start += len(part)
    return labels


def _type(encoding: Encoding) -> np.dtype:
    vocabulary = encoding.inputs.vocabulary
    return np.dtype(np.float32 if vocabulary is None else id_type(vocabulary))


def _room(encoding: Encoding, steps: np.ndarray) -> np.ndarray:
    """In a temporary file, for the inputs of rows one after another: (steps of all[, features])."""
    features = encoding.inputs.features
    total = int(steps.sum())
    return in_temporary_file((total,) if features is None else (total, features), _type(encoding))


def _put_into(
    rooms: Mapping[str, np.ndarray],
    pieces: Mapping[str, Rows],
    encoding: Encoding,
    steps: Mapping[str, np.ndarray],
    longest: int,
) -> dict[str, Split]:
    have_lengths = [_fill(rooms[key], pieces[key], encoding, steps[key]) for key in rooms]
    uneven = any(have_lengths) or any(bool((count != longest).any()) for count in steps.values())
    found = {
        key: _split(rooms[key], encoding.labels(pieces[key]), steps[key], longest, uneven) for key in rooms
    }
    if (image := encoding.inputs.image) is None:
        return found
    return {key: replace(split, inputs=of_pixels(split.inputs, image)) for key, split in found.items()}


def _split(room: np.ndarray, labels: Tensor, steps: np.ndarray, longest: int, uneven: bool) -> Split:
    inputs, lengths = torch.from_numpy(room), torch.from_numpy(steps) if uneven else None
    if bool((steps == longest).all()):
        padded = inputs.reshape(len(steps), longest, *inputs.shape[1:])
        return Split(padded, labels, lengths, pages=Pages(room))
    bounds = torch.from_numpy(np.concatenate([[0], np.cumsum(steps)]))
    return Split(inputs, labels, lengths, ragged=Ragged(bounds, longest), pages=Pages(room))


def _fill(room: np.ndarray, rows: Rows, encoding: Encoding, steps: np.ndarray) -> bool:
    """The inputs of rows one after another, and whether rows of this kind always have lengths."""
    have_lengths, end = False, 0
    for place in _parts(steps, PART // (prod(room.shape[1:]) * room.itemsize)):
        part, lengths = encoding.inputs.encode(rows.taken(place))
        part = part if encoding.inputs.image is None else to_pixels(part)
        wanted = steps[place.start : place.stop]
        found = np.full(len(part), part.shape[1]) if lengths is None else lengths.numpy()
        assert np.array_equal(found, wanted), "rows have the steps that were foretold"
        assert part.numpy().dtype == room.dtype, "types are those that were foretold"
        begin, end = end, end + int(wanted.sum())
        room[begin:end] = part.numpy()[np.arange(part.shape[1]) < wanted[:, None]]
        let_go(room)
        have_lengths |= lengths is not None
    return have_lengths


def _parts(steps: np.ndarray, size: int) -> Iterator[range]:
    """Rows that follow one another, of so many steps at most with their padding, or one row."""
    start = 0
    while start < len(steps):
        padded = np.maximum.accumulate(steps[start : start + AHEAD])
        padded = padded * np.arange(1, len(padded) + 1)
        count = max(1, int(np.searchsorted(padded, size, side="right")))
        yield range(start, start + count)
        start += count
