"""Dropout whose mask is a function of a seed: nothing is stored for the backward pass, and no generator is waited for.

PyTorch's own on the CPU draws one number after the other in one thread, which took an eighth of a training step.
"""

import numba
import numpy as np
import torch
from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import over_parts

BLOCK = 1 << 16
"""Entries that share a hashed seed; a multiple of every vector length."""


@numba.njit(inline="always")
def _mix(h):  # type: ignore[no-untyped-def]
    # C. Wellons' "lowbias32" finalizer: each bit of the input flips each bit of the output with probability near 1/2.
    h = np.uint32(h ^ (h >> np.uint32(16)))
    h = np.uint32(h * np.uint32(0x7FEB352D))
    h = np.uint32(h ^ (h >> np.uint32(15)))
    h = np.uint32(h * np.uint32(0x846CA68B))
    return np.uint32(h ^ (h >> np.uint32(16)))


@compiled()
def _drop(x, low, high, limit, scale, first, last):  # type: ignore[no-untyped-def]
    for block in range(first, last):
        start = block * BLOCK
        seed = _mix(np.uint32(_mix(np.uint32(np.uint32(block) ^ low)) ^ high))
        part = x[start : min(start + BLOCK, x.shape[0])]
        for i in range(part.shape[0]):
            drawn = _mix(np.uint32(np.uint32(i) + seed))
            part[i] = part[i] * scale if drawn >= limit else part[i] * 0


def draw_seed() -> int:
    """A seed from PyTorch's default generator, so that a run's random state decides its masks."""
    return int(torch.randint(0, 2**62, ()))


def dropout_(x: Tensor, p: float, seed: int) -> Tensor:
    """Zero each entry of a contiguous CPU tensor with probability p and divide the others by 1 - p, in place.

    The same seed drops the same entries, whatever the number of threads.
    """
    if x.dtype not in (torch.float32, torch.float64):
        return x.mul_(dropout_(torch.ones_like(x, dtype=torch.float32), p, seed))
    flat = x.view(-1).numpy()
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    limit, scale = np.uint32(min(round(p * 2**32), 2**32 - 1)), flat.dtype.type(1 / (1 - p))
    over_parts(_drop, -(-len(flat) // BLOCK), flat, low, high, limit, scale)
    return x
