"""Whether a cut of discovered axes is the same as holding their units at zero, on a batch."""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from compressm_cli.structure.discovery.search import said_by
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.surgery import apply_edits

TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
"""Relative. Wrong wiring is off by all of it; parts of some networks compute in float32 whatever they are given."""

STIRRED, LEAST_SPREAD = 0.1, 0.1
"""Of the spread of a tensor's entries, and the least that it is taken for."""


class Batch:
    """What a network is called with, in a type."""

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any], dtype: torch.dtype) -> None:
        def cast(tensor: Tensor) -> Tensor:
            return tensor.to(dtype) if tensor.is_floating_point() else tensor

        self.dtype = dtype
        self.args, self.kwargs = tree_map_only(Tensor, cast, (tuple(args), dict(kwargs)))

    @classmethod
    def for_proofs(cls, model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> "Batch":
        """In float64 where the network and its device can, else in float32. What the network raises is passed on."""
        try:
            batch = cls(args, kwargs, torch.float64)
            outcome(copy.deepcopy(model), batch)
        except (RuntimeError, TypeError):  # a type that its code asks for, or that the device has not
            batch = cls(args, kwargs, torch.float32)
            outcome(copy.deepcopy(model), batch)
        return batch


def outcome(model: nn.Module, batch: Batch) -> tuple[list[Tensor], dict[str, Tensor]]:
    """What a network gives back, and the gradients of a random sum of that; the network is changed."""
    model = model.to(batch.dtype).eval()
    for parameter in model.parameters():
        parameter.grad = None
        parameter.requires_grad_(parameter.is_floating_point())
    outputs = tensors_in(model(*batch.args, **batch.kwargs))
    generator, total = torch.Generator().manual_seed(0), None
    for output in outputs:
        if output.requires_grad:
            weights = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output)
            term = (output * weights).sum()
            total = term if total is None else total + term
    if total is not None:
        total.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return [output.detach() for output in outputs], gradients


def tensors_in(result: Any) -> list[Tensor]:
    """The real tensors in what a network gives back."""
    if isinstance(result, Mapping):
        result = list(result.values())
    leaves = [
        leaf for one in tree_leaves(result) for leaf in ([one] if isinstance(one, Tensor) else _inside(one))
    ]
    return [leaf for leaf in leaves if leaf.is_floating_point()]


def _inside(value: Any) -> list[Tensor]:
    return [v for v in vars(value).values() if isinstance(v, Tensor)] if hasattr(value, "__dict__") else []


def refutation(model: nn.Module, names: Sequence[str], batch: Batch) -> str | None:
    """Why the network without one unit of each of these axes is not the one that has it silent; None where it is.

    ``model`` has the axes attached, and is left as it is: the two are copies of it whose weights are stirred, for zeros
    that training has not left yet would prove anything.
    """
    full = copy.deepcopy(model)
    _stir(full)
    small = copy.deepcopy(full)
    structure = StructureMap.of(full)
    gone = {name: structure[name].size // 2 for name in names}
    _silence(full, structure, gone)
    try:
        apply_edits(
            small,
            None,
            [
                Keep(name, [u for u in range(structure[name].size) if u != unit])
                for name, unit in gone.items()
            ],
        )
        found, gradients = outcome(small, batch)
    except Exception as error:  # whatever a network's code does with other sizes
        return f"without a unit the network fails: {said_by(error)}"
    wanted, full_gradients = outcome(full, batch)
    if [t.shape for t in found] != [t.shape for t in wanted]:
        return "without a unit the network gives back other shapes"
    pairs = list(zip(found, wanted, strict=True))
    kept = {name: _kept(name, g, structure, gone) for name, g in full_gradients.items()}
    if gradients.keys() != kept.keys():
        return "without a unit other parameters have gradients"
    pairs += [(gradients[name], kept[name]) for name in kept]
    if all(_close(one, other, TOLERANCES[batch.dtype]) for one, other in pairs):
        return None
    return "the network without a unit is not the one in which that is silent"


def _stir(model: nn.Module) -> None:
    """Move all weights a little, and those that are all alike off what they are."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.is_floating_point() and parameter.numel():
                spread = float(parameter.float().std()) if parameter.numel() > 1 else 0.0
                noise = torch.randn(parameter.shape, generator=generator) * (
                    STIRRED * max(spread, LEAST_SPREAD)
                )
                parameter.add_(noise.to(parameter))


def _silence(model: nn.Module, structure: StructureMap, gone: Mapping[str, int]) -> None:
    """Zeros in all slots of some units."""
    tensors = tensors_of(model)
    with torch.no_grad():
        for name, unit in gone.items():
            for slot in structure[name].slots:
                tensor = tensors[slot.tensor]
                if tensor.is_floating_point():
                    tensor.index_fill_(slot.dim, slot.entries(torch.tensor([unit])).to(tensor.device), 0)


def _kept(name: str, value: Tensor, structure: StructureMap, gone: Mapping[str, int]) -> Tensor:
    """What is left of a tensor's entries."""
    removed: dict[int, list[Tensor]] = {}
    for axis, unit in gone.items():
        for slot in structure[axis].slots:
            if slot.tensor == name:
                removed.setdefault(slot.dim, []).append(slot.entries(torch.tensor([unit])))
    for dim, entries in removed.items():
        keep = torch.ones(value.shape[dim], dtype=torch.bool)
        keep[torch.cat(entries)] = False
        value = value.index_select(dim, keep.nonzero().flatten().to(value.device))
    return value


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    if one.shape != other.shape or bool(one.isnan().any()) or bool(other.isnan().any()):
        return False
    return float((one - other).norm()) <= tolerance * float(other.norm()) + 1e-12
