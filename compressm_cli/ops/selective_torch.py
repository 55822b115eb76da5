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
    dt_bias: Tensor | None, z: Tensor | None, keep_y: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``selective_cpu.forward``, for any device and floating dtype."""
    if dt_bias is not None:
        dt = functional.softplus(dt + dt_bias)
    y = x.new_zeros(x.shape) if D is None else (D * x).contiguous()
    states = x.new_empty(states_shape(x.shape, A.shape[1]) if keep_states else 0)
    h, exists = x.new_zeros(x.shape[0], *A.shape), _exists(A, kept)
    for t in range(x.shape[1]):
        if keep_states and t % STEPS == 0:
            states[:, t // STEPS] = h
        decay, u = _inputs(x, dt, A, t)
        h = decay * h + u * B[:, t, None] * exists
        y[:, t] += (h * C[:, t, None]).sum(-1)
    if z is None:
        return y, x.new_empty(0), states
    return y * functional.silu(z), (y if keep_y else x.new_empty(0)), states


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """As ``selective_cpu.backward``, for any device and floating dtype."""
    empty, (*_, of_D, of_bias, of_z) = grad.new_empty, needs
    dz = empty(0)
    if z is not None:
        gate = torch.sigmoid(z)
        if of_z:
            dz = grad * y * gate * (1 + z * (1 - gate))
        grad = grad * z * gate
    dx, ddt, dA, dB, dC = (empty(0) for _ in range(5))
    dD, dbias = (grad * x).sum((0, 1)) if of_D else empty(0), empty(0)
    if any(needs[:5]) or of_bias:
        raw, dt = dt, dt if dt_bias is None else functional.softplus(dt + dt_bias)
        dx, ddt, dA, dB, dC = _state_gradients(grad, x, dt, A, B, C, kept, states, needs)
        if D is not None and needs[0]:
            dx += D * grad
        if dt_bias is not None and (needs[1] or of_bias):
            ddt *= torch.sigmoid(raw + dt_bias)
            dbias = ddt.sum((0, 1)) if of_bias else dbias
            ddt = ddt if needs[1] else empty(0)
    return dx, ddt, dA, dB, dC, dD, dbias, dz


def _state_gradients(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor | None, states: Tensor,
    needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Through the states to x, the step sizes (also where their bias's is asked for), A, B and C; else empty."""
    of_x, of_dt, of_A, of_B, of_C, _, of_bias, _ = needs
    of_dt = of_dt or of_bias
    exponents, (batch, length), n = of_dt or of_A, grad.shape[:2], A.shape[1]
    dx, ddt = (grad.new_empty(grad.shape if needed else 0) for needed in (of_x, of_dt))
    dB, dC = (grad.new_empty((batch, length, n) if needed else 0) for needed in (of_B, of_C))
    dA, later = grad.new_zeros(A.shape if of_A else 0), grad.new_zeros(batch, *A.shape)
    exists = _exists(A, kept)
    for chunk in reversed(range(-(-length // STEPS))):
        steps = range(chunk * STEPS, min((chunk + 1) * STEPS, length))
        before: list[Tensor] = []
        if exponents or of_C:
            before = _states_of(steps, states[:, chunk], x, dt, A, B, exists)
        for t in reversed(steps):
            to_y = grad[:, t, :, None]
            if of_C:
                dC[:, t] = (to_y * before[t - steps.start + 1]).sum(1)
            if not (of_x or of_B or exponents):
                continue
            to_h = (later + to_y * C[:, t, None]) * exists
            later = to_h * torch.exp(dt[:, t, :, None] * A)
            if of_B:
                dB[:, t] = (to_h * (dt[:, t] * x[:, t])[..., None]).sum(1)
            if of_x or of_dt:
                to_u = (to_h * B[:, t, None]).sum(-1)
            if of_x:
                dx[:, t] = to_u * dt[:, t]
            if exponents:
                to_exponent = later * before[t - steps.start]
            if of_dt:
                ddt[:, t] = to_u * x[:, t] + (to_exponent * A).sum(-1)
            if of_A:
                dA += (to_exponent * dt[:, t, :, None]).sum(0)
    return dx, ddt, dA, dB, dC


def _states_of(
    steps: range, state: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, exists: Tensor
) -> list[Tensor]:
    """The state before each of the steps, and that after the last."""
    states = [state]
    for t in steps:
        decay, u = _inputs(x, dt, A, t)
        states.append(decay * states[-1] + u * B[:, t, None] * exists)
    return states
