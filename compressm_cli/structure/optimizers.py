"""An optimizer's groups and state, whatever optimizer it is, when parameters come, go and change their shape."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.layers.interface import Role, parameter_roles, role_of, state_space_layers

State = dict[str, Any]
Group = dict[str, Any]


def is_like(value: Any, shape: torch.Size) -> bool:
    """Whether an optimizer keeps a number for each entry of a parameter of this shape."""
    return isinstance(value, Tensor) and value.shape == shape


def group_of(
    model: nn.Module, optimizer: Optimizer | None, name: str, old: Tensor | None, new: Tensor | None
) -> Group | None:
    """The group that a parameter is in, or that a ``new`` one belongs into: with others of its role.

    None without an optimizer, and where it has neither.
    """
    if optimizer is None or (old is None and new is None):
        return None
    wanted = {id(old)} if old is not None or new is None else _of_its_role(model, name, new)
    return next((g for g in optimizer.param_groups if any(id(p) in wanted for p in g["params"])), None)


def _of_its_role(model: nn.Module, name: str, value: Tensor) -> set[int]:
    layers = state_space_layers(model)
    place = next((p for p in sorted(layers, key=len, reverse=True) if name.startswith(f"{p}.")), "")
    layer = layers.get(place, model)
    recurrent: frozenset[str] = getattr(layer, "recurrent_parameters", frozenset())
    module = model.get_submodule(name.rpartition(".")[0])
    role = role_of(module, value.ndim, name.removeprefix(f"{place}.") in recurrent)
    roles = parameter_roles(layer)
    return {id(p) for n, p in layer.named_parameters() if roles[n] == role}


def exchange_parameter(
    optimizer: Optimizer | None, group: Group | None, old: Tensor | None, new: Tensor | None, state: State
) -> None:
    """Put a parameter in another's place, or at the end of a group; None takes one away."""
    if optimizer is None:
        return
    if group is not None:
        if old is None:
            group["params"].append(new)
        else:
            at = next(i for i, p in enumerate(group["params"]) if p is old)
            group["params"][at : at + 1] = [] if new is None else [new]
    if old is not None:
        optimizer.state.pop(old, None)
    if new is not None and group is not None and state:
        optimizer.state[new] = state


def put_in_order(model: nn.Module, group: Group) -> None:
    """A group's parameters in the order of the model: saved optimizer states tell them by their place."""
    places = {id(p): i for i, p in enumerate(model.parameters())}
    group["params"].sort(key=lambda p: places.get(id(p), -1))


def exchange_modules(model: nn.Module, optimizer: Optimizer | None, modules: Mapping[str, nn.Module]) -> None:
    """Have these modules at these places, and in the optimizer their parameters.

    What stays in the model keeps its group and state. A new parameter comes into the group of the one that had its
    name, else of others of its role, else into the last one.
    """
    before, roles = dict(model.named_parameters()), parameter_roles(model)
    for name in sorted(
        modules, key=lambda n: [(k.isdigit(), int(k) if k.isdigit() else k) for k in n.split(".")]
    ):
        place, _, leaf = name.rpartition(".")
        model.get_submodule(place)._modules[leaf] = modules[name]
    if optimizer is None:
        return
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    by_name = {n: groups[id(p)] for n, p in before.items() if id(p) in groups}
    by_role: dict[Role, Group] = {roles[n]: g for n, g in by_name.items()}
    _remove(optimizer, [p for p in before.values() if id(p) not in {id(q) for q in model.parameters()}])
    roles = parameter_roles(model)
    for name, p in model.named_parameters():
        if id(p) not in groups:
            group = by_name.get(name) or by_role.get(roles[name]) or optimizer.param_groups[-1]
            group["params"].append(p)
    for group in optimizer.param_groups:
        put_in_order(model, group)


def _remove(optimizer: Optimizer, gone: list[nn.Parameter]) -> None:
    ids = {id(p) for p in gone}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    for p in gone:
        optimizer.state.pop(p, None)
