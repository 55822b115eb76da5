"""``selective_scan``, the recurrence of Mamba (S6): one operator; the kernel goes by device and dtype."""

import warnings
from functools import cache
from math import prod
from types import ModuleType
from typing import Any, NamedTuple

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


# dt_bias and z are both given or both None; with them dt is what softplus makes the step sizes from. Kept for the
# gradient, where that is said, are y, the output before the gate, and the states before each chunk. ``needs`` is of
# x, dt, A, B, C, D, dt_bias and z. A tensor that is not needed is empty.
@torch.library.custom_op("compressm::selective_scan_v2", mutates_args=())
def _scan(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, keep_y: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    return _kernels(x).forward(x, dt, A, B, C, D, kept, dt_bias, z, keep_y, keep_states)


@torch.library.custom_op("compressm::selective_scan_backward_v2", mutates_args=())
def _scan_backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor, needs: list[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _kernels(x).backward(grad, x, dt, A, B, C, D, kept, dt_bias, z, y, states, needs)


@_scan.register_fake
def _(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, keep_y: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    states = _kernels(x).states_shape(x.shape, A.shape[1])
    kept_y, kept_states = x.new_empty(x.shape if keep_y else 0), x.new_empty(states if keep_states else 0)
    return x.new_empty(x.shape), kept_y, kept_states


@_scan_backward.register_fake
def _(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    by_channel, by_step = grad.shape[2:], B.shape if B.ndim == 3 else C.shape
    shapes = [grad.shape, grad.shape, A.shape, by_step, by_step, by_channel, by_channel, grad.shape]
    return tuple(grad.new_empty(shape if n else (0,)) for shape, n in zip(shapes, needs, strict=True))


class _Needs(NamedTuple):
    """Whose gradients are asked for, and from which tensors they are computed."""

    x: bool
    dt: bool
    A: bool
    B: bool
    C: bool
    D: bool
    dt_bias: bool
    z: bool

    @property
    def exponents(self) -> bool:
        return self.dt or self.A or self.dt_bias

    @property
    def states(self) -> bool:
        """Of the states, from which all come but those of C, D and z."""
        return self.x or self.B or self.exponents

    @property
    def recurrence(self) -> bool:
        return self.states or self.C

    def inputs(self) -> "_Needs":
        """Which of the inputs any gradient is computed from."""
        return _Needs(
            x=self.exponents or self.B or self.C or self.D,
            dt=self.recurrence,
            A=self.recurrence,
            B=self.x or self.exponents or self.C,
            C=self.states,
            D=self.x,
            dt_bias=self.recurrence,
            z=any(self),
        )

    def kept(self) -> tuple[bool, bool]:
        """Whether any is computed from the output before the gate, and from the states before each chunk."""
        return self.z, self.exponents or self.C


def _needs(ctx: Any) -> _Needs:
    asked = ctx.needs_input_grad
    return _Needs(*asked[:6], *asked[7:9])


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    read, empty = _needs(ctx).inputs(), output[0].new_empty(0)
    always = (t if needed else empty for t, needed in zip(inputs[:5], read, strict=False))
    D, kept, dt_bias, z = inputs[5:9]
    optional = (D if read.D else None, kept, dt_bias if read.dt_bias else None, z if read.z else None)
    ctx.save_for_backward(*always, *optional, *output[1:])
    ctx.mark_non_differentiable(*output[1:])


def _differentiate(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
    needs = _needs(ctx)
    found = _scan_backward(grad, *ctx.saved_tensors, list(needs))
    *gradients, dbias, dz = (g if needed else None for g, needed in zip(found, needs, strict=True))
    return *gradients, None, dbias, dz, None, None


_scan.register_autograd(_differentiate, setup_context=_save)


# A state and step: the decay's product and exponential count as one each; with the input's product, the step of the
# state, and its share of the output that makes 7. The gradient computes the states again, then takes up to 12: two for
# each of C, B and u = dt x, three for the states, one for the exponents and one for what each of dt and A has of them.
FLOPS_FORWARD, FLOPS_AGAIN = 7, 5


def _flops_backward(needs: _Needs) -> int:
    again = FLOPS_AGAIN if needs.exponents or needs.C else 2 if needs.states else 0
    of_sizes = needs.dt or needs.dt_bias
    parts = {
        "states": 3 * needs.states,
        "C": 2 * needs.C,
        "B": 2 * needs.B,
        "u": 2 * (needs.x or of_sizes),
        "exponents": needs.exponents + of_sizes + needs.A,
    }
    return again + sum(parts.values())


@register_flop_formula(torch.ops.compressm.selective_scan_v2)
def _(x_shape: Any, dt_shape: Any, A_shape: Any, *args: Any, **kwargs: Any) -> int:
    return FLOPS_FORWARD * prod(x_shape) * A_shape[1]


@register_flop_formula(torch.ops.compressm.selective_scan_backward_v2)
def _(grad_shape: Any, x_shape: Any, dt_shape: Any, A_shape: Any, *args: Any, **kwargs: Any) -> int:
    needs = _Needs(*args[-1])
    return _flops_backward(needs) * prod(grad_shape) * A_shape[1] if needs.recurrence else 0


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
    tensors, asked = (x, dt, A, B, C, D, dt_bias, z), torch.is_grad_enabled()
    needs = _Needs(*(asked and t is not None and t.requires_grad for t in tensors))
    return _scan(x, dt, A, B, C, D, kept, dt_bias, z, *needs.kept())[0]


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
