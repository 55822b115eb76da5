"""Discovered axes as a part of the network that they were found in."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from compressm_cli.core.attached import UNITS, AttachedAxes
from compressm_cli.core.axes import DISCOVERED
from compressm_cli.core.expressions import axes_in
from compressm_cli.structure.discovery.dimensions import Factor
from compressm_cli.structure.discovery.expressions import expression_of
from compressm_cli.structure.discovery.search import Found, Graph, expressions


@dataclass(frozen=True)
class Attribute:
    """An integer that a module computes with, and the dimension that it is."""

    module: str
    name: str
    factor: Factor


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
