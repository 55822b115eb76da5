"""The readable truth for recurrences with a matrix as state: one step after the other, for any dtype.

Slow and memory-hungry on purpose; ``ssd`` and ``gated_linear`` must match these in output and gradient.
"""

import torch
from torch import Tensor


def ssd_states(x: Tensor, dt: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """All states h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T of ``ssd``, (batch, length, heads, P, N)."""
    heads, groups = x.shape[2], B.shape[2]
    B = B.repeat_interleave(heads // groups, dim=2)
    h = x.new_zeros(x.shape[0], *x.shape[2:], B.shape[-1])
    states = []
    for t in range(x.shape[1]):
        decay, step = torch.exp(dt[:, t] * A)[..., None, None], dt[:, t, :, None, None]
        h = decay * h + step * x[:, t, :, :, None] * B[:, t, :, None, :]
        states.append(h)
    return torch.stack(states, dim=1)


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> Tensor:
    """y_t = h_t C_t + D x_t; shapes as in ``ssd.ssd``."""
    C = C.repeat_interleave(x.shape[2] // C.shape[2], dim=2)
    y = torch.einsum("blhpn,blhn->blhp", ssd_states(x, dt, A, B), C)
    return y if D is None else y + D[:, None] * x


def gla_states(k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """All states h_t = diag(exp(log_decay_t)) h_{t-1} + k_t v_t^T, (batch, length, heads, N, P)."""
    h = k.new_zeros(k.shape[0], k.shape[2], k.shape[3], v.shape[3])
    states = []
    for t in range(k.shape[1]):
        h = torch.exp(log_decay[:, t])[..., None] * h + k[:, t, :, :, None] * v[:, t, :, None, :]
        states.append(h)
    return torch.stack(states, dim=1)


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
    """y_t = h_t^T q_t; shapes as in ``gated_linear.gated_linear_attention``."""
    return torch.einsum("blhnp,blhn->blhp", gla_states(k, v, log_decay), q)
