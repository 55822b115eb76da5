"""A model's shapes without its memory: what the weights of a checkpoint must be, known before anything is built."""

import copy
import re
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.data.interface import DataSpec
from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import STATES, StateSpaceLayer, state_space_layers
from compressm_cli.models import MODELS, NETWORKS, ModelConfig, build_model
from compressm_cli.recipe import Recipe
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.modules import BLOCKS, Growing
from compressm_cli.structure.surgery import apply_edits

MAPS = ("B_map", "C_map", "B_proj", "C_proj")
"""Of a cut selective layer: (channels or groups, order, length of B and C before it)."""
CUTS = ({"B_map", "C_map"}, {"B_proj", "C_proj"}, {"kept"})
"""What a cut may add to a layer."""
REMEMBERED = 8
"""Skeletons: all checkpoints of a run between two cuts have the same one, and building it takes longer than writing a
small model."""


@dataclass(frozen=True)
class _Wanted:
    """A skeleton that is asked for; ``shapes`` are those of the weights."""

    key: Hashable
    config: ModelConfig = field(compare=False)
    data: DataSpec = field(compare=False)
    sizes: Mapping[str, int] = field(compare=False)
    shapes: Mapping[str, torch.Size] = field(compare=False)

    @classmethod
    def of(
        cls, config: ModelConfig, data: DataSpec, sizes: Mapping[str, int], shapes: Mapping[str, torch.Size]
    ) -> "_Wanted":
        classes = tuple(
            entry.value for kinds in (MODELS, LAYERS, NETWORKS) for entry in kinds.entries().values()
        )
        key = (config.model_dump_json(), repr(data), tuple(sizes.items()), tuple(shapes.items()), classes)
        return cls(key, config, data, dict(sizes), shapes)


def skeleton(
    recipe: Recipe, data: DataSpec, sizes: Mapping[str, int], weights: Mapping[str, Tensor]
) -> nn.Module:
    """The model of a recipe on the meta device, with the shapes that it has at the ``sizes`` of its axes.

    An axis that is not named has the size that the recipe gives it. ``weights`` says only what a cut has added to a
    layer. Takes no memory for parameters and no random numbers. Raises ValueError where ``sizes`` are not those of the
    recipe's axes, or additions have no shape.
    """
    shapes = {name: weight.shape for name, weight in weights.items()}
    return copy.deepcopy(_skeleton(_Wanted.of(recipe.model, data, sizes, shapes)))


@lru_cache(REMEMBERED)
def _skeleton(wanted: _Wanted) -> nn.Module:
    config = grown(wanted.config, wanted.sizes)
    model = _with_orders(config, wanted.data, wanted.sizes, wanted.shapes)
    if isinstance(model, Growing):
        model.grow_as(wanted.config)
    cut_to(model, wanted.sizes)
    given, layers = orders_of(wanted.sizes), state_space_layers(model)
    if list(given) != list(layers):
        raise ValueError(
            f"orders are given for {len(given)} layers, which are not the {len(layers)} of the recipe"
        )
    return model


def cut_to(model: nn.Module, sizes: Mapping[str, int]) -> None:
    """Remove the last units of the axes of a model that have more than ``sizes`` says; those not named stay.

    Raises ValueError where ``sizes`` are not those of the model's axes.
    """
    found = StructureMap.of(model)
    gone = [name for name, axis in found.items() if axis.modules and not sizes.get(name, axis.size)]
    if gone:
        apply_edits(model, None, [Keep(name, []) for name in gone])
        found = StructureMap.of(model)
    strange = [name for name in sizes if name not in set(found)]
    if strange:
        raise ValueError(f"the model has no axis {strange[0]!r}")
    smaller = {name: axis for name, axis in found.items() if sizes.get(name, axis.size) != axis.size}
    done: set[str] = set()
    for name, axis in smaller.items():
        if sizes[name] > axis.size:
            raise ValueError(f"{name} has {axis.size} units at most, not {sizes[name]}")
        together = {other.name for other in found.together(name)}
        if any(sizes.get(other, found[other].size) != sizes[name] for other in together):
            raise ValueError(f"{name} and the axes tied to it have different sizes")
        if not together & done:
            apply_edits(model, None, [Keep(name, range(sizes[name]))])
        done |= together


def orders_of(sizes: Mapping[str, int]) -> dict[str, int]:
    """Of the sizes of all axes those of states, by the name of their layer."""
    return {name.removesuffix(STATES): size for name, size in sizes.items() if name.endswith(STATES)}


def _with_orders(
    config: ModelConfig, data: DataSpec, sizes: Mapping[str, int], shapes: Mapping[str, torch.Size]
) -> nn.Module:
    """The model with all its sub-layers; layers in those that are to be removed have one state."""
    given = orders_of(sizes)
    orders = given
    if not all(sizes.values()):
        orders = {name: given.get(name, 1) for name in orders_of(start_sizes(config, data))}
    # The orders at the start of training say nothing of the shapes now, and could be of any size.
    config = config.with_state_dims([_inner(name, order, shapes) for name, order in orders.items()])
    with torch.device("meta"):
        model = build_model(config, data)
        layers = state_space_layers(model)
        if list(orders) != list(layers) or not all(given.values()):
            raise ValueError(
                f"orders are given for {len(given)} layers, which are not the {len(layers)} of the recipe"
            )
        for name, part in layers.items():
            part.set_state_parameters(_added(part, name, orders[name], shapes))
    return model


def grown(config: ModelConfig, sizes: Mapping[str, int]) -> ModelConfig:
    """A recipe's ``model:`` with as many blocks as a model of these sizes has."""
    found = (re.match(rf"{BLOCKS}\.(\d{{1,5}})[.:]", name) for name in sizes)
    return config.with_blocks(max((int(match[1]) + 1 for match in found if match), default=0))


def fresh_model(
    config: ModelConfig, data: DataSpec, orders: Mapping[str, int] | None, sizes: Mapping[str, int]
) -> nn.Module:
    """A model with fresh weights at some orders, by module name, that lacks what one of these sizes lacks besides."""
    model = build_model(grown(config, sizes), data, orders)
    cut_to(model, {name: size for name, size in sizes.items() if not name.endswith(STATES)})
    return model


def start_sizes(config: ModelConfig, data: DataSpec) -> dict[str, int]:
    """How many units each axis has before any cut, by its name."""
    return dict(_start_sizes(_Wanted.of(config, data, {}, {})))


@lru_cache(REMEMBERED)
def _start_sizes(wanted: _Wanted) -> dict[str, int]:
    with torch.device("meta"):
        model = build_model(wanted.config, wanted.data)
    return StructureMap.of(model).sizes()


def with_memory(model: nn.Module, device: torch.device) -> nn.Module:
    """The skeleton with memory on a device, of any content; parameters that are one stay one."""
    twins: dict[int, Any] = {}
    for p in model.parameters():
        twins[id(p)] = nn.Parameter(torch.empty_like(p, device=device), requires_grad=p.requires_grad)
    for b in model.buffers():
        twins[id(b)] = torch.empty_like(b, device=device)
    return copy.deepcopy(model, twins)


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """The skeleton as a model on the CPU that holds copies of the weights, which must fit."""
    model = with_memory(model, torch.device("cpu"))
    model.load_state_dict(weights)
    return model


def added_shapes(layer: StateSpaceLayer, order: int, inner: int) -> dict[str, tuple[int, ...]]:
    """The shapes of all that a cut may add to a layer, by name; B and C had the length ``inner`` before."""
    values: dict[str, Any] = {n: getattr(layer, n, None) for n in (*MAPS, "kept") if hasattr(layer, n)}
    lead = getattr(layer, "groups", None) or layer.get_parameter("D").shape[0]
    return {n: (lead,) if n == "kept" else (lead, order, inner) for n in values}


def _is_empty(layer: StateSpaceLayer, name: str) -> bool:
    """Whether there is a place for a tensor of this name, and none in it."""
    place, _, leaf = name.rpartition(".")
    return getattr(layer.get_submodule(place), leaf, "") is None


def _inner(name: str, order: int, shapes: Mapping[str, torch.Size]) -> int:
    """Length of B and C before the maps that a cut has added; the order where there are none."""
    for leaf in MAPS:
        shape = shapes.get(f"{name}.{leaf}")
        if shape is not None:
            if len(shape) != 3 or not order <= shape[2] <= 65536:
                raise ValueError(f"{name}.{leaf} has the shape {tuple(shape)} for the order {order}")
            return shape[2]
    return order


def _added(
    layer: StateSpaceLayer, name: str, order: int, shapes: Mapping[str, torch.Size]
) -> dict[str, Tensor | None]:
    """Tensors without content for what a cut has added to a layer, and what depends on it."""
    extra = layer.state_parameters | layer.state_buffers
    present = {n for n in extra if f"{name}.{n}" in shapes and _is_empty(layer, n)}
    divisors = {n for axis in layer.axes() for n, _ in axis.divisors} & present
    values: dict[str, Tensor | None] = {n: torch.empty((), dtype=torch.int64) for n in divisors}
    present -= divisors
    if not present:
        return values
    if present not in CUTS:
        raise ValueError(f"{name} has {' and '.join(sorted(present))}, which no cut leaves by itself")
    added = added_shapes(layer, order, inner=layer.state_dim)
    values |= {n: torch.empty(added[n], dtype=torch.int64 if n == "kept" else None) for n in present}
    if "B_map" in present:
        values["A_log"] = torch.empty(layer.get_parameter("A_log").shape[0], order)
    return values
