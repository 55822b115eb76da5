"""The selective scan as Triton kernels, for CUDA; importing this imports Triton.

A program has a block of channels of one sequence and goes through time in chunks; within a chunk the steps of one
state are scanned in parallel, one state after the other. Channels are sorted by how many states they keep: a program
stops at the most that one of its channels has. The states before each chunk go through memory, where the backward pass
finds them; nothing depends on the order in which programs run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from compressm_cli.ops.parallel import last_contiguous

STEPS = 64
"""Steps a chunk: an estimate."""
LANES = 16
"""Channels a program: an estimate. Gradients to B and C are summed over programs afterwards."""


@triton.jit
def _then(decay, into, later_decay, later_into):  # type: ignore[no-untyped-def]
    return decay * later_decay, into * later_decay + later_into


@triton.jit
def _softplus(raw):  # type: ignore[no-untyped-def]
    e = tl.exp(-tl.abs(raw))
    # log(1 + e) = 2 artanh(s) by its series, exact for float64 at s = 1/3, the largest: 1 + e would lose a small e.
    s = e / (2 + e)
    series = tl.zeros_like(s)
    for k in tl.static_range(16):
        series = series * s * s + 2.0 / (31 - 2 * k)
    return tl.maximum(raw, 0.0) + s * series


@triton.jit
def _tile(pointer, batch_stride, step_stride, t, channel, mask):  # type: ignore[no-untyped-def]
    at = tl.program_id(1).to(tl.int64) * batch_stride + t[:, None] * step_stride + channel[None, :]
    return tl.load(pointer + at, mask=mask, other=0.0)


@triton.jit
def _step_sizes(  # type: ignore[no-untyped-def]
    dt, bias, batch_stride, step_stride, t, channel, mask, GATED: tl.constexpr
):
    # As given or, gated, what softplus makes them from, and the step sizes; these are zero where there is no step.
    raw = _tile(dt, batch_stride, step_stride, t, channel, mask)
    sizes = raw
    if GATED:
        raw += bias[None, :]
        sizes = tl.where(mask, _softplus(raw), 0.0)
    return raw, sizes


@triton.jit
def _channels(order, kept, channels, n_states, SORTED: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    # This program's channels, whether they are there, how many states they have.
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    valid = lane < channels
    if SORTED:
        channel = tl.load(order + lane, mask=valid, other=0)
        owned = tl.minimum(tl.load(kept + channel, mask=valid, other=0), n_states).to(tl.int32)
    else:
        channel = lane.to(tl.int64)
        owned = tl.where(valid, n_states, 0)
    return channel, valid, owned


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, dt, A, B, C, D, dt_bias, z, order, kept, out, y, states, length, channels, n_states,
    x_batch, x_step, dt_batch, dt_step, B_batch, B_step, C_batch, C_step, z_batch, z_step,
    GATED: tl.constexpr, SORTED: tl.constexpr, KEEP_Y: tl.constexpr, SAVE: tl.constexpr,
    STEPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    channel, valid, owned = _channels(order, kept, channels, n_states, SORTED, LANES)
    row = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(length, STEPS)
    most = tl.max(owned)
    skip = tl.load(D + channel, mask=valid, other=0.0)
    bias = tl.load(dt_bias + channel, mask=valid, other=0.0) if GATED else skip
    for chunk in range(chunks):
        step = tl.arange(0, STEPS)
        t = (chunk * STEPS + step).to(tl.int64)
        inside = t < length
        mask = inside[:, None] & valid[None, :]
        x_t = _tile(x, x_batch, x_step, t, channel, mask)
        _, sizes = _step_sizes(dt, bias, dt_batch, dt_step, t, channel, mask, GATED)
        total = skip[None, :] * x_t
        for n in range(most):
            has = n < owned
            rate = tl.load(A + channel * n_states + n, mask=has, other=0.0)
            B_t = tl.load(B + row * B_batch + t * B_step + n, mask=inside, other=0.0)
            C_t = tl.load(C + row * C_batch + t * C_step + n, mask=inside, other=0.0)
            # Saved, each chunk has its states; else there is place for those of one.
            here = states + ((row * chunks + chunk if SAVE else row) * n_states + n) * channels + channel
            before = tl.load(here, mask=has & (chunk > 0), other=0.0)
            into = tl.where(has[None, :], sizes * x_t * B_t[:, None], 0.0)
            decay, h = tl.associative_scan((tl.exp(sizes * rate[None, :]), into), 0, _then)
            h += decay * before[None, :]
            total += h * C_t[:, None]
            end = tl.sum(tl.where(step[:, None] == STEPS - 1, h, 0.0), 0)
            after = here
            if SAVE:
                after += n_states * channels
            else:
                # Every thread has read the states before one writes them.
                tl.debug_barrier()
            tl.store(after, end, mask=has & (chunk + 1 < chunks))
        # The next chunk's threads read the states that this one's have written.
        tl.debug_barrier()
        to = (row * length + t[:, None]) * channels + channel[None, :]
        if GATED:
            if KEEP_Y:
                tl.store(y + to, total, mask=mask)
            z_t = _tile(z, z_batch, z_step, t, channel, mask)
            total *= z_t / (1 + tl.exp(-z_t))
        tl.store(out + to, total, mask=mask)


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, x, dt, A, B, C, D, dt_bias, z, order, kept, y, states, carry, dx, ddt, dA, dB, dC, dD, dbias, dz,
    length, channels, n_states,
    x_batch, x_step, dt_batch, dt_step, B_batch, B_step, C_batch, C_step, z_batch, z_step,
    OF_X: tl.constexpr, OF_DT: tl.constexpr, OF_A: tl.constexpr, OF_B: tl.constexpr, OF_C: tl.constexpr,
    OF_D: tl.constexpr, OF_BIAS: tl.constexpr, OF_Z: tl.constexpr,
    GATED: tl.constexpr, SORTED: tl.constexpr, STEPS: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    OF_SIZES: tl.constexpr = OF_DT or OF_BIAS
    OF_EXPONENTS: tl.constexpr = OF_SIZES or OF_A
    OF_STATES: tl.constexpr = OF_EXPONENTS or OF_X or OF_B
    PASTS: tl.constexpr = OF_EXPONENTS or OF_C
    RECURRENT: tl.constexpr = OF_STATES or OF_C
    READ_X: tl.constexpr = PASTS or OF_B or OF_D
    channel, valid, owned = _channels(order, kept, channels, n_states, SORTED, LANES)
    row = tl.program_id(1).to(tl.int64)
    chunks = tl.cdiv(length, STEPS)
    most = tl.max(owned)
    skip = tl.load(D + channel, mask=valid, other=0.0)
    bias = tl.load(dt_bias + channel, mask=valid, other=0.0) if GATED and RECURRENT else skip
    skip_grad = tl.zeros_like(skip)
    bias_grad = tl.zeros_like(skip)
    for back in range(chunks):
        chunk = chunks - 1 - back
        step = tl.arange(0, STEPS)
        t = (chunk * STEPS + step).to(tl.int64)
        inside = t < length
        mask = inside[:, None] & valid[None, :]
        to = (row * length + t[:, None]) * channels + channel[None, :]
        grad_t = tl.load(grad + to, mask=mask, other=0.0)
        if READ_X:
            x_t = _tile(x, x_batch, x_step, t, channel, mask)
        if GATED:
            z_t = _tile(z, z_batch, z_step, t, channel, mask)
            gate = 1 / (1 + tl.exp(-z_t))
            if OF_Z:
                y_t = tl.load(y + to, mask=mask, other=0.0)
                tl.store(dz + to, grad_t * y_t * gate * (1 + z_t * (1 - gate)), mask=mask)
            grad_t *= z_t * gate
        if RECURRENT:
            raw, sizes = _step_sizes(dt, bias, dt_batch, dt_step, t, channel, mask, GATED)
            du = tl.zeros_like(grad_t)
            to_sizes = tl.zeros_like(grad_t)
        if READ_X and RECURRENT:
            u = sizes * x_t
        if PASTS:
            has_past = inside & (step > 0)
            past_mask = has_past[:, None] & valid[None, :]
            _, sizes_past = _step_sizes(dt, bias, dt_batch, dt_step, t - 1, channel, past_mask, GATED)
            u_past = sizes_past * _tile(x, x_batch, x_step, t - 1, channel, past_mask)
        if OF_STATES:
            next_mask = (t + 1 < length)[:, None] & valid[None, :]
            _, sizes_next = _step_sizes(dt, bias, dt_batch, dt_step, t + 1, channel, next_mask, GATED)
        for n in range(most):
            has = n < owned
            rate = tl.load(A + channel * n_states + n, mask=has, other=0.0)
            sums_at = ((tl.program_id(0) * tl.num_programs(1) + row) * length + t) * n_states + n
            if PASTS or OF_X:
                B_at = B + row * B_batch + t * B_step + n
                B_t = tl.load(B_at, mask=inside, other=0.0)
            if PASTS:
                B_past = tl.load(B_at - B_step, mask=has_past, other=0.0)
                before_at = states + ((row * chunks + chunk) * n_states + n) * channels + channel
                before = tl.load(before_at, mask=has & (chunk > 0), other=0.0)
                # decay_t h_{t-1} is a recurrence of its own: taking u_t B_t from h_t would lose what is small
                # beside it.
                decay = tl.exp(sizes * rate[None, :])
                into = tl.where(has[None, :], decay * u_past * B_past[:, None], 0.0)
                decays, past = tl.associative_scan((decay, into), 0, _then)
                past += decays * before[None, :]
            if OF_C:
                h = past + tl.where(has[None, :], u * B_t[:, None], 0.0)
                tl.store(dC + sums_at, tl.sum(grad_t * h, 1), mask=inside)
            if OF_STATES:
                # Against time: to_h_t = grad_t C_t + decay_{t+1} to_h_{t+1}.
                C_t = tl.load(C + row * C_batch + t * C_step + n, mask=inside, other=0.0)
                from_y = tl.where(has[None, :], grad_t * C_t[:, None], 0.0)
                decays, to_h = tl.associative_scan(
                    (tl.exp(sizes_next * rate[None, :]), from_y), 0, _then, reverse=True
                )
                carry_at = carry + (row * n_states + n) * channels + channel
                to_h += decays * tl.load(carry_at, mask=has, other=0.0)[None, :]
                if OF_X or OF_SIZES:
                    du += to_h * B_t[:, None]
                if OF_EXPONENTS:
                    to_exponent = to_h * past
                if OF_SIZES:
                    to_sizes += to_exponent * rate[None, :]
                if OF_B:
                    tl.store(dB + sums_at, tl.sum(to_h * u, 1), mask=inside)
                if OF_A:
                    rate_at = dA + (row * n_states + n) * channels + channel
                    rate_grad = tl.load(rate_at, mask=has, other=0.0) + tl.sum(to_exponent * sizes, 0)
                # As in the forward pass.
                tl.debug_barrier()
                if OF_A:
                    tl.store(rate_at, rate_grad, mask=has)
                tl.store(carry_at, tl.sum(tl.where(step[:, None] == 0, to_h, 0.0), 0), mask=has)
        tl.debug_barrier()
        if OF_SIZES:
            to_sizes += du * x_t
            if GATED:
                to_sizes *= 1 / (1 + tl.exp(-raw))
                bias_grad += tl.sum(to_sizes, 0)
        if OF_D:
            skip_grad += tl.sum(grad_t * x_t, 0)
        if OF_X:
            tl.store(dx + to, du * sizes + skip[None, :] * grad_t, mask=mask)
        if OF_DT:
            tl.store(ddt + to, to_sizes, mask=mask)
    if OF_D:
        tl.store(dD + row * channels + channel, skip_grad, mask=valid)
    if OF_BIAS:
        tl.store(dbias + row * channels + channel, bias_grad, mask=valid)


def states_shape(shape: tuple[int, ...], n_states: int) -> tuple[int, ...]:
    """Of the states kept for the backward pass: those before each chunk, of the first chunk anything."""
    batch, length, channels = shape
    return batch, triton.cdiv(length, STEPS), n_states, channels


def _launch(
    kernel: Any,
    shape: torch.Size,
    n_states: int,
    tensors: list[Tensor],
    strides: list[int],
    **constants: bool,
) -> None:
    """One program for each block of channels and row."""
    batch, length, channels = shape
    if 0 in shape:
        return
    with torch.cuda.device_of(tensors[0]):
        grid = (triton.cdiv(channels, LANES), batch)
        kernel[grid](*tensors, length, channels, n_states, *strides, **constants, STEPS=STEPS, LANES=LANES)


def _arguments(
    channels: int, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    kept: Tensor | None, dt_bias: Tensor | None, z: Tensor | None,
) -> tuple[list[Tensor], list[int]]:  # fmt: skip
    """What both kernels start with; x in the place of what is not there and not looked at."""
    D = x.new_zeros(channels) if D is None else D.contiguous()
    order = x if kept is None else torch.argsort(kept, descending=True, stable=True)
    x, dt, B, C, z = (last_contiguous(t) for t in (x, dt, B, C, x if z is None else z))
    strides = [s for t in (x, dt, B, C, z) for s in (t.stride()[:2] if t.ndim == 3 else (0, 0))]
    bias = x if dt_bias is None else dt_bias.contiguous()
    return [x, dt, A.contiguous(), B, C, D, bias, z, order, x if kept is None else kept.contiguous()], strides


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, keep_y: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """As ``selective_cpu.forward``, for CUDA tensors of float32 or float64."""
    shape = states_shape(x.shape, A.shape[1])
    out = x.new_empty(x.shape)
    y = x.new_empty(x.shape if keep_y else 0)
    states = x.new_empty(shape if keep_states else (shape[0], *shape[2:]))
    inputs, strides = _arguments(x.shape[2], x, dt, A, B, C, D, kept, dt_bias, z)
    constants = {"GATED": z is not None, "SORTED": kept is not None, "KEEP_Y": keep_y, "SAVE": keep_states}
    _launch(_forward_kernel, x.shape, A.shape[1], [*inputs, out, y, states], strides, **constants)
    return out, y, states if keep_states else x.new_empty(0)


ASKED = ("OF_X", "OF_DT", "OF_A", "OF_B", "OF_C", "OF_D", "OF_BIAS", "OF_Z")
"""The kernel's names of ``needs``."""


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """As ``selective_cpu.backward``, for CUDA tensors of float32 or float64."""
    (batch, length, channels), n_states = grad.shape, A.shape[1] if A.ndim == 2 else 0
    asked = dict(zip(ASKED, needs, strict=True))
    of_states = any(needs[:4]) or asked["OF_BIAS"]
    dx, ddt, dz = (grad.new_empty(grad.shape if asked[n] else 0) for n in ("OF_X", "OF_DT", "OF_Z"))
    by_state = (batch, n_states, channels)
    carry, dA = (grad.new_zeros(by_state if n else (0, 0, 0)) for n in (of_states, asked["OF_A"]))
    sums = (triton.cdiv(channels, LANES), batch, length, n_states)
    dB, dC = (grad.new_zeros(sums) if n else grad.new_empty(0, 0) for n in needs[3:5])
    dD, dbias = (grad.new_zeros(batch, channels) if n else grad.new_empty(0, 0) for n in needs[5:7])
    inputs, strides = _arguments(channels, x, dt, A, B, C, D, kept, dt_bias, z)
    tensors = [grad.contiguous(), *inputs, y, states, carry, dx, ddt, dA, dB, dC, dD, dbias, dz]
    constants = {**asked, "GATED": z is not None, "SORTED": kept is not None}
    _launch(_backward_kernel, grad.shape, n_states, tensors, strides, **constants)
    dA = dA.sum(0).T.contiguous() if asked["OF_A"] else grad.new_empty(0)
    return dx, ddt, dA, dB.sum(0), dC.sum(0), dD.sum(0), dbias.sum(0), dz
