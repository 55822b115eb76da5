"""The diagonal scan as Triton kernels, for CUDA; importing this imports Triton.

The states of all rows lie side by side, one a thread, and each thread goes through time: the threads of a warp
read neighbours, and all have work, whatever N is. Where there are too few states to fill the device, time is split
into chunks too, in two passes: first the last state of each chunk, as if it began at zero; then each chunk from the
state before it, which it sums up itself from the ends of the chunks before: c_{k+1} = lambda^chunk c_k + end_k.

The gradient is the same recurrence against time with conjugate poles: both directions share their code, and chunks
are numbered from where a direction starts. Nothing depends on the order in which programs run.
"""

from math import isqrt
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES = 32
"""States a program: one warp, so that no warp waits for another."""
STAGES = tl.constexpr(8)
"""Steps in the pipeline: while one is computed, the inputs of the next ones are on their way."""
PROGRAMS_PER_PROCESSOR = 16
"""Programs that a multiprocessor should have at once, to hide the latency of its memory: an estimate."""
MIN_CHUNK = 64
"""Steps; over shorter chunks the second pass and the sums over ends weigh more: an estimate."""


@triton.jit
def _place(batch, length, n, start, REVERSE: tl.constexpr, LANES: tl.constexpr):  # type: ignore[no-untyped-def]
    # This program's states: number over all rows, whether there is one, which pole, offset in x after `start` steps.
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    row, pole = (lane // n).to(tl.int64), lane % n
    first = length - 1 - start if REVERSE else start
    return lane, lane < batch * n, pole, (row * length + first) * (2 * n) + pole


@triton.jit
def _step(re, im, pole_re, pole_im, x_re, x_im):  # type: ignore[no-untyped-def]
    return pole_re * re - pole_im * im + x_re, pole_re * im + pole_im * re + x_im


@triton.jit
def _state_before(ends, k, lane, valid, states, pole_re, pole_im, doublings):  # type: ignore[no-untyped-def]
    # The state before chunk k; chunks are of 2^doublings steps. Squaring doubles the relative error: hence float64.
    power_re, power_im = pole_re.to(tl.float64), pole_im.to(tl.float64)
    for _ in range(doublings):
        power_re, power_im = power_re * power_re - power_im * power_im, 2 * power_re * power_im
    power_re, power_im = power_re.to(pole_re.dtype), power_im.to(pole_im.dtype)
    re = tl.zeros_like(pole_re)
    im = tl.zeros_like(pole_re)
    at = ends + lane
    for _ in tl.range(0, k, num_stages=STAGES):
        end_re = tl.load(at, mask=valid, other=0.0)
        end_im = tl.load(at + states, mask=valid, other=0.0)
        re, im = _step(re, im, power_re, power_im, end_re, end_im)
        at += 2 * states
    return re, im


@triton.jit
def _ends_kernel(  # type: ignore[no-untyped-def]
    x, poles_re, poles_im, ends, batch, length, n, chunk, REVERSE: tl.constexpr, LANES: tl.constexpr
):
    # ends (chunks - 1, 2, batch N): of each chunk but the last, the last state from zero before it.
    k = tl.program_id(1)
    lane, valid, pole, at = _place(batch, length, n, k * chunk, REVERSE, LANES)
    pole_re, pole_im = tl.load(poles_re + pole), tl.load(poles_im + pole)
    if REVERSE:
        pole_im = -pole_im
    re = tl.zeros_like(pole_re)
    im = tl.zeros_like(pole_re)
    for _ in tl.range(0, chunk, num_stages=STAGES):
        x_re = tl.load(x + at, mask=valid, other=0.0)
        x_im = tl.load(x + at + n, mask=valid, other=0.0)
        re, im = _step(re, im, pole_re, pole_im, x_re, x_im)
        at += -2 * n if REVERSE else 2 * n
    end = ends + k * (2 * batch * n) + lane
    tl.store(end, re, mask=valid)
    tl.store(end + batch * n, im, mask=valid)


@triton.jit
def _forward_kernel(  # type: ignore[no-untyped-def]
    x, poles_re, poles_im, ends, h, batch, length, n, chunk, doublings, LANES: tl.constexpr
):
    k = tl.program_id(1)
    lane, valid, pole, at = _place(batch, length, n, k * chunk, False, LANES)
    pole_re, pole_im = tl.load(poles_re + pole), tl.load(poles_im + pole)
    re, im = _state_before(ends, k, lane, valid, batch * n, pole_re, pole_im, doublings)
    for _ in tl.range(0, tl.minimum(chunk, length - k * chunk), num_stages=STAGES):
        x_re = tl.load(x + at, mask=valid, other=0.0)
        x_im = tl.load(x + at + n, mask=valid, other=0.0)
        re, im = _step(re, im, pole_re, pole_im, x_re, x_im)
        tl.store(h + at, re, mask=valid)
        tl.store(h + at + n, im, mask=valid)
        at += 2 * n


@triton.jit
def _backward_kernel(  # type: ignore[no-untyped-def]
    grad, h, poles_re, poles_im, ends, dx, dpoles, batch, length, n, chunk, doublings,
    OF_X: tl.constexpr, OF_POLES: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    # dx_t = grad_t + conj(lambda) dx_{t+1}; dpoles (chunks, 2, batch N): the chunk's sum of dx_t conj(h_{t-1}).
    k = tl.program_id(1)
    lane, valid, pole, at = _place(batch, length, n, k * chunk, True, LANES)
    pole_re, pole_im = tl.load(poles_re + pole), -tl.load(poles_im + pole)
    re, im = _state_before(ends, k, lane, valid, batch * n, pole_re, pole_im, doublings)
    dpole_re = tl.zeros_like(pole_re)
    dpole_im = tl.zeros_like(pole_re)
    for i in tl.range(0, tl.minimum(chunk, length - k * chunk), num_stages=STAGES):
        grad_re = tl.load(grad + at, mask=valid, other=0.0)
        grad_im = tl.load(grad + at + n, mask=valid, other=0.0)
        re, im = _step(re, im, pole_re, pole_im, grad_re, grad_im)
        if OF_POLES:
            has_past = valid & (k * chunk + i < length - 1)
            h_re = tl.load(h + at - 2 * n, mask=has_past, other=0.0)
            h_im = tl.load(h + at - n, mask=has_past, other=0.0)
            dpole_re += re * h_re + im * h_im
            dpole_im += im * h_re - re * h_im
        if OF_X:
            tl.store(dx + at, re, mask=valid)
            tl.store(dx + at + n, im, mask=valid)
        at -= 2 * n
    if OF_POLES:
        partial = dpoles + k * (2 * batch * n) + lane
        tl.store(partial, dpole_re, mask=valid)
        tl.store(partial + batch * n, dpole_im, mask=valid)


def steps_per_program(programs: int, length: int, processors: int) -> int:
    """A power of two: steps a chunk, at least ``length`` where splitting does not pay.

    programs: how many there are without splitting; processors: the device's multiprocessors. There are never more
    chunks than steps a chunk, so that no program takes longer over the ends before its chunk than over the chunk.
    """
    chunks = PROGRAMS_PER_PROCESSOR * processors // programs
    whole = triton.next_power_of_2(length)
    if chunks < 2:
        return whole
    steps = triton.next_power_of_2(max(MIN_CHUNK, triton.cdiv(length, chunks), isqrt(length - 1) + 1))
    # Split, each step is gone through twice: two or three chunks side by side win nothing.
    return steps if length > 3 * steps else whole


def _chunk(x: Tensor, n: int) -> int:
    processors = torch.cuda.get_device_properties(x.device).multi_processor_count
    return steps_per_program(triton.cdiv(x.shape[0] * n, LANES), x.shape[1], processors)


def _launch(
    kernel: Any,
    chunks: int,
    x: Tensor,
    n: int,
    tensors: tuple[Tensor, ...],
    *settings: int,
    **constants: bool,
) -> None:
    """One program for each block of states and each chunk."""
    batch, length = x.shape[:2]
    with torch.cuda.device_of(x):
        grid = (triton.cdiv(batch * n, LANES), chunks)
        kernel[grid](*tensors, batch, length, n, *settings, **constants, LANES=LANES, num_warps=1)


def _ends(x: Tensor, poles_re: Tensor, poles_im: Tensor, chunk: int, reverse: bool) -> Tensor:
    n = poles_re.shape[0]
    before_last = triton.cdiv(x.shape[1], chunk) - 1
    ends = x.new_empty(before_last, 2, x.shape[0] * n)
    if before_last:
        _launch(_ends_kernel, before_last, x, n, (x, poles_re, poles_im, ends), chunk, reverse)
    return ends


def scan_forward(x: Tensor, poles_re: Tensor, poles_im: Tensor, chunk: int | None = None) -> Tensor:
    """``reference.diagonal_scan`` for contiguous CUDA tensors of one floating dtype, float32 or float64.

    chunk: steps a program, a power of two; by default what fills the device.
    """
    h = torch.empty_like(x)
    if x.numel() == 0:
        return h
    n = poles_re.shape[0]
    chunk = chunk or _chunk(x, n)
    ends = _ends(x, poles_re, poles_im, chunk, reverse=False)
    tensors = (x, poles_re, poles_im, ends, h)
    _launch(_forward_kernel, len(ends) + 1, x, n, tensors, chunk, chunk.bit_length() - 1)
    return h


def scan_backward(
    grad: Tensor,
    h: Tensor | None,
    poles_re: Tensor,
    poles_im: Tensor,
    of_x: bool = True,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, poles_re and poles_im; empty that of x if not ``of_x``, those of poles without h.

    ``chunk`` as in ``scan_forward``.
    """
    of_poles, n = h is not None, poles_re.shape[0]
    dx = grad.new_empty(grad.shape if of_x else 0)
    if grad.numel() == 0:
        return dx, grad.new_zeros(n if of_poles else 0), grad.new_zeros(n if of_poles else 0)
    chunk = chunk or _chunk(grad, n)
    ends = _ends(grad, poles_re, poles_im, chunk, reverse=True)
    dpoles = grad.new_empty((len(ends) + 1, 2, grad.shape[0], n) if of_poles else (0, 2, 0, 0))
    tensors = (grad, grad if h is None else h, poles_re, poles_im, ends, dx, dpoles)
    settings = (chunk, chunk.bit_length() - 1)
    _launch(_backward_kernel, len(ends) + 1, grad, n, tensors, *settings, OF_X=of_x, OF_POLES=of_poles)
    if not of_poles:
        return dx, grad.new_empty(0), grad.new_empty(0)
    total = dpoles.sum((0, 2))
    return dx, total[0].clone(), total[1].clone()
