"""What networks of transformers keep from one time step to the next: caches of their own kinds."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from compressm_cli.layers.state import State


@dataclass(frozen=True)
class Together:
    """Rows of a batch that have seen equally many steps, so that one cache without padding holds them."""

    rows: Tensor
    """(k,) int64: which rows of the batch."""
    cache: Any
    """``past_key_values`` of these rows; None before the first step."""


class Past(State):
    """Caches as transformers makes them, one for all rows of equal length: no row has padding in it."""

    __slots__ = ("_together", "batch")

    def __init__(self, batch: int, together: Sequence[Together]) -> None:
        super().__init__({})
        self.batch, self._together = batch, list(together)

    @classmethod
    def none(cls, batch: int, device: torch.device) -> "Past":
        """Before the first step of so many rows."""
        return cls(batch, [Together(torch.arange(batch, device=device), None)])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the caches."""
        tensors = {id(t): t for part in self._together for t in _tensors(part.cache, set())}
        return sum(tensor.nbytes for tensor in tensors.values())

    def take_together(self, batch: int) -> list[Together]:
        """Its caches, once; ValueError where it is used up, or is of another batch."""
        _ = self.values  # which tells where it is used up
        if batch != self.batch:
            raise ValueError(f"the state does not fit the inputs: it is of {self.batch} rows, not {batch}")
        self._values = None
        return self._together

    def clone(self) -> "Past":
        _ = self.values
        return Past(
            self.batch, [Together(part.rows.clone(), copy.deepcopy(part.cache)) for part in self._together]
        )

    def rows(self, index: Tensor) -> "Past":
        _ = self.values
        found = []
        for part in self._together:
            places = (index[:, None] == part.rows[None]).nonzero()
            if len(places):
                cache = copy.deepcopy(part.cache)
                if cache is not None:
                    cache.batch_select_indices(places[:, 1])
                found.append(Together(places[:, 0], cache))
        return Past(len(index), found)

    def where(self, rows: Tensor, other: State) -> State:
        raise ValueError("caches of transformers cannot be mixed row by row; use rows(index)")


def _tensors(held: Any, seen: set[int]) -> Iterator[Tensor]:
    """All tensors within an object of whatever kind, each once."""
    if id(held) in seen or held is None or isinstance(held, str | bytes | int | float | type):
        return
    seen.add(id(held))
    if isinstance(held, Tensor):
        yield held
    elif isinstance(held, dict):
        for value in held.values():
            yield from _tensors(value, seen)
    elif isinstance(held, list | tuple):
        for value in held:
            yield from _tensors(value, seen)
    elif hasattr(held, "__dict__"):
        yield from _tensors(vars(held), seen)
