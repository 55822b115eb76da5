"""What a checkpoint says of parked units must fit the model: checked before any of it is put in place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint.skeleton import skeleton
from compressm_cli.checkpoint.validation import (
    is_dense,
    read_orders,
    read_tensors,
    require_finite,
    require_fit,
)
from compressm_cli.core.axes import Axis
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import DamagedError, is_count, mapping_of, part, require
from compressm_cli.data.interface import DataSpec
from compressm_cli.recipe import Recipe
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.store import ParkedUnits
from compressm_cli.structure.sublayers import inside


def require_modules_fit(
    parked: ParkedUnits,
    recipe: Recipe,
    data: DataSpec,
    sizes: Mapping[str, int],
    weights: Mapping[str, Tensor],
) -> None:
    """The tensors of sub-layers that are parked have the shapes that they have in the model; DamagedError if not."""
    if not parked.modules:
        return
    all_sizes: dict[str, int] = {}
    for name, size in sizes.items():  # in the order of a model's axes
        modules = parked.modules.get(name)
        all_sizes |= {name: size} if modules is None else {name: 1, **modules.sizes}
    all_weights = {
        **weights,
        **{n: t for modules in parked.modules.values() for n, t in modules.tensors.items()},
    }
    try:
        whole = skeleton(recipe, data, all_sizes, all_weights)
    except ValueError as error:
        raise DamagedError(f"parked sub-layers: {error}") from error
    require_fit(all_weights, whole.state_dict())


def read_parked(content: Mapping[str, Any], model: nn.Module, where: str = "parked") -> ParkedUnits:
    """The parked units of a checkpoint of ``model``, perhaps a skeleton; DamagedError where they are not its."""
    if "parked" not in content:
        raise DamagedError(f"{where} is missing")
    state = content["parked"]
    if state is None:
        return ParkedUnits()
    require(type(state) is dict, where, "null or a mapping", state)
    tensors, structure = tensors_of(model), StructureMap.of(model)
    shadows = mapping_of(state, "shadows", lambda v: type(v) is dict, "a mapping", where)
    for name, shadow in shadows.items():
        require(name in tensors, f"{where}.shadows", "tensors of the model", name)
        _require_shadow(shadow, tensors[name], f"{where}.shadows[{shorten(name)}]")
    axes = mapping_of(state, "axes", lambda v: type(v) is dict, "a mapping", where)
    require(bool(axes), f"{where}.axes", "axes with parked units", axes)
    modules = mapping_of({"modules": {}, **state}, "modules", lambda v: type(v) is dict, "a mapping", where)
    whole = {name for name, axis in structure.items() if axis.modules}
    require(
        set(modules) == set(axes) & whole, f"{where}.modules", "of each sub-layer that is parked", modules
    )
    for name, parked in modules.items():
        _require_modules(parked, structure[name], f"{where}.modules[{shorten(name)}]")
    order = part({"order": [], **state}, "order", list, where)
    right = all(type(names) is list and all(type(name) is str for name in names) for names in order)
    require(right, f"{where}.order", "lists of names", order)
    for name, axis in axes.items():
        place = f"{where}.axes[{shorten(name)}]"
        require(name in set(structure), f"{where}.axes", "axes of the model", name)
        units = part(axis, "units", list, place)
        size = part(axis, "size", int, place)
        right = bool(units) and all(is_count(u, 0, size - 1) for u in units) and units == sorted(set(units))
        require(right, f"{place}.units", "units of the axis, ascending", units)
        require(
            size - len(units) == structure[name].size,
            f"{place}.size",
            "that of the axis and its parked units",
            size,
        )
        _require_places(part(axis, "places", list, place), units, shadows, f"{place}.places")
    return ParkedUnits.of_state(state)


def _require_modules(parked: dict[str, Any], axis: Axis, where: str) -> None:
    tensors = read_tensors(parked, "tensors", where)
    for name in tensors:
        require(inside(axis, name), f"{where}.tensors", "tensors of the sub-layer", name)
    require_finite(tensors, f"{where}.tensors")
    for name, kept in mapping_of(parked, "state", lambda v: type(v) is dict, "a mapping", where).items():
        place = f"{where}.state[{shorten(name)}]"
        require(name in tensors, place, "of a tensor of the sub-layer", name)
        entries = {key: value for key, value in kept.items() if isinstance(value, Tensor)}
        for key, value in entries.items():
            right = is_dense(value) and value.shape in (tensors[name].shape, torch.Size())
            require(right, f"{place}[{shorten(key)}]", "of the tensor's shape, or one number", value)
        require_finite(entries, place)
        numbers = all(isinstance(v, Tensor | bool | int | float) for v in kept.values())
        require(numbers, place, "a mapping of tensors and numbers", kept)
    frozen = part(parked, "frozen", list, where)
    require(all(name in tensors for name in frozen), f"{where}.frozen", "names of its tensors", frozen)
    for name in read_orders(parked, "sizes", where):
        require(inside(axis, name), f"{where}.sizes", "axes of the sub-layer", name)
    left_out = part({"left_out": [], **parked}, "left_out", list, where)
    require(all(name in tensors for name in left_out), f"{where}.left_out", "names of its tensors", left_out)
    reaching = part({"reaching": [], **parked}, "reaching", list, where)
    require(all(type(name) is str for name in reaching), f"{where}.reaching", "names of axes", reaching)


def _require_shadow(shadow: dict[str, Any], live: Tensor, where: str) -> None:
    value: Any = shadow.get("value")
    right = is_dense(value) and value.dtype == live.dtype and value.ndim == live.ndim
    require(right, f"{where}.value", f"a tensor of {live.ndim} dimensions", value)
    state = mapping_of(shadow, "state", is_dense, "a dense tensor on the CPU", where)
    for name, entry in state.items():
        require(entry.shape == value.shape, f"{where}.state[{shorten(name)}]", "of the tensor's shape", entry)
    require_finite({"value": value, **state}, where)
    index = part(shadow, "live", list, where)
    require(len(index) == live.ndim, f"{where}.live", "positions along each dimension", index)
    for dim, positions in enumerate(index):
        right = _are_positions(positions, value.shape[dim]) and len(positions) == live.shape[dim]
        require(right, f"{where}.live[{dim}]", "ascending positions of the live entries", positions)


def _require_places(places: list[Any], units: list[int], shadows: dict[str, Any], where: str) -> None:
    for i, entry in enumerate(places):
        at = f"{where}[{i}]"
        require(type(entry) is dict, at, "a mapping", entry)
        name, dim = part(entry, "tensor", str, at), part(entry, "dim", int, at)
        require(name in shadows, f"{at}.tensor", "a tensor with a shadow", name)
        full = shadows[name]["value"].shape
        require(is_count(dim, 0, len(full) - 1), f"{at}.dim", "a dimension of the tensor", dim)
        here = part(entry, "units", list, at)
        right = all(map(is_count, here)) and sorted(here) == units  # in the order in which they were parked
        require(right, f"{at}.units", "the parked units", here)
        entries = part(entry, "entries", list, at)
        live = shadows[name]["live"][dim]
        right = len(entries) == len(units) and all(
            _are_positions(e, full[dim]) and not torch.isin(e, live).any() for e in entries
        )
        require(right, f"{at}.entries", "positions of parked entries, for each unit", entries)


def _are_positions(value: Any, size: int) -> bool:
    """Whether they are ascending positions along a dimension."""
    if not (is_dense(value) and value.ndim == 1 and value.dtype is torch.int64):
        return False
    inside = bool(((value >= 0) & (value < size)).all())
    return inside and bool((value[1:] > value[:-1]).all())
