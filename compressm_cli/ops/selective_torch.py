"""The selective scan in plain PyTorch, in chunks, for what has no kernel: float64, and CUDA without Triton."""

import torch
from torch import Tensor
from torch.nn import functional

STEPS = 32
"""Steps a chunk: the backward pass holds all states of one, the forward pass keeps those before each."""


def states_shape(shape: tuple[int, ...], n_states: int) -> tuple[int, ...]:
    batch, length, channels = shape
    return batch, -(-length // STEPS), channels, n_states


def _exists(A: Tensor, kept: Tensor | None) -> Tensor:
    """One for the states that are kept, zero for the others, of the shape of A."""
    if kept is None:
        return torch.ones_like(A)
    return (torch.arange(A.shape[1], device=A.device) < kept[:, None]).to(A.dtype)


def _inputs(x: Tensor, dt: Tensor, A: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """Of step t: decays (batch, channels, N) and dt x (batch, channels, 1)."""
    return torch.exp(dt[:, t, :, None] * A), (dt[:, t] * x[:, t])[..., None]


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, save: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``selective_cpu.forward``, for any device and floating dtype."""
    if dt_bias is not None:
        dt = functional.softplus(dt + dt_bias)
    y = x.new_zeros(x.shape) if D is None else (D * x).contiguous()
    states = x.new_empty(states_shape(x.shape, A.shape[1]) if save else 0)
    h, exists = x.new_zeros(x.shape[0], *A.shape), _exists(A, kept)
    for t in range(x.shape[1]):
        if save and t % STEPS == 0:
            states[:, t // STEPS] = h
        decay, u = _inputs(x, dt, A, t)
        h = decay * h + u * B[:, t, None] * exists
        y[:, t] += (h * C[:, t, None]).sum(-1)
    if z is None:
        return y, x.new_empty(0), states
    return y * functional.silu(z), (y if save else x.new_empty(0)), states


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor,
) -> tuple[Tensor, ...]:  # fmt: skip
    """As ``selective_cpu.backward``, for any device and floating dtype."""
    dz = x.new_empty(0)
    if z is not None:
        gate = torch.sigmoid(z)
        dz, grad = grad * y * gate * (1 + z * (1 - gate)), grad * z * gate
    raw, dt = dt, dt if dt_bias is None else functional.softplus(dt + dt_bias)
    dx, ddt, dB, dC = (t.new_empty(t.shape) for t in (x, dt, B, C))
    dA, later, exists = torch.zeros_like(A), x.new_zeros(x.shape[0], *A.shape), _exists(A, kept)
    for chunk in reversed(range(states.shape[1])):
        steps = range(chunk * STEPS, min((chunk + 1) * STEPS, x.shape[1]))
        before = [states[:, chunk]]
        for t in steps:
            decay, u = _inputs(x, dt, A, t)
            before.append(decay * before[-1] + u * B[:, t, None] * exists)
        for t in reversed(steps):
            decay, u = _inputs(x, dt, A, t)
            to_y = grad[:, t, :, None]
            dC[:, t] = (to_y * before.pop()).sum(1)
            to_h = (later + to_y * C[:, t, None]) * exists
            dB[:, t], to_u = (to_h * u).sum(1), (to_h * B[:, t, None]).sum(-1)
            later = to_h * decay
            to_exponent = later * before[-1]
            dx[:, t] = to_u * dt[:, t]
            ddt[:, t] = to_u * x[:, t] + (to_exponent * A).sum(-1)
            dA += (to_exponent * dt[:, t, :, None]).sum(0)
    dD = (grad * x).sum((0, 1))
    if D is not None:
        dx += D * grad
    if dt_bias is not None:
        ddt *= torch.sigmoid(raw + dt_bias)
    return dx, ddt, dA, dB, dC, dD, ddt.sum((0, 1)), dz
