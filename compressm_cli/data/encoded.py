"""Rows of files as the tensors of splits: all at once, or in parts where memory has no room for them."""

from collections.abc import Mapping
from math import prod

import numpy as np
import torch
from torch import Tensor

from compressm_cli.data.encodings import Encoding
from compressm_cli.data.interface import Split
from compressm_cli.data.mapped import in_temporary_file, is_large
from compressm_cli.data.rows import Rows
from compressm_cli.data.tokens import id_type, of_one_length

PART = 2**26
"""Bytes of tensors that are made at once where there is no room for all."""


def encoded(read: Mapping[str, Rows], encoding: Encoding) -> dict[str, Split]:
    """Splits of rows with their labels or targets, all padded to the longest row.

    Where they take more than half of the memory that is free, their inputs are in temporary files, and have the same
    values. Raises BadInputError for a row that cannot be encoded, and where the disk has no room.
    """
    inputs = encoding.inputs
    pieces = {key: inputs.pieces(rows) for key, rows in read.items()}
    steps = {key: inputs.steps(rows) for key, rows in pieces.items()}
    known = {key: count for key, count in steps.items() if count is not None}
    longest = max((int(count.max()) for count in known.values()), default=0)
    values = longest * (inputs.features or 1) * _type(encoding).itemsize
    if not known or not is_large(sum(len(count) for count in known.values()) * values):
        return of_one_length({key: encoding.split(rows) for key, rows in read.items()})
    made = {key: _in_parts(pieces[key], encoding, known[key], longest) for key in read}
    uneven = any(has_lengths or bool((known[key] != longest).any()) for key, (_, has_lengths) in made.items())
    return {
        key: Split(whole, encoding.labels(pieces[key]), torch.from_numpy(known[key]) if uneven else None)
        for key, (whole, _) in made.items()
    }


def _type(encoding: Encoding) -> np.dtype:
    vocabulary = encoding.inputs.vocabulary
    return np.dtype(np.float32 if vocabulary is None else id_type(vocabulary))


def _in_parts(rows: Rows, encoding: Encoding, steps: np.ndarray, longest: int) -> tuple[Tensor, bool]:
    """The inputs in a temporary file, and whether rows of this kind always have lengths."""
    features = encoding.inputs.features
    shape = (len(rows), longest) if features is None else (len(rows), longest, features)
    whole = in_temporary_file(shape, _type(encoding))
    at_once = max(1, PART // (prod(shape[1:]) * whole.itemsize))
    has_lengths = False
    for start in range(0, len(rows), at_once):
        place = range(start, min(start + at_once, len(rows)))
        part, lengths = encoding.inputs.encode(rows.taken(place))
        found = np.full(len(part), part.shape[1]) if lengths is None else lengths.numpy()
        assert np.array_equal(found, steps[place.start : place.stop]), (
            "rows have the steps that were foretold"
        )
        assert part.numpy().dtype == whole.dtype, "types are those that were foretold"
        whole[place.start : place.stop, : part.shape[1]] = part.numpy()
        has_lengths |= lengths is not None
    return torch.from_numpy(whole), has_lengths
