"""The only code that changes shapes, masks, ``requires_grad`` or optimizer state."""

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from compressm_cli.layers.interface import (
    StateSpaceLayer,
    laid_out,
    parameter_roles,
    role_of,
    state_space_layers,
)
from compressm_cli.lti.threads import one_torch_thread
from compressm_cli.structure.edits import Freeze, Mask, Plan, Truncate

T = TypeVar("T")

_MASKS = "_compression_masks"


def orders(model: nn.Module) -> dict[str, int]:
    """State dimension of each compressible layer, by module name."""
    return {name: layer.state_dim for name, layer in state_space_layers(model).items()}


def masks(model: nn.Module) -> dict[str, Tensor]:
    """The masks in force, by parameter name."""
    return getattr(model, _MASKS, {})


def frozen(model: nn.Module) -> list[str]:
    """Names of the parameters that are not trained now."""
    return [name for name, p in model.named_parameters() if not p.requires_grad]


def apply_plan(model: nn.Module, optimizer: Optimizer | None, plan: Plan) -> None:
    """Carry out a plan's edits, in order, on the model and on the optimizer's state of what they touch.

    Everything else keeps its moments and its place in the optimizer's groups. Masks of tensors that are cut
    are lifted: their entries mean other states now. A plan with a truncation that gives non-finite parameters
    raises ValueError, and nothing is changed.
    """
    layers = state_space_layers(model)
    new = {e.layer: _truncated(layers[e.layer], e) for e in plan.edits if isinstance(e, Truncate)}
    for edit in plan.edits:
        if isinstance(edit, Truncate):
            layer = layers[edit.layer]
            _replace(layer, optimizer, new[edit.layer], _new_state(layer, optimizer, edit, new[edit.layer]))
            _lift_masks(model, edit.layer, set(new[edit.layer]))
        elif isinstance(edit, Mask):
            _mask(model, edit)
        else:
            _freeze(model, edit)
    _put_in_order(model, optimizer)
    enforce_masks(model)


def enforce_masks(model: nn.Module) -> None:
    """Set what is masked to zero again; the loop calls it after each optimizer step."""
    for name, keep in masks(model).items():
        with torch.no_grad():
            model.get_parameter(name).mul_(keep)


def resize(model: nn.Module, optimizer: Optimizer | None, weights: dict[str, Tensor]) -> None:
    """Give all state parameters the shapes that they have in ``weights``, a state of the model to be loaded.

    Only shapes and types of ``weights`` count.
    """
    for prefix, layer in state_space_layers(model).items():
        device = next(layer.parameters()).device
        values: dict[str, Tensor | None] = {}
        for name in layer.state_parameters | layer.state_buffers:
            old, wanted = _parameter(layer, name), weights.get(f"{prefix}.{name}")
            if (None if old is None else old.shape) != (None if wanted is None else wanted.shape):
                values[name] = None if wanted is None else torch.zeros_like(wanted, device=device)
        _replace(layer, optimizer, values, {})
    _put_in_order(model, optimizer)


def outlined(state: T) -> T:
    """A state of a model or an optimizer without its values: tensors on the meta device, single numbers as copies."""
    return tree_map_only(Tensor, lambda t: t.to("meta") if t.ndim else t.clone(), state)


def restore_constraints(model: nn.Module, saved_masks: dict[str, Tensor], frozen_names: list[str]) -> None:
    """Put masks and frozen parameters back as ``masks`` and ``frozen`` gave them."""
    devices = {name: p.device for name, p in model.named_parameters()}
    setattr(model, _MASKS, {name: mask.to(devices[name]) for name, mask in saved_masks.items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in set(frozen_names))


@one_torch_thread()
def _truncated(layer: StateSpaceLayer, edit: Truncate) -> dict[str, Tensor]:
    values = layer.reduced_parameters(edit.projections) if edit.values is None else edit.values
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{edit.layer}: not finite after the truncation: {', '.join(bad)}")
    return values


def _new_state(
    layer: StateSpaceLayer, optimizer: Optimizer | None, edit: Truncate, new: dict[str, Tensor]
) -> dict[str, dict[str, Any]]:
    """Optimizer state by parameter name; what is left out starts anew, with its step count."""
    states: dict[str, dict[str, Any]] = {}
    if optimizer is not None and edit.moments != "reset":
        parameters = {name: _parameter(layer, name) for name in new if name in layer.state_parameters}
        states = {n: optimizer.state.get(p, {}) for n, p in parameters.items() if p is not None}
    if not states or not all(states.values()):
        return {}
    first, second = ({n: state[key] for n, state in states.items()} for key in ("exp_avg", "exp_avg_sq"))
    if edit.moments == "slice":
        first, second = layer.sliced_moments(edit.order, first), layer.sliced_moments(edit.order, second)
    else:
        first, second = layer.transported_moments(edit.projections, first, second)
    result = {}
    for name in first:
        # A moment of zero has seen no gradient: such a tensor starts anew.
        if bool(first[name].any()):
            like = layer.get_parameter(name)
            result[name] = {
                "step": states[name]["step"].clone(),
                "exp_avg": laid_out(first[name], like),
                "exp_avg_sq": laid_out(second[name], like),
            }
    return result


def _parameter(layer: StateSpaceLayer, name: str) -> nn.Parameter | None:
    place, _, leaf = name.rpartition(".")
    parameter: nn.Parameter | None = getattr(layer.get_submodule(place), leaf)
    return parameter


def _replace(
    layer: StateSpaceLayer,
    optimizer: Optimizer | None,
    values: Mapping[str, Tensor | None],
    state: dict[str, dict[str, Any]],
) -> None:
    """Replace parameters, in the optimizer's groups too; ``_put_in_order`` must follow."""
    old = {name: _parameter(layer, name) for name in values if name in layer.state_parameters}
    groups = {} if optimizer is None else {n: _group(optimizer, layer, n, values[n]) for n in old}
    layer.set_state_parameters(dict(values))
    if optimizer is None:
        return
    for name, before in old.items():
        after, group = _parameter(layer, name), groups[name]
        if group is None:
            continue
        if before is not None:
            group["params"] = [p for p in group["params"] if p is not before]
            optimizer.state.pop(before, None)
        if after is not None:
            group["params"].append(after)
            if name in state:
                optimizer.state[after] = state[name]


def _group(
    optimizer: Optimizer, layer: StateSpaceLayer, name: str, value: Tensor | None
) -> dict[str, Any] | None:
    """The optimizer's group that a parameter is in, or that ``value`` belongs into: with others of its role.

    None for one that is not there and will not be.
    """
    own = _parameter(layer, name)
    if own is None and value is None:
        return None
    wanted = {id(own)}
    if own is None and value is not None:
        module = layer.get_submodule(name.rpartition(".")[0])
        role = role_of(module, value.ndim, name in layer.recurrent_parameters)
        roles = parameter_roles(layer)
        wanted = {id(p) for n, p in layer.named_parameters() if roles[n] == role}
    return next(g for g in optimizer.param_groups if any(id(p) in wanted for p in g["params"]))


def _put_in_order(model: nn.Module, optimizer: Optimizer | None) -> None:
    """Each group's parameters in the order of the model: saved optimizer states tell them by their place."""
    if optimizer is not None:
        places = {id(p): i for i, p in enumerate(model.parameters())}
        for group in optimizer.param_groups:
            group["params"].sort(key=lambda p: places[id(p)])


def _lift_masks(model: nn.Module, layer: str, parameters: set[str]) -> None:
    names = {f"{layer}.{parameter}" for parameter in parameters}
    setattr(model, _MASKS, {name: mask for name, mask in masks(model).items() if name not in names})


def _mask(model: nn.Module, edit: Mask) -> None:
    parameter = model.get_parameter(edit.parameter)
    keep = torch.broadcast_to(edit.keep.to(parameter.device, torch.bool), parameter.shape).clone()
    kept = {name: mask for name, mask in masks(model).items() if name != edit.parameter}
    if not keep.all():
        kept[edit.parameter] = keep
    setattr(model, _MASKS, kept)


def _freeze(model: nn.Module, edit: Freeze) -> None:
    for name in edit.parameters:
        parameter = model.get_parameter(name)
        parameter.requires_grad_(edit.active)
        if not edit.active:
            parameter.grad = None
