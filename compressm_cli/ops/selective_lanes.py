"""Scratch memory of the CPU kernel of the selective scan: how a chunk of a block of channels gets there and back.

It is in columns, one a vector of channels: STEPS times LANES numbers. All of it is inlined into the kernels (``simd``).
"""

import numba
import numpy as np

from compressm_cli.ops.simd import LANES, LOG2_E, load, same, softplus, store

STEPS = 16
"""Steps a chunk: states are kept, and chunks' inputs lie in the nearest cache."""
WIDTH = 64
"""Channels a block."""
COLUMN = STEPS * LANES


@numba.njit(forceinline=True)
def gather(array, base, order, first, count, scratch, t):  # type: ignore[no-untyped-def]
    # Channels order[first : first + count], or those themselves without an order, into row t; zeros up to a vector.
    for v in range(0, count, LANES):
        to = v * STEPS + t * LANES
        if len(order) == 0 and v + LANES <= count:
            store(scratch, to, load(array, base + first + v))
        else:
            for i in range(LANES):
                if v + i >= count:
                    scratch[to + i] = 0.0
                elif len(order) == 0:
                    scratch[to + i] = array[base + first + v + i]
                else:
                    scratch[to + i] = array[base + order[first + v + i]]


@numba.njit(forceinline=True)
def scatter(scratch, t, array, base, order, first, count):  # type: ignore[no-untyped-def]
    for v in range(0, count, LANES):
        at = v * STEPS + t * LANES
        if len(order) == 0 and v + LANES <= count:
            store(array, base + first + v, load(scratch, at))
        else:
            for i in range(min(LANES, count - v)):
                if len(order) == 0:
                    array[base + first + v + i] = scratch[at + i]
                else:
                    array[base + order[first + v + i]] = scratch[at + i]


@numba.njit(forceinline=True)
def channel_of(order, i):  # type: ignore[no-untyped-def]
    return i if len(order) == 0 else order[i]


@numba.njit(forceinline=True)
def prepare(A, D, bias, order, kept, n_states, first, count, a, d, dt_bias, owners):  # type: ignore[no-untyped-def]
    # A of a block by state, in powers of two; D and bias by channel; how many channels own each state. Returns how many
    # states are owned by any.
    a[:] = 0.0
    d[:] = 0.0
    dt_bias[:] = 0.0
    owners[:] = 0
    for i in range(count):
        channel = channel_of(order, first + i)
        d[i] = D[channel]
        if len(bias):
            dt_bias[i] = bias[channel]
        states = min(kept[channel], n_states) if len(kept) else n_states
        for n in range(states):
            a[n * WIDTH + i] = A[channel * n_states + n] * np.float32(LOG2_E)
            owners[n] += 1
    owned = 0
    while owned < n_states and owners[owned] > 0:
        owned += 1
    return owned


@numba.njit(forceinline=True)
def load_steps(B, base, stride, n_states, steps, scratch):  # type: ignore[no-untyped-def]
    # B or C of a chunk, by state; zeros after the last step.
    for t in range(STEPS):
        for n in range(n_states):
            scratch[n * STEPS + t] = B[base + t * stride + n] if t < steps else 0.0


@numba.njit(forceinline=True)
def fill_inputs(x, dt, u, bias, raw, gated, vectors, steps, of_u):  # type: ignore[no-untyped-def]
    # If asked for, u = dt x, where dt is the step size or, gated, what softplus makes it from; nothing after the last.
    for v in range(vectors):
        for t in range(STEPS):
            at = v * COLUMN + t * LANES
            if t >= steps:
                store(dt, at, same(0.0))
                store(u, at, same(0.0))
                continue
            if gated:
                biased = load(dt, at) + load(bias, v * LANES)
                store(raw, at, biased)
                store(dt, at, softplus(biased))
            if of_u:
                store(u, at, load(dt, at) * load(x, at))


@numba.njit(forceinline=True)
def fill_masked(scratch, v, lanes):  # type: ignore[no-untyped-def]
    # Into the column after those of the block: column v, with zeros but in its first lanes.
    for i in range(COLUMN):
        scratch[WIDTH * STEPS + i] = scratch[v * COLUMN + i] if i % LANES < lanes else np.float32(0.0)
