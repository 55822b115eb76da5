"""An optimizer's groups and state, whatever optimizer it is, when parameters come, go and change their shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import LBFGS, Optimizer

from compressm_cli.layers.interface import Role, parameter_roles, role_of, state_space_layers
from compressm_cli.structure.masks import masks_of, set_mask
from compressm_cli.structure.sublayers import leave_outline

METHOD = "method"
"""What ``of`` says of a group of parameters that are not the model's."""
State = dict[str, Any]
Group = dict[str, Any]


def is_like(value: Any, shape: torch.Size) -> bool:
    """Whether an optimizer keeps a number for each entry of a parameter of this shape."""
    return isinstance(value, Tensor) and value.shape == shape


def require_own_state(optimizer: Optimizer | None) -> None:
    """ValueError where an optimizer keeps one state for all parameters together, which cannot follow one of them."""
    if isinstance(optimizer, LBFGS):
        raise ValueError(
            f"{type(optimizer).__name__} keeps one state for all parameters together, which cannot follow those that "
            "change; take an optimizer whose state has the shapes of the parameters"
        )


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


@dataclass
class Homes:
    """Where parameters that come back belong in an optimizer, by their names."""

    order: Sequence[Sequence[str]] = ()
    """The parameters of each group, in the order that they had there."""
    state: dict[str, State] = field(default_factory=dict)
    left_out: frozenset[str] = frozenset()
    """Those that were in no group."""

    def group(self, optimizer: Optimizer, name: str) -> Group | None:
        """The group that a parameter was in; None where that is not known."""
        numbers = [i for i, names in enumerate(self.order) if name in names]
        return optimizer.param_groups[numbers[0]] if numbers else None

    def followers(self, model: nn.Module, name: str) -> set[int]:
        """The parameters that come behind one in its group, or in the model where its group is not known."""
        named = dict(model.named_parameters())
        names = next((names for names in self.order if name in names), list(named))
        return {id(named[n]) for n in names[names.index(name) + 1 :] if n in named}


def exchange_modules(
    model: nn.Module,
    optimizer: Optimizer | None,
    modules: Mapping[str, nn.Module | None],
    homes: Homes | None = None,
) -> None:
    """Have these modules at these places, and in the optimizer their parameters; None takes a module away.

    What stays in the model keeps its group, its state and its mask. A new parameter comes into the group that it has in
    ``homes``, else that of the one that had its name, else of others of its role, else into the last one. What the
    optimizer has not of the model it gets at no exchange, nor what comes in the place of that.
    """
    require_own_state(optimizer)
    homes = homes or Homes()
    before, roles = dict(model.named_parameters()), parameter_roles(model)
    masks = [(model.get_parameter(name), mask) for name, mask in masks_of(model).items()]
    for name in sorted(
        modules, key=lambda n: [(k.isdigit(), int(k) if k.isdigit() else k) for k in n.split(".")]
    ):
        _put(model, name, modules[name])
    _masks_follow(model, masks)
    if optimizer is None:
        return
    groups = {id(p): g for g in optimizer.param_groups for p in g["params"]}
    by_name = {n: groups[id(p)] for n, p in before.items() if id(p) in groups}
    by_role: dict[Role, Group] = {roles[n]: g for n, g in by_name.items()}
    _remove(optimizer, [p for p in before.values() if id(p) not in {id(q) for q in model.parameters()}])
    siblings = {id(group): list(group["params"]) for group in optimizer.param_groups}
    roles, there = parameter_roles(model), {id(p) for p in model.parameters()}
    left_out = {n for n, p in before.items() if id(p) not in groups and id(p) not in there} | homes.left_out
    known = {id(p) for p in before.values()}
    for name, p in model.named_parameters():
        if id(p) not in groups and id(p) not in known and name not in left_out:
            group = homes.group(optimizer, name) or by_name.get(name) or by_role.get(roles[name])
            group = group or [g for g in optimizer.param_groups if g.get("of") != METHOD][-1]
            behind = homes.followers(model, name)
            at = next((i for i, q in enumerate(group["params"]) if id(q) in behind), len(group["params"]))
            group["params"].insert(at, p)
            if name in homes.state and _fits(homes.state[name], siblings[id(group)], optimizer):
                optimizer.state[p] = _at_home(homes.state[name], p, optimizer)


def _masks_follow(model: nn.Module, masks: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
    """Have the masks of parameters that are in another module now beside them there."""
    held = {id(model.get_parameter(name)) for name in masks_of(model)}
    names = {id(p): name for name, p in model.named_parameters()}
    for parameter, mask in masks:
        if id(parameter) in names and id(parameter) not in held:
            set_mask(model, names[id(parameter)], mask)


def _fits(state: State, siblings: Sequence[Tensor], optimizer: Optimizer) -> bool:
    """Whether an optimizer keeps the same for others of a group; where not, the state was another optimizer's."""
    known = [set(kept) for p in siblings if (kept := optimizer.state.get(p))]
    return set(state) in known if known else not any(p.requires_grad for p in siblings)


def _put(model: nn.Module, name: str, module: nn.Module | None) -> None:
    place, _, leaf = name.rpartition(".")
    parent = model.get_submodule(place)
    if module is not None:
        parent._modules[leaf] = module
    elif isinstance(parent, nn.ModuleList):
        del parent._modules[leaf]
    else:
        leave_outline(parent, leaf)


def _at_home(state: State, parameter: Tensor, optimizer: Optimizer) -> State:
    """State on the device of its parameter; single numbers where those of other parameters are."""

    def moved(key: str, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if value.ndim:
            return value.to(parameter.device)
        others = (s[key] for s in optimizer.state.values() if isinstance(s.get(key), Tensor))
        like = next(others, None)
        return value if like is None else value.to(like.device)

    return {key: moved(key, value) for key, value in state.items()}


def method_parameters(optimizer: Optimizer | None) -> list[nn.Parameter]:
    """The parameters in an optimizer that are a method's own."""
    groups = [] if optimizer is None else optimizer.param_groups
    return [p for group in groups if group.get("of") == METHOD for p in group["params"]]


def _remove(optimizer: Optimizer, gone: list[nn.Parameter]) -> None:
    ids = {id(p) for p in gone}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in ids]
    for p in gone:
        optimizer.state.pop(p, None)
