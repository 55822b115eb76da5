"""Outputs and gradients of an operator, and how near two sets of them are."""

from collections.abc import Callable

import torch
from torch import Tensor


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    y = function(*inputs)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).sum(), inputs)]


def assert_near(
    names: tuple[str, ...], actual: list[Tensor], expected: list[Tensor], tolerance: float
) -> None:
    for name, a, e in zip(names, actual, expected, strict=False):
        assert a.shape == e.shape, name
        error = (a.double() - e.double()).abs().max() / e.double().abs().max().clamp_min(1e-3)
        assert error.item() <= tolerance, f"{name}: {error.item():.1e}"


def as_dtype(inputs: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    return [t.detach().to(dtype).requires_grad_() for t in inputs]
