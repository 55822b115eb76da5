"""Steps of recurrences as CPU kernels: compiled by numba, parallel over the batch, or over the channels of few rows.

States of a selective scan lie by blocks of ``LANES`` channels, (batch, blocks, N, LANES), so that a step reads and
writes them once and in order; what it costs grows with N alone.
"""

import math
from typing import Any

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import flat, over_parts, parts_a_row
from compressm_cli.ops.simd import (
    LANES,
    LOG2_E,
    exp2_of_product,
    load,
    load_same,
    same,
    sigmoid,
    softplus,
    store,
)

ENTRIES_A_THREAD = 1 << 15
"""Of the states, below which another thread costs more than it saves."""


@numba.njit(forceinline=True)
def _padded(array, at, count, scratch):  # type: ignore[no-untyped-def]
    # The last numbers of a row, with zeros behind: beyond may be the end of the array.
    for i in range(LANES):
        scratch[i] = array[at + i] if i < count else np.float32(0.0)


@numba.njit(forceinline=True)
def _advance(  # type: ignore[no-untyped-def]
    x, at_x, dt_raw, at_raw, z, at_z, y, at_y, sizes, B, at_B, C, at_C, c, bias, A, exists, D, h, at
):
    # One vector of channels, from c on.
    states, own = sizes[1], c * sizes[1]
    now, gate = load(x, at_x), load(z, at_z)
    dt = softplus(load(dt_raw, at_raw) + load(bias, c))
    u, out = dt * now, load(D, c) * now
    dt = dt * same(LOG2_E)
    for n in range(states):
        i = n * LANES
        entering = u * load_same(B, at_B + n)
        if len(exists):
            entering = entering * load(exists, own + i)
        state = exp2_of_product(dt, load(A, own + i)) * load(h, at + i) + entering
        store(h, at + i, state)
        out = out + state * load_same(C, at_C + n)
    store(y, at_y, out * gate * sigmoid(gate))


# Of single precision. dt is what softplus makes of dt_raw and the bias; y is the output behind the gate. Strides are
# those of rows, then those of steps, of x, dt_raw, z, B and C. A block of channels goes through all steps of its row.
@compiled()
def _selective_steps(  # type: ignore[no-untyped-def]
    sizes, strides, ends, x, dt_raw, z, B, C, bias, A, exists, D, h, y, first, last
):
    channels, states, length, groups = sizes
    blocks, whole = (channels + LANES - 1) // LANES, channels // LANES
    part_x, part_raw = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    part_z = np.zeros(LANES, np.float32)
    for part in range(first, last):
        row, group = part // groups, part % groups
        for block in range(blocks * group // groups, blocks * (group + 1) // groups):
            c = block * LANES
            at_h = (row * blocks + block) * LANES * states
            for t in range(ends[row]):
                at_x, at_raw = row * strides[0] + t * strides[5] + c, row * strides[1] + t * strides[6] + c
                at_z, at_y = row * strides[2] + t * strides[7] + c, (row * length + t) * channels + c
                at_B, at_C = row * strides[3] + t * strides[8], row * strides[4] + t * strides[9]
                if block < whole:
                    _advance(
                        x, at_x, dt_raw, at_raw, z, at_z, y, at_y, sizes,
                        B, at_B, C, at_C, c, bias, A, exists, D, h, at_h,
                    )  # fmt: skip
                    continue
                count = channels - c
                _padded(x, at_x, count, part_x)
                _padded(dt_raw, at_raw, count, part_raw)
                _padded(z, at_z, count, part_z)
                _advance(
                    part_x, 0, part_raw, 0, part_z, 0, part_x, 0, sizes,
                    B, at_B, C, at_C, c, bias, A, exists, D, h, at_h,
                )  # fmt: skip
                for i in range(count):
                    y[at_y + i] = part_x[i]


@compiled()
def _selective_steps_double(  # type: ignore[no-untyped-def]
    sizes, strides, ends, x, dt_raw, z, B, C, bias, A, exists, D, h, y, first, last
):
    channels, states, length, groups = sizes
    blocks = (channels + LANES - 1) // LANES
    for part in range(first, last):
        row, group = part // groups, part % groups
        start, end = blocks * group // groups * LANES, blocks * (group + 1) // groups * LANES
        for c in range(start, min(end, channels)):
            own = c // LANES * states * LANES + c % LANES
            at = own + row * blocks * states * LANES
            for t in range(ends[row]):
                raw = dt_raw[row * strides[1] + t * strides[6] + c] + bias[c]
                dt = max(raw, 0.0) + math.log1p(math.exp(-abs(raw)))
                now = x[row * strides[0] + t * strides[5] + c]
                out = D[c] * now
                at_B, at_C = row * strides[3] + t * strides[8], row * strides[4] + t * strides[9]
                for n in range(states):
                    i = n * LANES
                    entering = dt * now * B[at_B + n]
                    if len(exists):
                        entering *= exists[own + i]
                    h[at + i] = math.exp(dt * A[own + i]) * h[at + i] + entering
                    out += h[at + i] * C[at_C + n]
                gate = z[row * strides[2] + t * strides[7] + c]
                y[(row * length + t) * channels + c] = out * gate / (1.0 + math.exp(-gate))


def _over_rows(
    kernel: Any, sizes: tuple[int, ...], batch: int, blocks: int, entries: int, *rest: Any
) -> None:
    """The kernel over parts of rows; how many a row has goes behind ``sizes``, its first argument."""
    if entries < 2 * ENTRIES_A_THREAD:
        kernel((*sizes, 1), *rest, 0, batch)
        return
    groups = parts_a_row(batch, blocks)
    over_parts(kernel, batch * groups, (*sizes, groups), *rest)


def selective_step(
    x: Tensor, dt_raw: Tensor, z: Tensor, B: Tensor, C: Tensor, weights: tuple[NDArray[Any], ...], h: Tensor
) -> Tensor:
    """One step of ``selective_scan_gated`` for CPU tensors of one floating type, float32 or float64.

    x, dt_raw and z (batch, channels), B and C (batch, N), h (batch, blocks, N, LANES). The weights are the bias of the
    step sizes (blocks * LANES,), A and where states exist (blocks, N, LANES), empty where all do, and D (blocks *
    LANES,). Returns (batch, channels).
    """
    given = [t if t.stride(1) == 1 else t.contiguous() for t in (x, dt_raw, z, B, C)]
    strides = (*(t.stride(0) for t in given), 0, 0, 0, 0, 0)
    return _selective(given, strides, np.ones(len(x), np.int64), 1, weights, h, x.new_empty(x.shape))


def selective_steps(
    x: Tensor, ends: Tensor, dt_raw: Tensor, z: Tensor, B: Tensor, C: Tensor, weights: tuple[NDArray[Any], ...],
    h: Tensor,
) -> Tensor:  # fmt: skip
    """``selective_step`` for each real step of x (batch, length, channels), of which row b has ends[b].

    The outputs at padded steps are zero.
    """
    given = [t if t.stride(2) == 1 else t.contiguous() for t in (x, dt_raw, z, B, C)]
    strides = (*(t.stride(0) for t in given), *(t.stride(1) for t in given))
    return _selective(given, strides, ends.numpy(), x.shape[1], weights, h, x.new_zeros(x.shape))


def _selective(
    given: list[Tensor], strides: tuple[int, ...], ends: NDArray[Any], length: int,
    weights: tuple[NDArray[Any], ...], h: Tensor, y: Tensor,
) -> Tensor:  # fmt: skip
    kernel = _selective_steps if h.dtype == torch.float32 else _selective_steps_double
    arrays = (*(flat(t) for t in given), *weights, h.view(-1).numpy(), y.view(-1).numpy())
    sizes, entries = (y.shape[-1], h.shape[2], length), h.numel() * length
    _over_rows(kernel, sizes, len(h), h.shape[1], entries, strides, ends, *arrays)
    return y


@numba.njit(forceinline=True)
def _convolved(x, at_x, past, at, channels, width, weight, at_weight, step, bias, c):  # type: ignore[no-untyped-def]
    # Of one vector, with the steps before it from `at` on, ``channels`` apart, and weights ``step`` apart.
    now = load(x, at_x)
    out = load(bias, c) + load(weight, at_weight + (width - 1) * step) * now
    for k in range(width - 1):
        before = load(past, at + k * channels)
        out = out + load(weight, at_weight + k * step) * before
        if k:
            store(past, at + (k - 1) * channels, before)
    if width > 1:
        store(past, at + (width - 2) * channels, now)
    return out * sigmoid(out)


# Of single precision, with SiLU.
@compiled()
def _conv_step(sizes, stride, x, past, weight, bias, y, first, last):  # type: ignore[no-untyped-def]
    channels, width = sizes
    whole, step = channels // LANES * LANES, (channels + LANES - 1) // LANES * LANES
    count = channels - whole
    part_x, part_past = np.zeros(LANES, np.float32), np.zeros(width * LANES, np.float32)
    for row in range(first, last):
        at_x, at_y, at = row * stride, row * channels, row * (width - 1) * channels
        for c in range(0, whole, LANES):
            store(
                y, at_y + c, _convolved(x, at_x + c, past, at + c, channels, width, weight, c, step, bias, c)
            )
        if count:
            _padded(x, at_x + whole, count, part_x)
            for k in range(width - 1):
                for i in range(count):
                    part_past[k * LANES + i] = past[at + k * channels + whole + i]
            store(
                part_x, 0, _convolved(part_x, 0, part_past, 0, LANES, width, weight, whole, step, bias, whole)
            )
            for i in range(count):
                y[at_y + whole + i] = part_x[i]
                for k in range(width - 1):
                    past[at + k * channels + whole + i] = part_past[k * LANES + i]


def conv_step(x: Tensor, past: Tensor, width: int, weights: tuple[NDArray[Any], ...]) -> Tensor:
    """One step of ``causal_conv1d`` with SiLU for float32 CPU tensors: x (batch, channels), past (batch, width - 1,
    channels).

    The weights are those by step, (width, blocks * LANES), and the bias (blocks * LANES,). Returns (batch, channels).
    """
    batch, channels = x.shape
    y = x.new_empty(batch, channels)
    x = x if x.stride(1) == 1 else x.contiguous()
    arguments = ((channels, width), x.stride(0), flat(x), past.view(-1).numpy(), *weights, y.view(-1).numpy())
    if x.numel() * width < ENTRIES_A_THREAD:
        _conv_step(*arguments, 0, batch)
    else:
        over_parts(_conv_step, batch, *arguments)
    return y


# A state of (P, N) a head: all of it decays alike, u and B enter, C reads it along N.
@compiled(fastmath={"contract", "reassoc", "nsz"})
def _rows_step(sizes, u, decay, B, C, h, y, first, last):  # type: ignore[no-untyped-def]
    heads, groups = sizes
    for part in range(first, last):
        row, head = part // heads, part % heads
        group = head // (heads // groups)
        d = decay[row, head]
        for p in range(h.shape[2]):
            entering, total = u[row, head, p], h.dtype.type(0)
            for n in range(h.shape[3]):
                state = d * h[row, head, p, n] + entering * B[row, group, n]
                h[row, head, p, n] = state
                total += state * C[row, group, n]
            y[row, head, p] = total


# A state of (N, P) a head: each of its N rows decays by itself, k and v enter, q reads it along N.
@compiled(fastmath={"contract", "reassoc", "nsz"})
def _columns_step(q, k, v, decay, h, y, first, last):  # type: ignore[no-untyped-def]
    heads = h.shape[1]
    for part in range(first, last):
        row, head = part // heads, part % heads
        y[row, head] = 0
        for n in range(h.shape[2]):
            d, entering, read = decay[row, head, n], k[row, head, n], q[row, head, n]
            for p in range(h.shape[3]):
                state = d * h[row, head, n, p] + entering * v[row, head, p]
                h[row, head, n, p] = state
                y[row, head, p] += read * state


def _over_heads(kernel: Any, h: Tensor, *arguments: Any) -> None:
    parts = h.shape[0] * h.shape[1]
    if h.numel() < 2 * ENTRIES_A_THREAD:
        kernel(*arguments, 0, parts)
    else:
        over_parts(kernel, parts, *arguments)


def ssd_step(u: Tensor, decay: Tensor, B: Tensor, C: Tensor, h: Tensor) -> Tensor:
    """One step of ``ssd`` without D for CPU tensors of one floating type, which is that of the result.

    u = dt x (batch, heads, P), decay (batch, heads), B and C (batch, groups, N), h (batch, heads, P, N). Returns
    (batch, heads, P).
    """
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    given = (t.contiguous().numpy() for t in (u, decay, B, C))
    _over_heads(_rows_step, h, (h.shape[1], B.shape[1]), *given, h.numpy(), y.numpy())
    return y


def gated_linear_step(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, h: Tensor) -> Tensor:
    """One step of ``gated_linear_attention`` for CPU tensors of one floating type, which is that of the result.

    q, k and decay (batch, heads, N), v (batch, heads, P), h (batch, heads, N, P). Returns (batch, heads, P).
    """
    y = torch.empty_like(v, memory_format=torch.contiguous_format)
    given = (t.contiguous().numpy() for t in (q, k, v, decay))
    _over_heads(_columns_step, h, *given, h.numpy(), y.numpy())
    return y


# Complex states of each channel, whose inputs enter with weights of one.
@compiled(fastmath={"contract", "reassoc", "nsz"})
def _channels_step(u, poles, C, h, y, first, last):  # type: ignore[no-untyped-def]
    for row in range(first, last):
        for c in range(h.shape[1]):
            entering, total = u[row, c], y.dtype.type(0)
            for n in range(h.shape[2]):
                re, im = h[row, c, n, 0], h[row, c, n, 1]
                next_re = poles[c, n, 0] * re - poles[c, n, 1] * im + entering
                next_im = poles[c, n, 0] * im + poles[c, n, 1] * re
                h[row, c, n, 0], h[row, c, n, 1] = next_re, next_im
                total += C[c, n, 0] * next_re - C[c, n, 1] * next_im
            y[row, c] = total


def channelwise_step(u: Tensor, poles: Tensor, C: Tensor, h: Tensor) -> Tensor:
    """One step of ``channelwise_ssm`` for CPU tensors of one precision.

    u (batch, H); poles and C (H, N) and h (batch, H, N) complex. Returns (batch, H).
    """
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    parts = (torch.view_as_real(t).numpy() for t in (poles, C, h))
    arguments = (u.contiguous().numpy(), *parts, y.numpy())
    if h.numel() < ENTRIES_A_THREAD:
        _channels_step(*arguments, 0, len(u))
    else:
        over_parts(_channels_step, len(u), *arguments)
    return y
