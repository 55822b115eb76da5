"""The only code that changes shapes, masks, ``requires_grad`` or optimizer state."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.compression.balanced import one_torch_thread
from compressm_cli.compression.method import Freeze, Mask, Plan, Truncate
from compressm_cli.layers.interface import StateSpaceLayer, state_space_layers

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
            _replace(layer, optimizer, new[edit.layer], _new_state(layer, optimizer, edit))
            _lift_masks(model, edit.layer, set(new[edit.layer]))
        elif isinstance(edit, Mask):
            _mask(model, edit)
        else:
            _freeze(model, edit)
    enforce_masks(model)


def enforce_masks(model: nn.Module) -> None:
    """Set what is masked to zero again; the loop calls it after each optimizer step."""
    for name, keep in masks(model).items():
        with torch.no_grad():
            model.get_parameter(name).mul_(keep)


def resize(model: nn.Module, optimizer: Optimizer | None, wanted: dict[str, int]) -> None:
    """Give layers other orders without keeping values: what a saved state is loaded into."""
    for name, layer in state_space_layers(model).items():
        if layer.state_dim == wanted[name]:
            continue
        values = {}
        for parameter, axis in layer.state_parameters.items():
            old = layer.get_parameter(parameter)
            shape = list(old.shape)
            shape[axis] = wanted[name]
            values[parameter] = old.new_zeros(shape)
        _replace(layer, optimizer, values, {})


def restore_constraints(model: nn.Module, saved_masks: dict[str, Tensor], frozen_names: list[str]) -> None:
    """Put masks and frozen parameters back as ``masks`` and ``frozen`` gave them."""
    devices = {name: p.device for name, p in model.named_parameters()}
    setattr(model, _MASKS, {name: mask.to(devices[name]) for name, mask in saved_masks.items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in set(frozen_names))


@one_torch_thread()
def _truncated(layer: StateSpaceLayer, edit: Truncate) -> dict[str, Tensor]:
    values = layer.reduced_parameters(edit.projections)
    bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
    if bad:
        raise ValueError(f"{edit.layer}: not finite after the truncation: {', '.join(bad)}")
    return values


def _new_state(
    layer: StateSpaceLayer, optimizer: Optimizer | None, edit: Truncate
) -> dict[str, dict[str, Any]]:
    """Optimizer state by parameter name; what is left out starts anew, with its step count."""
    states = (
        {}
        if optimizer is None
        else {n: optimizer.state.get(layer.get_parameter(n)) for n in layer.state_parameters}
    )
    if edit.moments == "reset" or not states or not all(states.values()):
        return {}
    moments: list[dict[str, Tensor]] = [
        {name: state[key] for name, state in states.items() if state} for key in ("exp_avg", "exp_avg_sq")
    ]
    if edit.moments == "slice":
        axes = layer.state_parameters
        first, second = ({n: m.narrow(axes[n], 0, edit.order) for n, m in part.items()} for part in moments)
    else:
        first, second = layer.transported_moments(edit.projections, moments[0], moments[1])
    result = {}
    for name, state in states.items():
        # A moment of zero has seen no gradient: such a tensor starts anew.
        if state and bool(first[name].any()):
            like = layer.get_parameter(name)
            result[name] = {
                "step": state["step"].clone(),
                "exp_avg": first[name].to(like.device, like.dtype).clone(),
                "exp_avg_sq": second[name].to(like.device, like.dtype).clone(),
            }
    return result


def _replace(
    layer: StateSpaceLayer,
    optimizer: Optimizer | None,
    values: dict[str, Tensor],
    state: dict[str, dict[str, Any]],
) -> None:
    old = {name: layer.get_parameter(name) for name in values}
    layer.set_state_parameters(values)
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        places = {id(p): i for i, p in enumerate(group["params"])}
        for name, parameter in old.items():
            if id(parameter) in places:
                new = layer.get_parameter(name)
                group["params"][places[id(parameter)]] = new
                optimizer.state.pop(parameter, None)
                if name in state:
                    optimizer.state[new] = state[name]


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
