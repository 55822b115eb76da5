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
    needed = {axis.name: {slot.tensor for slot in axis.slots} for axis in axes}
    for layer, names in _state_tensors(
        model
    ).items():  # a projection changes more than what has entries a unit
        needed.setdefault(state_axis(layer), set()).update(names)
    found = _reasons(model, {name: names - tensors.keys() for name, names in needed.items()})
    while tied := [(a, b) for axis in axes for a, b in _pairs(axis) if a in found and b not in found]:
        found |= {b: f"it is tied to {a}: {found[a]}" for a, b in tied}
    return found


def computed_states(model: nn.Module) -> dict[str, str]:
    """Of the state space layers that have a computed parameter, by name: why their states cannot be cut.

    No parameter is looked at, which of a model in several processes would bring it here.
    """
    return _reasons(model, _state_tensors(model))


def _state_tensors(model: nn.Module) -> dict[str, set[str]]:
    """The names in the model of what a projection of the states of each layer changes."""
    return {
        layer: {f"{layer}.{name}".removeprefix(".") for name in part.state_parameters}
        for layer, part in state_space_layers(model).items()
    }


def _reasons(model: nn.Module, needed: Mapping[str, set[str]]) -> dict[str, str]:
    """How the first computed one of the tensors is computed that something needs; of what needs one alone."""
    modules = dict(model.named_modules(remove_duplicate=False))
    told = {key: (_computed(modules, name) for name in sorted(names)) for key, names in needed.items()}
    first = {key: next(filter(None, found), None) for key, found in told.items()}
    return {key: why for key, why in first.items() if why is not None}


def _pairs(axis: Axis) -> list[tuple[str, str]]:
    return [pair for name in axis.tied_to for pair in ((axis.name, name), (name, axis.name))]


def _computed(modules: Mapping[str, nn.Module], name: str) -> str | None:
    """How a tensor is computed, and what to do; None where it is a parameter or a buffer, or not there."""
    place, _, leaf = name.rpartition(".")
    module = modules.get(place)
    if module is None:
        return None
    if parametrize.is_parametrized(module, leaf):
        # Read by name: what is computed is not asked for, which may change buffers.
        by = ", ".join(
            type(part).__name__.lstrip("_")
            for part in module.get_submodule(f"parametrizations.{leaf}").children()
        )
        undo = f"torch.nn.utils.parametrize.remove_parametrizations(model.get_submodule({place!r}), {leaf!r})"
        return f"{name} is computed of other tensors ({by}); to cut it, first call {undo}"
    if isinstance(vars(module).get(leaf), Tensor):
        by = ", ".join(n for n in dict(module.named_parameters(recurse=False)) if n.startswith(f"{leaf}_"))
        undo = "the function that undoes it (torch.nn.utils.remove_weight_norm, remove_spectral_norm, prune.remove)"
        return (
            f"{name} is no parameter, but computed{f' of {by}' if by else ''}; to cut it, first call {undo}"
        )
    return None
