"""Tensors as a plan makes them, and which edit may change what of them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from compressm_cli.structure.optimizers import State, is_like


@dataclass
class Piece:
    """A tensor of the model as it is to become, with what the optimizer and the masks say of its entries."""

    value: Tensor | None
    """None where it is taken away."""
    state: State
    """The optimizer's; empty where it has none, or starts anew."""
    mask: Tensor | None
    original: dict[int, Tensor] = field(default_factory=dict)
    """By dimension, where its entries were before the plan; -1 for those that were not there."""

    def original_at(self, dim: int) -> Tensor:
        assert self.value is not None
        return self.original.get(dim, torch.arange(self.value.shape[dim]))

    def select(self, dim: int, index: Tensor) -> None:
        """Keep the entries at ``index`` along a dimension, in that order."""
        assert self.value is not None
        shape, original = self.value.shape, self.original_at(dim)

        def chosen(tensor: Tensor) -> Tensor:
            return tensor.detach().index_select(dim, index.to(tensor.device))

        self.state = {k: chosen(v) if is_like(v, shape) else v for k, v in self.state.items()}
        self.mask = None if self.mask is None else chosen(self.mask)
        self.value = chosen(self.value)
        self.original[dim] = original[index]

    def add(self, change: Tensor) -> None:
        """Add to the entries that are left what ``change``, of the shape before the plan, has for them."""
        assert self.value is not None
        for dim, original in self.original.items():
            change = change.index_select(dim, original)
        value = self.value.detach()
        wide = torch.promote_types(value.dtype, change.dtype)
        self.value = (value.to(wide) + change.to(value.device, wide)).to(value.dtype)


@dataclass(frozen=True)
class Claim:
    """What an edit changes of a tensor."""

    by: object
    turn: int
    """Which of the plan's edits it is: one that a plan has twice is two."""
    dim: int | None
    """None where it changes all of it."""
    region: Tensor | None
    axis: str | None
    """The axis that is cut for good."""
    adds: bool = False
    """Whether it changes values alone, wherever what is kept of them lies in the end."""

    def agrees_with(self, other: "Claim") -> bool:
        """Whether both can be done, in any order."""
        if self.adds or other.adds:
            return (self.axis is not None) != (other.axis is not None)
        if self.dim is None or other.dim is None:
            return False
        if self.dim != other.dim:
            return True
        if self.axis is not None and other.axis is not None:
            return self.axis != other.axis
        assert self.region is not None
        assert other.region is not None
        return not bool(torch.isin(self.region, other.region).any())
