"""A feed-forward layer with a gate, with little kept for the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.core.gradients import GradientSum, low_type
from compressm_cli.ops.parallel import runs_eagerly_on_cpu


def swiglu(
    x: Tensor,
    gate: Tensor,
    up: Tensor,
    down: Tensor,
    gate_bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
) -> Tensor:
    """``down (silu(gate x + gate_bias) * (up x + up_bias)) + down_bias`` (Shazeer 2020).

    x (..., H), gate and up (neurons, H), down (H, neurons); returns (..., H). On a CPU, and outside torch.compile, the
    gradient keeps x and what gate and up gave, and computes what lies between again, a part of the rows at a time
    (``_SwiGLU``); else this is what it says.
    """
    if not runs_eagerly_on_cpu(x):
        hidden = functional.silu(functional.linear(x, gate, gate_bias)) * functional.linear(x, up, up_bias)
        return functional.linear(hidden, down, down_bias)
    return _SwiGLU.apply(x, gate, up, down, gate_bias, up_bias, down_bias)


ROWS_AT_ONCE = 768
"""In a part: few enough for the neurons to stay in the cache between one elementwise operation and the next, and enough
for the products with the weights."""


def _parts(rows: int) -> list[slice]:
    return [slice(first, first + ROWS_AT_ONCE) for first in range(0, rows, ROWS_AT_ONCE)]


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if bias is None:
        return torch.mm(x, weight.mT, out=out)
    return torch.addmm(bias, x, weight.mT, out=out)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor,
        up: Tensor,
        down: Tensor,
        gate_bias: Tensor | None,
        up_bias: Tensor | None,
        down_bias: Tensor | None,
    ) -> Tensor:
        low, kept, neurons = low_type(x), any(ctx.needs_input_grad), len(gate)
        ctx.shape, ctx.like = x.shape, gate.new_empty(0)
        with torch.autocast("cpu", enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(low).contiguous()
            gate, up, down = gate.to(low), up.to(low), down.to(low)
            biases = [None if bias is None else bias.to(low) for bias in (gate_bias, up_bias, down_bias)]
            parts = _parts(len(rows))
            # Without a gradient all parts use the same memory.
            room = len(rows) if kept else min(len(rows), parts[0].stop if parts else 0)
            g, u = (rows.new_empty(room, neurons) for _ in range(2))
            out = rows.new_empty(len(rows), len(down))
            for part in parts:
                row, target = rows[part], out[part]
                here = part if kept else slice(0, len(row))
                hidden = functional.silu(_linear(row, gate, biases[0], g[here]))
                hidden *= _linear(row, up, biases[1], u[here])
                _linear(hidden, down, biases[2], target)
        need_x, need_gate, need_up, *_ = ctx.needs_input_grad
        ctx.save_for_backward(
            rows if need_gate or need_up else None, g, u, *((gate, up) if need_x else (None, None)), down
        )
        return out.view(*x.shape[:-1], len(down))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, g, u, gate, up, down = ctx.saved_tensors
        needs, width, neurons = ctx.needs_input_grad, down.shape[0], down.shape[1]
        inner = any(needs[i] for i in (0, 1, 2, 4, 5))
        rows = grad.reshape(-1, width).contiguous()
        dx = rows.new_empty(len(rows), ctx.shape[-1]) if needs[0] else None
        inputs = 0 if x is None else x.shape[1]
        shapes = [(neurons, inputs), (neurons, inputs), (width, neurons), (neurons,), (neurons,), (width,)]
        sums = [GradientSum(ctx.like, *s) if n else None for n, s in zip(needs[1:], shapes, strict=True)]
        dgate, dup, ddown, dgate_bias, dup_bias, ddown_bias = sums
        for part in _parts(len(rows)):
            dy, before, linear = rows[part], g[part], u[part]
            activated = functional.silu(before)
            if ddown is not None:
                ddown.product(dy, activated * linear)
            if ddown_bias is not None:
                ddown_bias.rows(dy)
            if not inner:
                continue
            dhidden = dy @ down
            d_up = activated.mul_(dhidden)
            d_gate = torch.ops.aten.silu_backward(dhidden.mul_(linear), before)
            if dx is not None:
                torch.mm(d_gate, gate, out=dx[part]).addmm_(d_up, up)
            for d, weight, bias in ((d_gate, dgate, dgate_bias), (d_up, dup, dup_bias)):
                if weight is not None:
                    weight.product(d, x[part])
                if bias is not None:
                    bias.rows(d)
        found = [None if total is None else total.value for total in sums]
        return (None if dx is None else dx.view(ctx.shape), *found)
