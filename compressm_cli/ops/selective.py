"""``selective_scan``, the recurrence of Mamba (S6): one operator; the kernel goes by device and dtype."""

import warnings
from functools import cache
from math import prod
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from compressm_cli.ops import selective_cpu, selective_torch
from compressm_cli.ops.scan import triton_obstacle


@cache
def _cuda_kernels() -> ModuleType:
    obstacle = triton_obstacle()
    if obstacle is not None:
        warnings.warn(f"the selective scan runs without its CUDA kernel: {obstacle}", stacklevel=2)
        return selective_torch
    from compressm_cli.ops import selective_triton

    return selective_triton


def _kernels(x: Tensor) -> ModuleType:
    if x.device.type == "cuda":
        return _cuda_kernels()
    return selective_cpu if x.device.type == "cpu" and x.dtype == torch.float32 else selective_torch


# dt_bias and z are both given or both None; with them dt is what softplus makes the step sizes from. What a gradient
# needs is computed where ``save`` is set; a tensor that is not needed is empty.
@torch.library.custom_op("compressm::selective_scan", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _kernels(x).forward(x, dt, A, B, C, D, kept, dt_bias, z, save)


@torch.library.custom_op("compressm::selective_scan_backward", mutates_args=())
def _scan_backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _kernels(x).backward(grad, x, dt, A, B, C, D, kept, dt_bias, z, y, states)


@_scan.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    states = _kernels(x).states_shape(x.shape, A.shape[1])
    saved = x.new_empty(x.shape if save and z is not None else 0), x.new_empty(states if save else 0)
    return x.new_empty(x.shape), *saved


@_scan_backward.register_fake
def _(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    each = (x.shape[2],)
    shapes: list[tuple[int, ...]] = [x.shape, x.shape, A.shape, B.shape, C.shape, each, each]
    return tuple(x.new_empty(shape) for shape in [*shapes, (0,) if z is None else z.shape])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:-1], *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    dx, ddt, dA, dB, dC, dD, dbias, dz = _scan_backward(grad, *ctx.saved_tensors)
    D, _, dt_bias, z = ctx.saved_tensors[5:9]
    dD, dbias, dz = (None if t is None else g for t, g in ((D, dD), (dt_bias, dbias), (z, dz)))
    return dx, ddt, dA, dB, dC, dD, None, dbias, dz, None


_scan.register_autograd(_differentiate, setup_context=_save)


# A state and step: the decay's product and exponential count as one each; with the input's product, the step of the
# state, and its share of the output that makes 7. The gradient computes the states again, then takes 12.
FLOPS_FORWARD, FLOPS_BACKWARD = 7, 17


@register_flop_formula(torch.ops.compressm.selective_scan)
def _(x_shape: Any, dt_shape: Any, A_shape: Any, *args: Any, **kwargs: Any) -> int:
    return FLOPS_FORWARD * prod(x_shape) * A_shape[1]


@register_flop_formula(torch.ops.compressm.selective_scan_backward)
def _(grad_shape: Any, x_shape: Any, dt_shape: Any, A_shape: Any, *args: Any, **kwargs: Any) -> int:
    return FLOPS_BACKWARD * prod(x_shape) * A_shape[1]


def _check(x: Tensor, A: Tensor, others: dict[str, Tensor | None]) -> None:
    if x.ndim != 3 or A.ndim != 2 or x.shape[2] != A.shape[0]:
        raise ValueError(
            f"x {tuple(x.shape)} is not (batch, length, channels), or A {tuple(A.shape)} not (channels, N)"
        )
    steps, each = (*x.shape[:2], A.shape[1]), (x.shape[2],)
    wanted = {"dt": x.shape, "z": x.shape, "B": steps, "C": steps, "D": each, "dt_bias": each, "kept": each}
    for name, tensor in others.items():
        if tensor is not None and tensor.shape != wanted[name]:
            raise ValueError(f"{name} {tuple(tensor.shape)} must be {tuple(wanted[name])}")


def _run(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None,
) -> Tensor:  # fmt: skip
    _check(x, A, {"dt": dt, "B": B, "C": C, "D": D, "kept": kept, "dt_bias": dt_bias, "z": z})
    dtype = torch.float64 if A.dtype == torch.float64 else torch.float32
    x, dt, A, B, C = (t.to(dtype) for t in (x, dt, A, B, C))
    D, dt_bias, z = (None if t is None else t.to(dtype) for t in (D, dt_bias, z))
    tensors = (x, dt, A, B, C, D, dt_bias, z)
    save = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    return _scan(x, dt, A, B, C, D, kept, dt_bias, z, save)[0]


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    kept: Tensor | None = None,
) -> Tensor:
    """h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + dt_t[d] B_t[n] x_t[d];  y_t[d] = C_t h_t[d] + D[d] x_t[d].

    x (batch, length, channels); dt of that shape: step sizes, positive; A (channels, N): real, negative; B and C
    (batch, length, N); D (channels,). kept (channels,), int64: channel d has its first kept[d] states only, 0 to N;
    the others take no time and get a gradient of zero. Returns y of the shape of x, in float64 where A is, else in
    float32. Raises ValueError for shapes that do not fit.
    """
    return _run(x, dt, A, B, C, D, kept, None, None)


def selective_scan_gated(
    x: Tensor,
    dt_raw: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor,
    kept: Tensor | None = None,
) -> Tensor:
    """``selective_scan(x, softplus(dt_raw + dt_bias), A, B, C, D, kept=kept) * silu(z)`` at once.

    dt_raw and z of the shape of x, dt_bias (channels,); all else, and what is raised, as ``selective_scan``.
    """
    return _run(x, dt_raw, A, B, C, D, kept, dt_bias, z)
