"""Rows of tokens that begin alike, such as the answers to one question: their beginning is computed once."""

from collections.abc import Iterator

import torch
from torch import Tensor

LEAST = 16
"""Tokens that rows have in common, at least, for it to pay."""


def groups(tokens: Tensor, lengths: Tensor, places: Tensor, rows: Tensor) -> Iterator[tuple[range, int]]:
    """Consecutive rows (batch, length), and how many of their first tokens can be computed once: 0 where none.

    What is asked of a row, at some ``places`` of ``rows``, lies behind these, and so does a token of each row.
    """
    batch, counts = len(tokens), lengths.tolist()
    ends = torch.full((batch,), tokens.shape[1], device=tokens.device)
    first = ends.scatter_reduce(0, rows, places, "amin").tolist()
    begin, common = 0, 0
    for row in range(1, batch + 1):
        here = 0
        if row < batch:
            least = min(counts[row - 1], counts[row])
            alike = tokens[row - 1, :least] == tokens[row, :least]
            here = least if bool(alike.all()) else int(alike.long().argmin())
            if row - begin > 1:
                here = min(here, common)
            here = min(here, counts[row] - 1, counts[row - 1] - 1, first[row], first[row - 1])
        if here >= LEAST and 2 * here >= counts[begin]:
            common = here
        else:
            yield range(begin, row), common if row - begin > 1 else 0
            begin, common = row, 0
