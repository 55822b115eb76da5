"""Discovered axes as a part of the network that they were found in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from compressm_cli.core.axes import DISCOVERED, Axis, Kind, Role, Slot
from compressm_cli.structure.discovery.dimensions import Factor
from compressm_cli.structure.discovery.expressions import (
    Expression,
    axes_in,
    expression_of,
    size_of,
    slots_of,
)
from compressm_cli.structure.discovery.search import Found, Graph, expressions

UNITS = "_units_of_axis"
"""What the buffers are called whose length is the size of an axis, before its number."""


@dataclass(frozen=True)
class Attribute:
    """An integer that a module computes with, and the dimension that it is."""

    module: str
    name: str
    factor: Factor


@dataclass
class AttachedAxes:
    """What was found in a network, by the names of its tensors; it holds none of them.

    How many units an axis has is the length of a buffer beside the first tensor that makes them: an edit cuts it as it
    cuts the tensors, and a saved state has it. It holds the numbers that the units had at first. ``attributes`` are
    written anew after each edit.
    """

    kinds: dict[str, Kind]
    """Of each axis."""
    units: dict[str, str]
    """Of each axis: the buffer with an entry for each of its units."""
    tensors: dict[str, list[Expression]]
    """The dimensions of parameters and buffers."""
    roles: dict[tuple[str, int], Role]
    attributes: dict[tuple[str, str], Expression] = field(default_factory=dict)
    """By module and name."""

    def sizes(self, model: nn.Module) -> dict[str, int]:
        """Of each axis, now."""
        return {axis: len(model.get_buffer(buffer)) for axis, buffer in self.units.items()}

    def axes(self, model: nn.Module) -> Iterator[Axis]:
        """As modules declare theirs."""
        sizes = self.sizes(model)
        for name, kind in self.kinds.items():
            slots = [
                slot
                for tensor, dims in self.tensors.items()
                for d, dim in enumerate(dims)
                if name in axes_in(dim)
                for slot in slots_of(tensor, d, self.roles.get((tensor, d), "own"), dim, name, sizes)
            ]
            slots.append(Slot(self.units[name], 0))
            yield Axis(name, kind, sizes[name], tuple(slots), self.units[name].rpartition(".")[0])

    def follow(self, model: nn.Module) -> None:
        """Let the modules compute with the sizes that there are now."""
        sizes = self.sizes(model)
        for (module, name), value in self.attributes.items():
            setattr(model.get_submodule(module), name, size_of(value, sizes))


def attach(model: nn.Module, graph: Graph, found: Sequence[Found], attributes: Sequence[Attribute]) -> None:
    """Let a network have these axes, and no others that were found before."""
    detach(model)
    tensors, units = expressions(graph, found), {}
    for number, one in enumerate(found):
        place = next(
            name.rpartition(".")[0]
            for name, dims in tensors.items()
            if any(one.name in axes_in(dim) for dim in dims)
        )
        leaf = f"{UNITS}_{number}"
        device = next(model.parameters()).device
        model.get_submodule(place).register_buffer(leaf, torch.arange(one.size, device=device))
        units[one.name] = f"{place}.{leaf}" if place else leaf
    kinds = {one.name: one.kind for one in found}
    names = {one.factor: one.name for one in found}
    values = {(one.module, one.name): expression_of(one.factor, names) for one in attributes}
    setattr(model, DISCOVERED, AttachedAxes(kinds, units, tensors, dict(graph.roles), values))


def detach(model: nn.Module) -> None:
    """Let a network have no discovered axes."""
    known = model.__dict__.pop(DISCOVERED, None)
    for buffer in known.units.values() if isinstance(known, AttachedAxes) else ():
        place, _, leaf = buffer.rpartition(".")
        delattr(model.get_submodule(place), leaf)
