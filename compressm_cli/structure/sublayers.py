"""Sub-layers that leave a model whole: what stays of them in it, so that they can come back, and what is kept apart.

In their place the model has an outline of each module, without values and outside of its tree. Where they are parked,
the store has their tensors; a model that is rebuilt from a checkpoint has outlines too, of other sizes perhaps.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from compressm_cli.core.axes import Axis
from compressm_cli.structure.map import tensors_of
from compressm_cli.structure.masks import set_masks
from compressm_cli.structure.shapes import follow_shapes
from compressm_cli.structure.store import ParkedAxis, ParkedModules

if TYPE_CHECKING:
    from compressm_cli.structure.draft import Draft

_OUTLINES = "_outlines"


class _Outlines(dict[str, nn.Module]):
    """Modules without values by their names in the one that they left. Never changed, so that copies share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Outlines":
        return self


def inside(axis: Axis, name: str) -> bool:
    """Whether a tensor, module or axis lies in a module that leaves with the axis's unit."""
    return any(name.startswith((f"{place}.", f"{place}:")) for place in axis.modules)


def holds(model: nn.Module, place: str) -> bool:
    """Whether there is a module at a place."""
    parent, _, leaf = place.rpartition(".")
    return model.get_submodule(parent)._modules.get(leaf) is not None


def leave_outline(parent: nn.Module, leaf: str) -> None:
    """Take a module away, and remember what it was like."""
    module = parent._modules[leaf]
    assert module is not None
    twins: dict[int, Any] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    twins |= {id(b): torch.empty_like(b, device="meta") for b in module.buffers()}
    for part in module.modules():
        # Whoever has hooks on the module puts them on the one that comes back. What they hold is not copied either.
        twins |= {
            id(hooks): type(hooks)()
            for hooks in (
                part._forward_hooks,
                part._forward_pre_hooks,
                part._backward_hooks,
                part._backward_pre_hooks,
            )
        }
        # What a pass has left in an attribute cannot be copied with its graph.
        left = (t for t in tree_leaves(vars(part)) if isinstance(t, Tensor) and not t.is_leaf)
        twins |= {id(t): t.detach() for t in left}
    outline = copy.deepcopy(module, twins)
    set_masks(outline, {})
    setattr(parent, _OUTLINES, _Outlines({**getattr(parent, _OUTLINES, {}), leaf: outline}))
    parent._modules[leaf] = None


def revived(model: nn.Module, axis: Axis, tensors: Mapping[str, Tensor]) -> dict[str, nn.Module]:
    """The modules that left with an axis's unit, with copies of these tensors, by their places in the model.

    ``tensors`` are named as in the model. ValueError where nothing is known of the modules, or they have no place for a
    tensor.
    """
    outlines: Mapping[str, nn.Module] = getattr(model.get_submodule(axis.module), _OUTLINES, {})
    found = {}
    for place in axis.modules:
        outline = outlines.get(place.rpartition(".")[2])
        own = {n.removeprefix(f"{place}."): t for n, t in tensors.items() if n.startswith(f"{place}.")}
        if outline is None and own:
            raise ValueError(f"{axis.name}: nothing is known of {place}, which is to come back")
        if outline is not None:
            found[place] = _filled(outline, own, model).train(model.training)
    return found


def _filled(outline: nn.Module, tensors: Mapping[str, Tensor], model: nn.Module) -> nn.Module:
    new = copy.deepcopy(outline)
    like = next(model.parameters())
    types = {p.dtype for p in model.parameters()}
    for name in {**tensors_of(new), **tensors}:
        place, _, leaf = name.rpartition(".")
        try:
            owner = new.get_submodule(place)
        except AttributeError as error:
            raise ValueError(f"there is no place for {name}") from error
        value = tensors.get(name)
        if value is not None:
            # A model in which nothing has its type was made another one since.
            is_strange = value.is_floating_point() and value.dtype not in types
            value = value.detach().to(like.device, like.dtype if is_strange else None, copy=True)
        if leaf in owner._parameters:
            old = owner._parameters[leaf]
            trained = old is None or old.requires_grad
            owner._parameters[leaf] = None if value is None else nn.Parameter(value, requires_grad=trained)
        elif leaf in owner._buffers:
            owner._buffers[leaf] = value
        else:
            raise ValueError(f"there is no place for {name}")
    follow_shapes(new)
    return new


def remove(draft: "Draft", axis: Axis, by: object) -> None:
    """Take the modules of a sub-layer out of the draft, whole; ValueError where something of them would be lost."""
    names = [name for name in draft.tensors if inside(axis, name)]
    if not names:
        raise ValueError(f"{axis.name}: has no parameters, so that nothing would be saved without it")
    parked = next((other for other in draft.parked.axes if inside(axis, other)), None)
    if parked is not None:
        raise ValueError(f"{by}: units of {parked} are parked; wake them first")
    for name in names:
        draft.claim(name, by)
        if draft.parked.has(draft.canonical(name)):
            raise ValueError(f"{by}: units of {name} are parked; wake them first")
        if draft.is_shared(name):
            raise ValueError(f"{by}: {name} is shared with another module, which would lose it")
    there = [place for place in axis.modules if holds(draft.model, place)]
    draft.exchange(dict.fromkeys(there), by)


def park(draft: "Draft", axis: Axis, by: object) -> None:
    """Remember a sub-layer that is about to be removed, with what the optimizer has of it."""
    store = draft.parked
    names = [name for name in draft.tensors if inside(axis, name)]
    for name in names:
        if draft.piece(name).mask is not None:
            raise ValueError(f"{by}: {name} has a mask; lift it first")
    store.modules[axis.name] = ParkedModules(
        tensors={name: draft.tensors[name].detach().clone() for name in names},
        state={n: _copied(state) for n in names if (state := draft.piece(n).state)},
        frozen=tuple(
            n for n in names if isinstance(p := draft.tensors[n], nn.Parameter) and not p.requires_grad
        ),
        sizes={name: other.size for name, other in draft.structure.items() if inside(axis, name)},
        reaching=_reaching(draft, axis),
        left_out=_left_out(draft, names),
    )
    store.axes[axis.name] = ParkedAxis(1, (0,))
    if not store.order and draft.optimizer is not None:
        store.order = tuple(map(tuple, _grouped(draft)))


def _grouped(draft: "Draft") -> list[list[str]]:
    """The names of the model's parameters in each group of the optimizer."""
    named = {id(p): name for name, p in draft.model.named_parameters()}
    groups = [] if draft.optimizer is None else draft.optimizer.param_groups
    return [[named[id(p)] for p in group["params"] if id(p) in named] for group in groups]


def _left_out(draft: "Draft", names: Sequence[str]) -> tuple[str, ...]:
    """Parameters among these that an optimizer has not, where there is one."""
    grouped = {name for names in _grouped(draft) for name in names}
    found = (name for name in names if isinstance(draft.tensors[name], nn.Parameter) and name not in grouped)
    return () if draft.optimizer is None else tuple(found)


def _reaching(draft: "Draft", axis: Axis) -> tuple[str, ...]:
    """Axes beside a sub-layer that have entries in its tensors, or keep the same units as one within it."""
    found = set()
    for name, other in draft.structure.items():
        if inside(axis, name):
            found |= {tied.name for tied in draft.structure.together(name)}
        elif any(inside(axis, slot.tensor) for slot in other.slots):
            found.add(name)
    return tuple(sorted(name for name in found if not inside(axis, name)))


def wake(draft: "Draft", axis: Axis, by: object) -> None:
    """Put a parked sub-layer back in its place, and into the groups of the optimizer that it was in."""
    store = draft.parked
    kept = store.modules.pop(axis.name)
    del store.axes[axis.name]
    for name in kept.tensors:
        draft.claim(name, by)
    modules = revived(draft.model, axis, kept.tensors)
    for name in kept.frozen:
        place = next(p for p in modules if name.startswith(f"{p}."))
        modules[place].get_parameter(name.removeprefix(f"{place}.")).requires_grad_(False)
    groups = 0 if draft.optimizer is None else len(draft.optimizer.param_groups)
    if draft.optimizer is not None and len(store.order) not in (0, groups):
        raise ValueError(
            f"{by}: the optimizer had {len(store.order)} groups when it was parked, not {groups}"
        )
    draft.exchange(modules, by)
    draft.homes.order = store.order
    draft.homes.left_out |= set(kept.left_out)
    for name, state in kept.state.items():
        place = next(p for p in modules if name.startswith(f"{p}."))
        parameter = modules[place].get_parameter(name.removeprefix(f"{place}."))
        draft.homes.state[name] = _in_type(_copied(state), kept.tensors[name].dtype, parameter.dtype)
    if not store.modules:
        store.order = ()


def _in_type(state: Mapping[str, Any], old: torch.dtype, new: torch.dtype) -> dict[str, Any]:
    """An optimizer's state of a parameter that has another type now: so have the entries that were of its type."""
    return {
        k: v.to(new) if isinstance(v, Tensor) and v.ndim and v.dtype == old else v for k, v in state.items()
    }


def _copied(state: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in state.items()}
