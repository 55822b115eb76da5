"""The second half of a block: activation, gate and residual, with little kept for the backward pass."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.core.gradients import low_type
from compressm_cli.ops.dropout import draw_seed, dropout_
from compressm_cli.ops.parallel import runs_eagerly_on_cpu


def gated_residual(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, dropout: float = 0.0, training: bool = False
) -> Tensor:
    """``x + dropout(GLU(weight dropout(GELU(y)) + bias))``.

    x and y (..., H), weight (2 H, H), bias (2 H,); returns (..., H). On a CPU, and outside torch.compile, the gradient
    keeps y and the gate's input alone and computes what lies between again, masks included (``_GatedResidual``); else
    this is what it says. The masks then come from different generators.
    """
    p = dropout if training else 0.0
    if not runs_eagerly_on_cpu(y):
        hidden = functional.dropout(functional.gelu(y), p, training)
        return x + functional.dropout(functional.glu(functional.linear(hidden, weight, bias)), p, training)
    return _GatedResidual.apply(x, y, weight, bias, p)


ENTRIES_AT_ONCE = 1 << 19
"""Entries of y in a part: it stays in the cache between one elementwise operation and the next."""


def _parts(y: Tensor) -> list[slice]:
    """Consecutive rows of y (rows, H)."""
    rows = max(256, ENTRIES_AT_ONCE // y.shape[1])
    return [slice(first, first + rows) for first in range(0, y.shape[0], rows)]


def _dropout_(x: Tensor, p: float, seed: int, part: slice) -> Tensor:
    return dropout_(x, p, seed + part.start) if p else x


class _GatedResidual(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, p: float) -> Tensor:
        _, need_y, need_weight, need_bias, _ = ctx.needs_input_grad
        ctx.p, ctx.seeds, ctx.dtype = p, (draw_seed(), draw_seed()) if p else (0, 0), y.dtype
        low = low_type(y)
        rows = y.reshape(-1, y.shape[-1]).contiguous()
        residual = x.reshape(rows.shape)
        out = torch.empty_like(residual, memory_format=torch.contiguous_format)
        z = None
        if need_y or need_weight or need_bias:
            z = y.new_empty(rows.shape[0], weight.shape[0], dtype=low)
        with torch.autocast("cpu", enabled=False):
            weight_low, bias_low = weight.to(low), bias.to(low)
            for part in _parts(rows):
                hidden = _dropout_(functional.gelu(rows[part]), p, ctx.seeds[0], part).to(low)
                z_part = torch.addmm(bias_low, hidden, weight_low.mT, out=None if z is None else z[part])
                gate = _dropout_(functional.glu(z_part), p, ctx.seeds[1], part)
                torch.add(residual[part], gate, out=out[part])
        ctx.save_for_backward(rows if need_y or need_weight else None, z, weight_low if need_y else None)
        return out.view(x.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        need_x, need_y, need_weight, need_bias, _ = ctx.needs_input_grad
        dx = grad if need_x else None
        if not (need_y or need_weight or need_bias):
            return dx, None, None, None, None
        y, z, weight = ctx.saved_tensors
        p, (first, second), low, width = ctx.p, ctx.seeds, z.dtype, grad.shape[-1]
        rows = grad.reshape(-1, width).contiguous()
        dy = torch.empty_like(y) if need_y else None
        dweight = y.new_zeros(z.shape[1], width) if need_weight else None
        dbias = z.new_zeros(z.shape[1], dtype=ctx.dtype) if need_bias else None
        for part in _parts(rows):
            dropped = _dropout_(rows[part].to(low, copy=True), p, second, part)
            dz = torch.ops.aten.glu_backward(dropped, z[part], -1)
            if dweight is not None:
                hidden = _dropout_(functional.gelu(y[part]), p, first, part).to(low)
                dweight += (hidden.mT @ dz).mT
            if dbias is not None:
                dbias += dz.sum(0)
            if dy is not None:
                dhidden = _dropout_((dz @ weight).to(y.dtype), p, first, part)
                torch.ops.aten.gelu_backward.grad_input(dhidden, y[part], grad_input=dy[part])
        return dx, None if dy is None else dy.view(grad.shape), dweight, dbias, None
