"""Batch normalization of channels, with gain and bias."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.ops.batch_norm import batch_norm

MOMENTUM = 0.1
"""What the statistics of a batch weigh in the running ones."""
EPS = 1e-5


class ChannelNorm(nn.Module):
    """PyTorch's ``BatchNorm1d`` and ``BatchNorm2d`` (Ioffe and Szegedy 2015) of (batch, channels, *space), in one.

    Its tensors have their names: ``weight`` and ``bias``, ``running_mean`` and ``running_var`` (channels,).
    """

    processes: int = 1
    """How many processes pass the rows of a batch: their statistics are one. Set by the trainer, not saved."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """(batch, channels, *space) -> the same shape; in training by the statistics of the batch, which it keeps."""
        if self.training:
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
        if not self.training or self.processes == 1:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(
                x, mean, variance, self.weight, self.bias, self.training, MOMENTUM, EPS
            )
        y, mean, variance = batch_norm(x.flatten(2).transpose(1, 2), None, EPS, self.processes)
        with torch.no_grad():
            self.running_mean.lerp_(mean, MOMENTUM)
            self.running_var.lerp_(variance, MOMENTUM)
        return (y * self.weight + self.bias).transpose(1, 2).unflatten(2, x.shape[2:]).to(x.dtype)
