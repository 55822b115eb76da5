"""Sequences of tokens as one padded tensor; texts as bytes."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

BYTE_VOCABULARY = 257
"""The padding, 0, and the 256 bytes, each one more than its value."""


def padded(sequences: Sequence[np.ndarray], length: int) -> tuple[Tensor, Tensor]:
    """Token sequences, (any number,) integers each, -> (rows, length) int64 padded with 0, and (rows,) lengths."""
    inputs = np.zeros((len(sequences), length), dtype=np.int64)
    for row, sequence in enumerate(sequences):
        inputs[row, : len(sequence)] = sequence
    lengths = np.fromiter((len(s) for s in sequences), dtype=np.int64, count=len(sequences))
    return torch.from_numpy(inputs), torch.from_numpy(lengths)


def byte_tokens(texts: Sequence[bytes], length: int) -> tuple[Tensor, Tensor]:
    """Texts -> (rows, length) int64 byte tokens, cut to ``length`` bytes or padded with 0, and (rows,) lengths."""
    return padded([np.frombuffer(t[:length], dtype=np.uint8).astype(np.int64) + 1 for t in texts], length)
