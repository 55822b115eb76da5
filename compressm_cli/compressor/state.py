"""What a ``Compressor`` remembers of a model beside its own state, and whether it is of this model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.validation import DamagedError, is_count, part, require
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.store import ParkedUnits, parked_units
from compressm_cli.structure.surgery import frozen, require_constraints


@dataclass(frozen=True)
class Held:
    """Of one model, or a copy of it."""

    parked: ParkedUnits
    masks: Mapping[str, Tensor] | None
    """None where nothing is known of them: earlier versions saved neither masks nor what is frozen."""
    frozen: list[str]


def own_state(model: nn.Module) -> dict[str, Any]:
    """What a model's own state does not tell: what is parked, copies of the masks, names of what is not trained."""
    return {
        "parked": parked_units(model).state_dict(),
        "masks": {name: mask.clone() for name, mask in masks_of(model).items()},
        "frozen": frozen(model),
    }


def read_state(state: Any, models: Sequence[nn.Module], parameters: Sequence[Tensor]) -> list[Held]:
    """What a state says of a model and its copies; DamagedError where it is none, or not theirs.

    ``parameters`` are the method's own. Earlier versions saved nothing of copies: then it is of the model alone.
    """
    require(isinstance(state, Mapping), "the state", "what state_dict() of a Compressor gave", state)
    for key in ("step", "method", "generator", "parked"):
        if key not in state:
            raise DamagedError(f"the state has no {key!r}: it is not what state_dict() of a Compressor gave")
    require(is_count(state["step"]), "step", "a count of steps", state["step"])
    require(isinstance(state["method"], Mapping), "method", "a mapping", state["method"])
    try:
        torch.Generator().set_state(state["generator"])
    except (RuntimeError, TypeError) as error:
        raise DamagedError(f"generator must be the state of a torch.Generator: {error}") from None
    own = state.get("parameters", [])
    wanted = [tuple(p.shape) for p in parameters]
    right = isinstance(own, list) and [tuple(getattr(p, "shape", ("none",))) for p in own] == wanted
    require(right, "parameters", f"tensors of the shapes {wanted}, those of the method", own)
    copies = part(state, "copies", list) if "copies" in state else []
    if "copies" in state and len(copies) != len(models) - 1:
        raise DamagedError(
            f"the state is of {len(copies)} copies of the model, and there are {len(models) - 1}; "
            "give Compressor(..., copies=...) as many as then"
        )
    places = ["", *(f"copies[{i}]." for i in range(len(copies)))]
    return [
        _held(saved, model, place)
        for saved, model, place in zip([state, *copies], models, places, strict=False)
    ]


def _held(saved: Any, model: nn.Module, where: str) -> Held:
    require(isinstance(saved, Mapping), where.rstrip("."), "a mapping", saved)
    parked = _parked(saved.get("parked"), model, f"{where}parked")
    if "masks" not in saved:
        return Held(parked, None, [])
    masks, names = (
        part(saved, "masks", dict, where.rstrip(".")),
        part(saved, "frozen", list, where.rstrip(".")),
    )
    require_constraints(model, masks, names, where)
    return Held(parked, masks, names)


def _parked(saved: Any, model: nn.Module, where: str) -> ParkedUnits:
    """Parked units that can wake in the model as it is."""
    try:
        parked = ParkedUnits.of_state(saved)
    except (AttributeError, LookupError, TypeError, ValueError):
        raise DamagedError(f"{where} must be what is parked of a model") from None
    tensors, axes = tensors_of(model), StructureMap.of(model).sizes()
    for name, shadow in parked.shadows.items():
        live = tuple(len(index) for index in shadow.live)
        there = tuple(tensors[name].shape) if name in tensors else None
        if live != there:
            raise DamagedError(
                f"{where}: {name} had the shape {live}, and the model has {there or 'no such tensor'}; bring it into "
                "the shapes of then first (resize)"
            )
    for name, axis in parked.axes.items():
        require(
            axes.get(name) == axis.size - len(axis.units),
            f"{where}: the size of {name}",
            "as it was",
            axes.get(name),
        )
    return parked
