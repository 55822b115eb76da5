"""The states of a selective scan themselves, a piece of time at a time: for measurements, without gradients."""

import math

import torch
from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import over_parts, runs_eagerly_on_cpu

_NEGLIGIBLE = 1e-30
"""States below this are set to zero: arithmetic on denormal numbers is many times slower."""


@compiled()
def _advance(out, h, dt, drive, A, B, scale, first, last):  # type: ignore[no-untyped-def]
    for b in range(first, last):
        for t in range(out.shape[1]):
            for d in range(h.shape[1]):
                step, u, s = dt[b, t, d], drive[b, t, d], scale[b, t, d]
                for n in range(h.shape[2]):
                    value = math.exp(step * A[d, n]) * h[b, d, n] + u * B[b, t, n]
                    if abs(value) < _NEGLIGIBLE:
                        value = 0.0
                    h[b, d, n] = value
                    out[b, t, d, n] = s * value


def scaled_states(h: Tensor, dt: Tensor, drive: Tensor, A: Tensor, B: Tensor, scale: Tensor) -> Tensor:
    """``scale_t[d] h_t[d]`` (batch, steps, D, N), h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + drive_t[d] B_t[n].

    h (batch, D, N), the state before, becomes the state after the last step. dt, drive and scale (batch, steps, D), A
    (D, N), B (batch, steps, N); all float64.
    """
    if runs_eagerly_on_cpu(h):
        out = h.new_empty(*dt.shape, h.shape[2])
        given = (t.contiguous().numpy() for t in (dt, drive, A, B, scale))
        over_parts(_advance, h.shape[0], out.numpy(), h.numpy(), *given)
        return out
    states = []
    for t in range(dt.shape[1]):
        h.mul_(torch.exp(dt[:, t, :, None] * A)).add_(drive[:, t, :, None] * B[:, t, None, :])
        states.append(scale[:, t, :, None] * h)
    return torch.stack(states, dim=1)
