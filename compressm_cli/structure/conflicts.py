"""What an axis cannot be cut through: other axes' parked units, and names of its tensors that no axis follows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from compressm_cli.core.axes import Axis, Slot

if TYPE_CHECKING:
    from compressm_cli.structure.draft import Draft


def require_nothing_parked_across(draft: "Draft", axis: Axis, by: object) -> None:
    """ValueError where units of another axis are parked that have entries of each unit of this one.

    They are as wide as they were when they were parked: once this axis has other units, they no longer fit.
    """
    tied = {other.name for other in draft.structure.together(axis.name)}
    for name in draft.parked.axes:
        if name in tied:
            continue
        tensor = _meeting_place(draft, axis, name)
        if tensor is not None:
            raise ValueError(
                f"{by}: {axis.name} lies across {name} in {tensor}, and units of {name} are parked; wake them first, "
                f"or cut {axis.name} before they are parked"
            )
    for name, kept in draft.parked.modules.items():
        if axis.name in kept.reaching:
            raise ValueError(
                f"{by}: {name} is parked, and has entries of {axis.name}; wake it first, or cut {axis.name} before it "
                "is parked"
            )


def _meeting_place(draft: "Draft", axis: Axis, parked: str) -> str | None:
    """A tensor in which an axis and one with parked units lie in the same entries, along the same dimension."""
    other = dict(draft.structure.items()).get(parked)
    theirs = {} if other is None else draft.places(other)
    for place, slots in draft.places(axis).items():
        if place in draft.parked.axes[parked].places:
            one = _entries(slots, axis)
            two = _entries(theirs.get(place, []), other)
            # Where one of the two has no live unit, nobody can tell.
            if not (len(one) and len(two)) or bool(torch.isin(one, two).any()):
                return place[0]
    return None


def _entries(slots: Sequence[Slot], axis: Axis | None) -> Tensor:
    if axis is None or not slots:
        return torch.empty(0, dtype=torch.int64)
    return torch.cat([slot.entries(torch.arange(axis.size)) for slot in slots])


def require_all_names_follow(draft: "Draft", axis: Axis, by: object) -> None:
    """ValueError where a tensor of an axis is shared with a module that would not follow a cut.

    Each other name of it must be a slot of this axis or of one tied to it, or lie in the same module at another place.
    """
    followed = {
        (slot.tensor, draft.dim(slot)) for tied in draft.structure.together(axis.name) for slot in tied.slots
    }
    for slot in axis.slots:
        for name in draft.names(slot.tensor):
            if (name, draft.dim(slot)) in followed:
                continue
            others = [
                other.name
                for other in draft.structure.values()
                if any((s.tensor, draft.dim(s)) == (name, draft.dim(slot)) for s in other.slots)
            ]
            if others:
                raise ValueError(
                    f"{by}: {slot.tensor} is {name} too, where {others[0]} lies, which is not tied to {axis.name}; "
                    "name one in tied_to of the other, so that both are cut together"
                )
            if not _is_of_the_same_module(draft, axis, slot.tensor, name):
                raise ValueError(
                    f"{by}: {slot.tensor} is {name} too, which no axis tied to {axis.name} follows; give {axis.name} a "
                    "slot there, or tie an axis with one to it"
                )


def _is_of_the_same_module(draft: "Draft", axis: Axis, tensor: str, other: str) -> bool:
    """Whether the module that declares an axis is in the model at two places, and has a tensor by both names."""
    inside = tensor.removeprefix(f"{axis.module}.")
    if not axis.module or inside == tensor or not other.endswith(f".{inside}"):
        return False
    place = other.removesuffix(f".{inside}")
    return draft.model.get_submodule(place) is draft.model.get_submodule(axis.module)
