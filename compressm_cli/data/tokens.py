"""Sequences of tokens as one padded tensor; texts as bytes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BYTE_VOCABULARY = 257
"""The padding, 0, and the 256 bytes, each one more than its value."""


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
