"""Rows of unequal length that lie one after another, padded when they are asked for."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


@dataclass(frozen=True)
class Ragged:
    """Where rows are in a tensor (steps of all, ...) on the CPU."""

    bounds: Tensor
    """(rows + 1,) int64: where each row begins, and where the last one ends."""
    length: int
    """Steps that all rows are padded to."""

    def rows(self, values: Tensor, index: Tensor) -> Tensor:
        """Some rows, (rows, steps, ...), padded with 0 to the longest of them."""
        place = index.to(self.bounds.device)
        bounds = zip(self.bounds[place].tolist(), self.bounds[place + 1].tolist(), strict=True)
        return pad_sequence([values[start:end] for start, end in bounds], batch_first=True)

    def part(self, values: Tensor, rows: slice) -> Tensor:
        """Some rows that follow one another, (rows, length, ...)."""
        bounds = self.bounds[rows.start : rows.stop + 1]
        padded = values.new_zeros((len(bounds) - 1, self.length, *values.shape[1:]))
        padded[torch.arange(self.length) < bounds.diff()[:, None]] = values[bounds[0] : bounds[-1]]
        return padded
