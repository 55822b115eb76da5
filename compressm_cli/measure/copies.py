"""Copies of models without values: shapes, types and devices alone."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

T = TypeVar("T")


def on_fake_copy(
    model: nn.Module, inputs: Any, device: torch.device, measure: Callable[[nn.Module, Any], T]
) -> T:
    """``measure`` of a copy of the model and of the tensors in ``inputs`` without values, as if on a device.

    The model's own tensors may be on the meta device already. Passes on the RuntimeError of a model that needs values.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        like = partial(torch.empty_like, device=device)
        return measure(fake_model(model, fake, device), tree_map_only(Tensor, like, inputs))


def without_values(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters are on the meta device; buffers keep their values."""
    twins: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, twins)


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """That of the first parameter of a model."""
    return next((p.device for p in model.parameters()), default)


def fake_model(model: nn.Module, fake: FakeTensorMode, device: torch.device | None = None) -> nn.Module:
    """A copy of a model of fake tensors, on its own device or, of tensors that are on none, on this one."""

    # Tensors are handed to deepcopy as if copied already, so that no second set of weights, nor of
    # gradients, ever exists: on a GPU that would show up in the peak memory of the run.
    def faked(t: Tensor) -> Tensor:
        return torch.empty_like(t, device=device) if t.is_meta else fake.from_tensor(t.detach())

    twins: dict[int, object] = {
        id(p): nn.Parameter(faked(p), requires_grad=p.requires_grad) for p in model.parameters()
    }
    twins.update({id(b): faked(b) for b in model.buffers()})
    return copy.deepcopy(model, twins)
