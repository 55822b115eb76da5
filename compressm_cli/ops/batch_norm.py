"""Batch normalization whose statistics count the real steps of padded rows alone, and those of all processes."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm_cli.ops.parallel import runs_eagerly_on_cpu


def batch_norm(
    x: Tensor, real: Tensor | None, eps: float, processes: int = 1
) -> tuple[Tensor, Tensor, Tensor]:
    """``(x - mean) / sqrt(variance + eps)`` with the mean and variance of each feature over the real steps.

    x (batch, length, H); real (batch, length) bool, None where all steps are. With several ``processes``, all those of
    torch's default group, the statistics are those of all their steps, and passes forward and backward are collective.
    Returns y (batch, length, H), zero at steps that are not real, and the mean and the unbiased variance (H,), through
    which no gradient goes. Sums are taken in float32 at least. ValueError for a single step, which has no variance,
    where that is known without waiting for a device; else the variance is not a number.
    """
    y, mean, variance, count = _BatchNorm.apply(x, real, eps, processes)
    if runs_eagerly_on_cpu(count) and int(count) < 2:
        raise ValueError(
            "batch normalization in training mode needs more than one step; give it a larger batch"
        )
    return y, mean, variance


@torch.library.custom_op("compressm::of_all_processes", mutates_args=())
def of_all_processes(own: Tensor, processes: int) -> Tensor:
    """(processes, n): everybody's tensor (n,), by rank; collective."""
    found = own.new_empty(processes, len(own))
    dist.all_gather(list(found), own.contiguous())
    return found


@of_all_processes.register_fake
def _(own: Tensor, processes: int) -> Tensor:
    return own.new_empty(processes, len(own))


def _wide(x: Tensor, real: Tensor | None, mean: Tensor | None = None) -> Tensor:
    """x minus a mean, in float32 at least, and zero at steps that are not real, whatever is there."""
    x = x if x.dtype == torch.float64 else x.float()
    x = x if mean is None else x - mean
    return x if real is None else x.where(real[..., None], 0.0)


class _BatchNorm(torch.autograd.Function):
    """Keeps x alone for the backward pass, as PyTorch's own does, and nothing where x needs no gradient."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, real: Tensor | None, eps: float, processes: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = _wide(x, real)
        steps = x.new_ones(x.shape[:2], dtype=torch.bool) if real is None else real
        count = steps.sum(dtype=torch.float64)
        mean = wide.sum((0, 1)) / count.clamp_min(1.0).to(wide.dtype)
        squares = _wide(x, real, mean).square().sum((0, 1))
        if processes > 1:
            count, mean, squares = _pooled(count, mean, squares, processes)
        variance, unbiased = (squares / n.to(squares.dtype) for n in (count, count - 1.0))
        scale = torch.rsqrt(variance + eps)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(x, real, mean, scale, count)
        ctx.processes = processes
        ctx.mark_non_differentiable(mean, unbiased, count)
        return (_wide(x, real, mean) * scale).to(x.dtype), mean, unbiased, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        x, real, mean, scale, count = ctx.saved_tensors
        dy, y = _wide(grad, real), _wide(x, real, mean) * scale
        sums = torch.cat([dy.sum((0, 1)), (dy * y).sum((0, 1))])
        if ctx.processes > 1:
            sums = of_all_processes(sums.double(), ctx.processes).sum(0).to(dy.dtype)
        constant, slope = (sums / count.to(sums.dtype)).chunk(2)
        return _wide((dy - constant - y * slope) * scale, real).to(x.dtype), None, None, None


def _pooled(count: Tensor, mean: Tensor, squares: Tensor, processes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations from it over all processes: in all of them to the same bits."""
    own = torch.cat([count[None], mean.double(), squares.double()])
    counts, means, deviations = of_all_processes(own, processes).split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    center = (counts * means).sum(0) / total
    deviation = (deviations + counts * (means - center).square()).sum(0)
    return total, center.to(mean.dtype), deviation.to(mean.dtype)
