"""Normalization of the steps of sequences, also by the statistics of a batch."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from compressm_cli.layers.channel_norm import ChannelNorm
from compressm_cli.ops.batch_norm import batch_norm
from compressm_cli.ops.rms_norm import rms_norm

MOMENTUM = 0.1
"""What the statistics of a batch weigh in the running ones."""


class SequenceNorm(nn.Module):
    """Normalization of (batch, length, H) over batch and time, without affine parameters."""

    processes: int = 1
    """How many processes pass the rows of a batch: their statistics are one. Set by the trainer, not saved."""

    def __init__(self, model_dim: int, epsilon: float) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(model_dim, eps=epsilon, momentum=MOMENTUM, affine=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """real (batch, length), the steps that count, where rows are padded."""
        norm = self.norm
        if not self.training or (real is None and self.processes == 1):
            return norm(x.flatten(0, 1)).view_as(x)
        y, mean, variance = batch_norm(x, real, norm.eps, self.processes)
        with torch.no_grad():
            norm.get_buffer("num_batches_tracked").add_(1)
            norm.get_buffer("running_mean").lerp_(mean, MOMENTUM)
            norm.get_buffer("running_var").lerp_(variance, MOMENTUM)
        return y


class RMSNorm(nn.RMSNorm):
    """PyTorch's, with a faster gradient on CPUs; ``weight`` (H,)."""

    def __init__(self, model_dim: int, epsilon: float) -> None:
        super().__init__(model_dim, eps=epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        assert self.eps is not None
        return rms_norm(x, self.weight, self.eps)


def pool_statistics(model: nn.Module, processes: int) -> None:
    """Let batch normalization count the rows that so many processes pass through the model at once, in training."""
    for module in model.modules():
        if isinstance(module, SequenceNorm | ChannelNorm):
            module.processes = processes


def has_batch_statistics(model: nn.Module) -> bool:
    """Whether what the model does to a row in training depends on the rows beside it."""
    return any(
        isinstance(module, ChannelNorm | nn.modules.batchnorm._BatchNorm) for module in model.modules()
    )


def build_norm(kind: str, model_dim: int, epsilon: float) -> nn.Module:
    """The normalization that a recipe names: layer, rms, batch or none."""
    norms: dict[str, Callable[[], nn.Module]] = {
        "layer": lambda: nn.LayerNorm(model_dim, eps=epsilon),
        "rms": lambda: RMSNorm(model_dim, epsilon),
        "batch": lambda: SequenceNorm(model_dim, epsilon),
        "none": nn.Identity,
    }
    return norms[kind]()


def normalized(norm: nn.Module, x: Tensor, real: Tensor | None) -> Tensor:
    """All but batch normalization look at each step by itself."""
    y: Tensor = norm(x, real) if isinstance(norm, SequenceNorm) else norm(x)
    return y
