"""What a checkpoint says of parked units must fit the model: checked before any of it is put in place."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.checkpoint.validation import is_dense, require_finite
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import DamagedError, is_count, mapping_of, part, require
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.store import ParkedUnits


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
        require(part(entry, "units", list, at) == units, f"{at}.units", "the parked units", entry["units"])
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
