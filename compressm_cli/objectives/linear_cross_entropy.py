"""The cross-entropy of a head with many classes, whose scores are never all in memory."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm_cli.core.gradients import GradientSum, is_autocast, low_type

ENTRIES_AT_ONCE = 1 << 24
"""Scores in a part of the rows."""
LEAST_ROWS = 16


def linear_cross_entropy(
    x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore: int = -100
) -> Tensor:
    """The sum over the rows of ``-log softmax(weight x + bias)[label]`` in nats, in float32 at least.

    x (..., H), weight (classes, H), bias (classes,), labels (...), ``ignore`` where nothing is scored. The gradients
    are computed along with the loss, a part of the rows at a time, so that of the scores (rows, classes) never more
    than a part is there, and the three matrix products are those of the definition.
    """
    return _LinearCrossEntropy.apply(x.flatten(0, -2), weight, bias, labels.flatten(), ignore)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, ignore: int
    ) -> Tensor:
        need_x, need_weight, need_bias, *_ = ctx.needs_input_grad
        low = low_type(x)
        dx = torch.empty_like(x) if need_x else None
        dweight = GradientSum(weight, *weight.shape) if need_weight else None
        dbias = GradientSum(weight, len(weight)) if need_bias else None
        total = x.new_zeros((), dtype=torch.promote_types(x.dtype, torch.float32))
        with torch.autocast(x.device.type, enabled=False) if is_autocast(x.device) else nullcontext():
            rows, matrix = x.to(low), weight.to(low)
            shift = None if bias is None else bias.to(low)
            step = max(LEAST_ROWS, ENTRIES_AT_ONCE // len(weight))
            for first in range(0, len(rows), step):
                part = slice(first, first + step)
                row, label = rows[part], labels[part]
                scores = row @ matrix.mT if shift is None else torch.addmm(shift, row, matrix.mT)
                loss, gradient = _scored(scores.to(total.dtype), label, ignore)
                total += loss
                if not (need_x or need_weight or need_bias):
                    continue
                d = gradient().to(low)
                if dx is not None:
                    dx[part] = d @ matrix
                if dweight is not None:
                    dweight.product(d, row)
                if dbias is not None:
                    dbias.rows(d)
        ctx.save_for_backward(
            dx, None if dweight is None else dweight.value, None if dbias is None else dbias.value
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        found = [None if d is None else d * grad.to(d.dtype) for d in ctx.saved_tensors]
        return (*found, None, None)


def _scored(scores: Tensor, labels: Tensor, ignore: int) -> tuple[Tensor, Callable[[], Tensor]]:
    """The loss of some rows, and what gives its gradient to the scores (rows, classes), which are used up then."""
    scored = labels != ignore
    index = labels.where(scored, 0)[:, None]
    logs = scores.logsumexp(dim=1, keepdim=True)
    loss = (logs - scores.gather(1, index))[:, 0].where(scored, 0.0).sum()

    def gradient() -> Tensor:
        d = scores.sub_(logs).exp_()
        d.scatter_add_(1, index, d.new_full((), -1.0).expand_as(index))
        return d.mul_(scored[:, None])

    return loss, gradient
