"""Axes of tensors that are no parameters, but computed of others at each call: they are not cut."""

from collections.abc import Mapping, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressm_cli.core.axes import Axis
from compressm_cli.layers.interface import state_axis, state_space_layers


def computed_axes(model: nn.Module, axes: Sequence[Axis], tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Of the axes that have entries in a computed tensor, and of those tied to them: why they cannot be cut.

    ``tensors`` are the model's own, parameters and buffers by name.
    """
    found: dict[str, str] = {}
    needed = {axis.name: {slot.tensor for slot in axis.slots} for axis in axes}
    for layer, part in state_space_layers(
        model
    ).items():  # a projection changes more than what has entries a unit
        prefix = f"{layer}." if layer else ""
        needed.setdefault(state_axis(layer), set()).update(f"{prefix}{n}" for n in part.state_parameters)
    for name, names in needed.items():
        told = (_computed(model, tensor) for tensor in sorted(names - tensors.keys()))
        if why := next(filter(None, told), None):
            found[name] = why
    while tied := [(a, b) for axis in axes for a, b in _pairs(axis) if a in found and b not in found]:
        found |= {b: f"it is tied to {a}: {found[a]}" for a, b in tied}
    return found


def computed_states(model: nn.Module) -> dict[str, str]:
    """Of the state space layers that have a computed parameter, by name: why their states cannot be cut.

    No parameter is looked at, which of a model in several processes would bring it here.
    """
    found: dict[str, str] = {}
    for layer, part in state_space_layers(model).items():
        prefix = f"{layer}." if layer else ""
        told = (_computed(model, f"{prefix}{name}") for name in sorted(part.state_parameters))
        if why := next(filter(None, told), None):
            found[layer] = why
    return found


def _pairs(axis: Axis) -> list[tuple[str, str]]:
    return [pair for name in axis.tied_to for pair in ((axis.name, name), (name, axis.name))]


def _computed(model: nn.Module, name: str) -> str | None:
    """How a tensor is computed, and what to do; None where it is a parameter or a buffer, or not there."""
    place, _, leaf = name.rpartition(".")
    module = dict(model.named_modules(remove_duplicate=False)).get(place)
    if module is None:
        return None
    if parametrize.is_parametrized(module, leaf):
        # Read by name: what is computed is not asked for, which may change buffers.
        by = ", ".join(type(part).__name__.lstrip("_") for part in module.parametrizations[leaf])
        undo = f"torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule({place!r}), {leaf!r})"
        return f"{name} is computed of other tensors ({by}); to cut it, first call {undo}"
    if isinstance(vars(module).get(leaf), Tensor):
        by = ", ".join(n for n in dict(module.named_parameters(recurse=False)) if n.startswith(f"{leaf}_"))
        undo = "the function that undoes it (torch.nn.utils.remove_weight_norm, remove_spectral_norm, prune.remove)"
        return (
            f"{name} is no parameter, but computed{f' of {by}' if by else ''}; to cut it, first call {undo}"
        )
    return None
