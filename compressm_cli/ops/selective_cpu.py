"""The selective scan as a CPU kernel: compiled by numba, parallel over the batch and blocks of channels.

A block of channels goes through time in chunks of ``STEPS``. Within a chunk a vector of channels and one of its
states stay in registers for all steps, for one state after the other: decays and states of all steps never lie in
memory. The forward pass keeps the states before each chunk; the backward pass computes those within again.

Channels are sorted by how many states they keep, so that those that keep slot n are the first of their block: a slot
costs what its owners need, rounded up to whole vectors. In the last of them the lanes beyond have no input.
"""

from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import flat, last_contiguous, over_parts, parts_a_row
from compressm_cli.ops.selective_lanes import (
    COLUMN,
    STEPS,
    WIDTH,
    channel_of,
    fill_inputs,
    fill_masked,
    gather,
    load_steps,
    prepare,
    scatter,
)
from compressm_cli.ops.simd import (
    LANES,
    LOG2_E,
    exp2_of_product,
    load,
    load_same,
    multiply_add,
    rounded_product,
    same,
    sigmoid,
    store,
    total,
)


@numba.njit(forceinline=True)
def _forward_states(a, h, dt, u, y, B, C, owners, count, owned):  # type: ignore[no-untyped-def]
    masked = -1
    for n in range(owned):
        owning = owners[n]
        for v in range((owning + LANES - 1) // LANES):
            column = v * COLUMN
            u_column = column
            if owning < count and owning < (v + 1) * LANES:
                if masked != owning:
                    fill_masked(u, v, owning - v * LANES)
                    masked = owning
                u_column = WIDTH * STEPS
            at = n * WIDTH + v * LANES
            rate = load(a, at)
            state = load(h, at)
            for t in range(STEPS):
                i = t * LANES
                decay = exp2_of_product(load(dt, column + i), rate)
                state = decay * state + load(u, u_column + i) * load_same(B, n * STEPS + t)
                store(y, column + i, load(y, column + i) + state * load_same(C, n * STEPS + t))
            store(h, at, state)


@numba.njit(forceinline=True)
def _backward_states(  # type: ignore[no-untyped-def]
    a, h, h_at, dt, u, dy, B, C, owners, count, owned,
    carry, da, du, ddt, dB, dC, decays, pasts, sum_b, sum_c, of_inputs, of_sizes, of_a, of_b, of_c,
):  # fmt: skip
    # `carry` is the gradient to a state that comes from the step after. Decays and pasts, the states before a step
    # times its decay, are of one vector of channels and one state at a time; sum_b and sum_c of one state.
    # Products that several gradients read are rounded by themselves, so that each is the same without the others.
    of_exponents, of_states = of_sizes or of_a, of_sizes or of_a or of_c
    masked = -1
    for n in range(owned):
        owning = owners[n]
        for t in range(STEPS):
            store(sum_b, t * LANES, same(0.0))
            store(sum_c, t * LANES, same(0.0))
        for v in range((owning + LANES - 1) // LANES):
            column = v * COLUMN
            in_column = column
            if owning < count and owning < (v + 1) * LANES:
                if masked != owning:
                    fill_masked(u, v, owning - v * LANES)
                    fill_masked(dy, v, owning - v * LANES)
                    masked = owning
                in_column = WIDTH * STEPS
            at = n * WIDTH + v * LANES
            rate = load(a, at)
            state = load(h, h_at + at) if of_states else same(0.0)
            for t in range(STEPS):
                i = t * LANES
                decay = exp2_of_product(load(dt, column + i), rate)
                store(decays, i, decay)
                if of_states:
                    past = rounded_product(decay, state)
                    state = past + load(u, in_column + i) * load_same(B, n * STEPS + t)
                    store(pasts, i, past)
                    if of_c:
                        store(sum_c, i, load(sum_c, i) + load(dy, in_column + i) * state)
            if not (of_inputs or of_exponents or of_b):
                continue
            later = grad = load(carry, at)
            rate_grad = same(0.0)
            for back in range(STEPS):
                t = STEPS - 1 - back
                i = t * LANES
                if back % 2 == 0:
                    grad = multiply_add(load(dy, in_column + i), load_same(C, n * STEPS + t), later)
                else:
                    from_y = rounded_product(load(dy, in_column + i), load_same(C, n * STEPS + t))
                    grad = multiply_add(grad, load(decays, i + LANES), from_y)
                if of_inputs:
                    store(du, column + i, load(du, column + i) + grad * load_same(B, n * STEPS + t))
                if of_b:
                    store(sum_b, i, load(sum_b, i) + grad * load(u, in_column + i))
                if of_exponents:
                    through = grad * load(pasts, i)
                    if of_sizes:
                        store(ddt, column + i, load(ddt, column + i) + through * rate)
                    if of_a:
                        rate_grad = rate_grad + through * load(dt, column + i)
                later = rounded_product(grad, load(decays, i))
            store(carry, at, later)
            if of_a:
                store(da, at, load(da, at) + rate_grad)
        for t in range(STEPS):
            if of_b:
                dB[n * STEPS + t] = total(load(sum_b, t * LANES))
            if of_c:
                dC[n * STEPS + t] = total(load(sum_c, t * LANES))


@numba.njit(forceinline=True)
def _input_gradients(  # type: ignore[no-untyped-def]
    x, dt, raw, grads, du, ddt, d, d_sum, bias_sum, gated, vectors, steps, of_x, of_sizes, of_d
):
    # With u = dt x: the gradient to x in the place of that to u, that to the step sizes (gated, to raw) completed.
    for v in range(vectors):
        skip, skip_grad, bias_grad = load(d, v * LANES), load(d_sum, v * LANES), load(bias_sum, v * LANES)
        for t in range(steps):
            i = v * COLUMN + t * LANES
            if of_sizes:
                step_grad = load(du, i) * load(x, i) + load(ddt, i) * same(1 / LOG2_E)
                if gated:
                    step_grad = rounded_product(step_grad, sigmoid(load(raw, i)))
                    bias_grad = bias_grad + step_grad
                store(ddt, i, step_grad)
            if of_x:
                store(du, i, load(du, i) * load(dt, i) + skip * load(grads, i))
            if of_d:
                skip_grad = skip_grad + load(grads, i) * load(x, i)
        store(d_sum, v * LANES, skip_grad)
        store(bias_sum, v * LANES, bias_grad)


@numba.njit(forceinline=True)
def _elementwise_gate(grads, y, z, vectors, t, of_y, of_z):  # type: ignore[no-untyped-def]
    # Step t of the gradient of y silu(z): with respect to z in the place of z, to y in the place of grads.
    for v in range(vectors):
        i = v * COLUMN + t * LANES
        grad, gate = load(grads, i), load(z, i)
        s = sigmoid(gate)
        if of_z:
            store(z, i, grad * load(y, i) * s * (same(1.0) + gate * (same(1.0) - s)))
        if of_y:
            store(grads, i, grad * gate * s)


@compiled()
def _forward(  # type: ignore[no-untyped-def]
    sizes, strides, x, dt, A, B, C, D, bias, z, order, kept, out, y, states, first, last
):
    length, channels, n_states = sizes
    x_stride, dt_stride, B_stride, C_stride, z_stride = strides
    gated = len(bias) > 0
    blocks, chunks = (channels + WIDTH - 1) // WIDTH, (length + STEPS - 1) // STEPS
    by_state = np.empty((2, n_states * WIDTH), np.float32)
    a, h = by_state[0], by_state[1]
    by_channel, owners = np.empty((2, WIDTH), np.float32), np.empty(n_states, np.int64)
    d, dt_bias = by_channel[0], by_channel[1]
    columns = np.empty((6, (WIDTH + LANES) * STEPS), np.float32)
    xs, dts, us, ys, zs, raw = columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
    by_step = np.empty((2, n_states * STEPS), np.float32)
    Bs, Cs = by_step[0], by_step[1]
    for part in range(first, last):
        row, block = part // blocks, part % blocks
        c = block * WIDTH
        count = min(WIDTH, channels - c)
        vectors = (count + LANES - 1) // LANES
        owned = prepare(A, D, bias, order, kept, n_states, c, count, a, d, dt_bias, owners)
        h[:] = 0.0
        for chunk in range(chunks):
            start = chunk * STEPS
            steps = min(STEPS, length - start)
            if len(states):
                at = (part * chunks + chunk) * len(h)
                states[at : at + owned * WIDTH] = h[: owned * WIDTH]
            for t in range(steps):
                gather(x, row * x_stride[0] + (start + t) * x_stride[1], order, c, count, xs, t)
                gather(dt, row * dt_stride[0] + (start + t) * dt_stride[1], order, c, count, dts, t)
            fill_inputs(xs, dts, us, dt_bias, raw, gated, vectors, steps, True)
            load_steps(B, row * B_stride[0] + start * B_stride[1], B_stride[1], owned, steps, Bs)
            load_steps(C, row * C_stride[0] + start * C_stride[1], C_stride[1], owned, steps, Cs)
            for v in range(vectors):
                for t in range(STEPS):
                    i = v * COLUMN + t * LANES
                    store(ys, i, load(d, v * LANES) * load(xs, i))
            _forward_states(a, h, dts, us, ys, Bs, Cs, owners, count, owned)
            for t in range(steps):
                to = (row * length + start + t) * channels
                if gated:
                    if len(y):
                        scatter(ys, t, y, to, order, c, count)
                    gather(z, row * z_stride[0] + (start + t) * z_stride[1], order, c, count, zs, t)
                    for v in range(vectors):
                        i = v * COLUMN + t * LANES
                        gate = load(zs, i)
                        store(ys, i, load(ys, i) * gate * sigmoid(gate))
                scatter(ys, t, out, to, order, c, count)


@compiled()
def _backward(  # type: ignore[no-untyped-def]
    sizes, strides, groups, needs, grad, x, dt, A, B, C, D, bias, z, order, kept, y, states,
    dx, ddt, dA, dB, dC, dD, dbias, dz, first, last,
):  # fmt: skip
    length, channels, n_states, batch = sizes
    x_stride, dt_stride, B_stride, C_stride, z_stride = strides
    # None, where all are asked for, is compiled apart, without a branch.
    if needs is None:
        of_x = of_dt = of_a = of_b = of_c = of_d = of_bias = of_z = True
    else:
        of_x, of_dt, of_a, of_b, of_c, of_d, of_bias, of_z = needs
    of_sizes = of_dt or of_bias
    of_inputs, of_h = of_x or of_sizes, of_x or of_sizes or of_a or of_b
    gated, recurrent = len(z) > 0, of_h or of_c
    blocks, chunks = (channels + WIDTH - 1) // WIDTH, (length + STEPS - 1) // STEPS
    by_state = np.empty((3, n_states * WIDTH), np.float32)
    a, carry, a_sum = by_state[0], by_state[1], by_state[2]
    by_channel, owners = np.empty((4, WIDTH), np.float32), np.empty(n_states, np.int64)
    d, dt_bias, d_sum, bias_sum = by_channel[0], by_channel[1], by_channel[2], by_channel[3]
    columns = np.empty((9, (WIDTH + LANES) * STEPS), np.float32)
    xs, dts, us, ys, zs, raw = columns[0], columns[1], columns[2], columns[3], columns[4], columns[5]
    grads, dus, ddts = columns[6], columns[7], columns[8]
    by_step = np.empty((4, n_states * STEPS), np.float32)
    Bs, Cs, dBs, dCs = by_step[0], by_step[1], by_step[2], by_step[3]
    one = np.empty((4, COLUMN), np.float32)
    for part in range(first, last):
        row, group = part // groups, part % groups
        for block in range(blocks * group // groups, blocks * (group + 1) // groups):
            c = block * WIDTH
            count = min(WIDTH, channels - c)
            vectors = (count + LANES - 1) // LANES
            owned = prepare(A, D, bias, order, kept, n_states, c, count, a, d, dt_bias, owners)
            by_state[1:] = 0.0
            by_channel[2:] = 0.0
            for chunk in range(chunks - 1, -1, -1):
                start = chunk * STEPS
                steps = min(STEPS, length - start)
                grads[:] = 0.0
                dus[:] = 0.0
                ddts[:] = 0.0
                for t in range(steps):
                    to = (row * length + start + t) * channels
                    if len(x):
                        gather(x, row * x_stride[0] + (start + t) * x_stride[1], order, c, count, xs, t)
                    if recurrent:
                        gather(dt, row * dt_stride[0] + (start + t) * dt_stride[1], order, c, count, dts, t)
                    gather(grad, to, order, c, count, grads, t)
                    if gated:
                        gather(z, row * z_stride[0] + (start + t) * z_stride[1], order, c, count, zs, t)
                        if of_z:
                            gather(y, to, order, c, count, ys, t)
                        _elementwise_gate(grads, ys, zs, vectors, t, recurrent or of_d, of_z)
                        if of_z:
                            scatter(zs, t, dz, to, order, c, count)
                if recurrent:
                    fill_inputs(xs, dts, us, dt_bias, raw, gated, vectors, steps, len(x) > 0)
                    if len(B):
                        load_steps(B, row * B_stride[0] + start * B_stride[1], B_stride[1], owned, steps, Bs)
                    if of_h:
                        load_steps(C, row * C_stride[0] + start * C_stride[1], C_stride[1], owned, steps, Cs)
                    before = ((row * blocks + block) * chunks + chunk) * len(a)
                    _backward_states(
                        a, states, before, dts, us, grads, Bs, Cs, owners, count, owned, carry, a_sum, dus,
                        ddts, dBs, dCs, one[0], one[1], one[2], one[3], of_inputs, of_sizes, of_a, of_b, of_c,
                    )  # fmt: skip
                _input_gradients(
                    xs, dts, raw, grads, dus, ddts, d, d_sum, bias_sum, gated, vectors, steps,
                    of_x, of_sizes, of_d,
                )  # fmt: skip
                for t in range(steps):
                    to = (row * length + start + t) * channels
                    if of_x:
                        scatter(dus, t, dx, to, order, c, count)
                    if len(ddt):
                        scatter(ddts, t, ddt, to, order, c, count)
                    to = ((group * batch + row) * length + start + t) * n_states
                    for n in range(owned):
                        if of_b:
                            dB[to + n] += dBs[n * STEPS + t]
                        if of_c:
                            dC[to + n] += dCs[n * STEPS + t]
            for i in range(count):
                channel = row * channels + channel_of(order, c + i)
                if of_d:
                    dD[channel] = d_sum[i]
                if len(dbias):
                    dbias[channel] = bias_sum[i]
                if of_a:
                    for n in range(n_states):
                        dA[channel * n_states + n] = a_sum[n * WIDTH + i]


def states_shape(shape: tuple[int, ...], n_states: int) -> tuple[int, ...]:
    """Of the states kept for the backward pass: those before each chunk."""
    batch, length, channels = shape
    return batch, -(-channels // WIDTH), -(-length // STEPS), n_states, WIDTH


def _arguments(
    channels: int, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None,
    kept: Tensor | None, dt_bias: Tensor | None, z: Tensor | None,
) -> tuple[tuple[Any, ...], list[Any]]:  # fmt: skip
    """What both kernels start with: strides, inputs."""
    nothing = x.new_empty(0)
    D = x.new_zeros(channels) if D is None else D.contiguous()
    dt_bias = nothing if dt_bias is None else dt_bias.contiguous()
    x, dt, B, C, z = map(last_contiguous, (x, dt, B, C, nothing if z is None else z))
    strides = tuple(t.stride()[:2] if t.ndim == 3 else (0, 0) for t in (x, dt, B, C, z))
    if kept is None:
        kept = order = x.new_empty(0, dtype=torch.int64)
    else:
        kept, order = kept.contiguous(), torch.argsort(kept, descending=True, stable=True)
        if torch.equal(order, torch.arange(len(order))):  # sorted already: whole vectors can be loaded
            order = order[:0]
    return strides, [flat(t) for t in (x, dt, A.contiguous(), B, C, D, dt_bias, z, order, kept)]


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, keep_y: bool, keep_states: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """For float32: the output and, to be kept, that before the gate z and the states before each chunk."""
    shape = states_shape(x.shape, A.shape[1])
    out = x.new_empty(x.shape)
    y = x.new_empty(x.shape if keep_y else 0)
    states = x.new_empty(shape if keep_states else 0)
    sizes = (x.shape[1], *A.shape)
    strides, inputs = _arguments(x.shape[2], x, dt, A, B, C, D, kept, dt_bias, z)
    over_parts(_forward, shape[0] * shape[1], sizes, strides, *inputs, flat(out), flat(y), flat(states))
    return out, y, states


def backward(
    grad: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, kept: Tensor | None,
    dt_bias: Tensor | None, z: Tensor | None, y: Tensor, states: Tensor, needs: list[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients to x, dt, A, B, C, D, dt_bias and z; empty where ``needs``, one for each, does not ask for one.

    A tensor that no gradient that is asked for is computed from may be empty, D None.
    """
    batch, length, channels = grad.shape
    groups = parts_a_row(batch, -(-channels // WIDTH))
    of_x, of_dt, of_A, of_B, of_C, of_D, of_bias, of_z = needs
    by_step = B.shape if B.ndim == 3 else C.shape
    dx, ddt, dz = (grad.new_empty(grad.shape if n else 0) for n in (of_x, of_dt, of_z))
    dB, dC = (grad.new_zeros((groups, *by_step) if n else (0, 0)) for n in (of_B, of_C))
    dA = grad.new_empty((batch, *A.shape) if of_A else (0, 0))
    dD, dbias = (grad.new_empty((batch, channels) if n else (0, 0)) for n in (of_D, of_bias))
    sizes = (length, channels, A.shape[1] if A.ndim == 2 else 0, batch)
    strides, inputs = _arguments(channels, x, dt, A, B, C, D, kept, dt_bias, z)
    results = [flat(t) for t in (dx, ddt, dA, dB, dC, dD, dbias, dz)]
    every = all(needs[:6]) and (z is None or (of_bias and of_z))
    arguments = (sizes, strides, groups, None if every else tuple(needs), flat(grad.contiguous()), *inputs)
    over_parts(_backward, batch * groups, *arguments, flat(y), flat(states), *results)
    dB, dC = (t[0] if groups == 1 and len(t) else t.sum(0) for t in (dB, dC))
    return dx, ddt, dA.sum(0), dB, dC, dD.sum(0), dbias.sum(0), dz
