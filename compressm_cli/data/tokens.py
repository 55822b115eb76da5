"""Sequences of tokens as one padded tensor; texts as bytes."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from compressm_cli.data.interface import Split

BYTE_VOCABULARY = 257
"""The padding, 0, and the 256 bytes, each one more than its value."""


def id_type(vocabulary: int) -> type[np.integer]:
    """The smaller of the two types that hold the tokens of a vocabulary."""
    return np.int16 if vocabulary <= 2**15 else np.int32


def padded(sequences: Sequence[np.ndarray], length: int, dtype: type[np.integer]) -> tuple[Tensor, Tensor]:
    """Sequences of tokens -> (rows, length) ``dtype``, padded with 0 at the end, and lengths (rows,)."""
    inputs = np.zeros((len(sequences), length), dtype=dtype)
    for row, sequence in enumerate(sequences):
        inputs[row, : len(sequence)] = sequence
    lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
    return torch.from_numpy(inputs), torch.from_numpy(lengths)


def byte_tokens(texts: Sequence[bytes], length: int) -> tuple[Tensor, Tensor]:
    """Texts, each cut to ``length`` bytes -> (rows, length) int16 tokens and their lengths (rows,) int64."""
    sequences = [np.frombuffer(text[:length], dtype=np.uint8) for text in texts]
    inputs, lengths = padded(sequences, length, np.int16)
    inputs += torch.arange(length) < lengths[:, None]
    return inputs, lengths


def of_one_length(splits: Mapping[str, Split]) -> dict[str, Split]:
    """The same splits, all padded to the longest row; with lengths where rows differ in length, in any of them."""
    longest = max(split.inputs.shape[1] for split in splits.values())
    uneven = any(s.lengths is not None or s.inputs.shape[1] != longest for s in splits.values())
    if not uneven:
        return dict(splits)
    return {name: Split(_widened(s.inputs, longest), s.labels, _lengths(s)) for name, s in splits.items()}


def _widened(inputs: Tensor, length: int) -> Tensor:
    if inputs.shape[1] == length:
        return inputs
    wide = inputs.new_zeros((inputs.shape[0], length, *inputs.shape[2:]))
    wide[:, : inputs.shape[1]] = inputs
    return wide


def _lengths(split: Split) -> Tensor:
    return torch.full((len(split),), split.inputs.shape[1]) if split.lengths is None else split.lengths
