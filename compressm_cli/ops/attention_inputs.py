"""Queries, keys and values of attention, by one product, and rotated."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm_cli.core.gradients import low_type

Weights = tuple[Tensor, Tensor, Tensor]


def attention_inputs(
    x: Tensor,
    weights: Weights,
    biases: Weights | None,
    groups: int,
    turns: tuple[Tensor, Tensor] | None,
) -> Weights:
    """Queries (batch, heads, length, qk), keys (batch, groups, length, qk) and values (batch, groups, length, vo).

    x (batch, length, H); weights of queries (heads * qk, H), of keys (groups * qk, H) and of values (groups * vo, H),
    and their biases. ``turns`` are the cosine and sine (length, qk / 2), of float32 at least, of the angles by which
    pairs of dimensions of queries and keys are rotated; None where they are not. For tensors of a CPU, outside
    torch.compile. The gradient keeps x alone; what is returned lies in one piece of memory.
    """
    cos, sin = (None, None) if turns is None else (t.contiguous() for t in turns)
    q, k, v = _AttentionInputs.apply(x, *weights, *(biases or (None, None, None)), groups, cos, sin)
    return q, k, v


class _AttentionInputs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        q_bias: Tensor | None,
        k_bias: Tensor | None,
        v_bias: Tensor | None,
        groups: int,
        cos: Tensor | None,
        sin: Tensor | None,
    ) -> Weights:
        low, sizes = low_type(x), [len(q), len(k), len(v)]
        dim = len(k) // groups
        with torch.autocast("cpu", enabled=False):
            rows = x.reshape(-1, x.shape[-1]).to(low).contiguous()
            weight = torch.cat([q, k, v]).to(low)
            if q_bias is None or k_bias is None or v_bias is None:
                made = rows @ weight.mT
            else:
                made = torch.addmm(torch.cat([q_bias, k_bias, v_bias]).to(low), rows, weight.mT)
        made = made.view(*x.shape[:2], sum(sizes))
        if cos is not None and sin is not None:
            _turn_(made[..., : sizes[0] + sizes[1]], dim, cos, sin)
        needs = ctx.needs_input_grad
        ctx.shape, ctx.dtype, ctx.types = x.shape, x.dtype, [t.dtype for t in (q, k, v)]
        ctx.save_for_backward(rows if any(needs[1:4]) else None, weight if needs[0] else None, cos, sin)
        ctx.sizes, ctx.dim = sizes, dim
        heads = (sizes[0] // dim, groups, groups)
        parts = zip(made.split(sizes, dim=-1), heads, strict=True)
        one, two, three = (part.unflatten(-1, (count, -1)).transpose(1, 2) for part, count in parts)
        return one, two, three

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor, dv: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight, cos, sin = ctx.saved_tensors
        sizes, needs = ctx.sizes, ctx.needs_input_grad
        d = dq.new_empty(*ctx.shape[:2], sum(sizes))
        for part, grad in zip(d.split(sizes, dim=-1), (dq, dk, dv), strict=True):
            part.unflatten(-1, (grad.shape[1], -1)).copy_(grad.transpose(1, 2))
        if cos is not None:
            _turn_(d[..., : sizes[0] + sizes[1]], ctx.dim, cos, -sin)
        d = d.flatten(0, 1)
        dx = (d @ weight).view(ctx.shape).to(ctx.dtype) if needs[0] else None
        dweights: list[Tensor | None] = [None, None, None]
        if all(needs[1:4]):
            dweights = list((d.mT @ rows).split(sizes))
        elif any(needs[1:4]):
            parts = zip(needs[1:4], d.split(sizes, dim=1), strict=True)
            dweights = [part.mT @ rows if need else None for need, part in parts]
        found = zip(dweights, ctx.types, strict=True)
        dweights = [None if total is None else total.to(dtype) for total, dtype in found]
        sums = zip(needs[4:7], d.split(sizes, dim=1), ctx.types, strict=True)
        dbiases = [part.sum(0).to(dtype) if need else None for need, part, dtype in sums]
        return dx, *dweights, *dbiases, None, None, None


def _turn_(x: Tensor, dim: int, cos: Tensor, sin: Tensor) -> None:
    """Rotate the heads of x (batch, length, heads * dim) in place, in the type of cos and sin where that is wider."""
    from compressm_cli.ops.rotary import rotate_  # numba, which is slow to import

    heads = x.unflatten(-1, (-1, dim))
    if x.dtype == cos.dtype:
        rotate_(heads, cos, sin)
    else:
        wider = heads.to(cos.dtype, memory_format=torch.contiguous_format)
        rotate_(wider, cos, sin)
        heads.copy_(wider)
