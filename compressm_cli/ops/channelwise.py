"""The selective scan with B and C of each channel's own: for comparison with reductions that need it."""

import torch
from torch import Tensor


def channelwise_selective_scan(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
    """``ops.selective_scan`` with B and C (batch, length, channels, N): (batch, length, channels).

    In plain PyTorch, a step at a time, differentiable by autograd, which keeps all states: four times N numbers
    a step and channel have to be read and written, so it is slower than the full scan that shares B and C.
    """
    x, dt, B, C = (value.to(A.dtype) for value in (x, dt, B, C))
    decay, drive = torch.exp(dt[..., None] * A), (dt * x)[..., None] * B
    h = torch.zeros_like(drive[:, 0])
    outputs = []
    for t in range(x.shape[1]):
        h = decay[:, t] * h + drive[:, t]
        outputs.append((h * C[:, t]).sum(-1))
    return torch.stack(outputs, dim=1) + D * x
