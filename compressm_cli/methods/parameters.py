"""Parameters of a method's own: in the model's optimizer, and the same in all processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from compressm_cli.core.validation import described, is_number
from compressm_cli.methods.faults import MethodFaultError, ask, where
from compressm_cli.methods.method import Method
from compressm_cli.structure.optimizers import METHOD

SETTINGS = {"params", "factor", "weight_decay"}
"""What a method may say of a group of its parameters."""


def groups_of_method(method: Method, model: nn.Module) -> list[dict[str, Any]]:
    """A method's ``parameter_groups`` for an optimizer; MethodFaultError where they cannot be optimized."""
    own = ask(method, Method.parameter_groups)
    try:
        return _checked(own, model)
    except ValueError as error:
        raise MethodFaultError(f"{where(method, 'parameter_groups')}: {error}") from None


def _checked(own: Any, model: nn.Module) -> list[dict[str, Any]]:
    """The same groups with all their settings; ValueError, in one clause, for others than there may be."""
    device, known = next(model.parameters()).device, {id(p) for p in model.parameters()}
    if not (isinstance(own, list | tuple) and all(isinstance(group, Mapping) for group in own)):
        raise ValueError(f"returned {described(own)}; it must be a list of mappings, one for each group")
    for group in own:
        if strange := set(group) - SETTINGS or {"params"} - set(group):
            raise ValueError(
                f"a group has params, and perhaps factor and weight_decay; not so {sorted(map(str, strange))[0]}"
            )
        for name in ("factor", "weight_decay"):
            value = group.get(name, 0.0)
            if not (is_number(value) and value >= 0):
                raise ValueError(f"{name} is {described(value)}; it must be a finite number of at least 0")
        if not isinstance(group["params"], list | tuple):
            raise ValueError(f"params is {described(group['params'])}; it must be a list of parameters")
        for p in group["params"]:
            if not isinstance(p, nn.Parameter) or p.dtype is not torch.float32 or p.device != device:
                raise ValueError(f"all must be parameters of the type float32 on {device}")
            if id(p) in known:
                raise ValueError("one is the model's, or is there twice")
            known.add(id(p))
    plain = {"weight_decay": 0.0, "factor": 1.0, "of": METHOD}
    return [{**plain, **group, "params": list(group["params"])} for group in own]


@torch.no_grad()
def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Average the gradients of parameters that no wrapper knows of over the processes; one that none has stays None."""
    known = torch.tensor(
        [p.grad is not None for p in parameters], device=parameters[0].device, dtype=torch.int32
    )
    dist.all_reduce(known, dist.ReduceOp.MAX)
    for parameter, is_known in zip(parameters, known.tolist(), strict=True):
        if is_known:
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.contiguous()
            dist.all_reduce(grad)
            # The same everywhere to the last bit.
            dist.broadcast(grad, src=0)
            parameter.grad = grad / dist.get_world_size()
