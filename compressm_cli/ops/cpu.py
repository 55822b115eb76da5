"""The diagonal scan as a CPU kernel: compiled by numba, parallel over the batch.

Serial ``nogil`` kernels in a small thread pool rather than numba's own parallelism: that would bring a second
OpenMP into the process, ignore torch's thread count, and not survive a fork.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise

import numba
import numpy as np
import torch
from torch import Tensor


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _forward(x, poles_re, poles_im, h, first, last):  # type: ignore[no-untyped-def]
    n = poles_re.shape[0]
    for b in range(first, last):
        for i in range(2 * n):
            h[b, 0, i] = x[b, 0, i]
        for t in range(1, x.shape[1]):
            for i in range(n):
                re, im = h[b, t - 1, i], h[b, t - 1, n + i]
                h[b, t, i] = poles_re[i] * re - poles_im[i] * im + x[b, t, i]
                h[b, t, n + i] = poles_re[i] * im + poles_im[i] * re + x[b, t, n + i]


@numba.njit(nogil=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _backward(grad, h, poles_re, poles_im, dx, dpoles, first, last):  # type: ignore[no-untyped-def]
    # dx_t = grad_t + conj(lambda) dx_{t+1}; dlambda = sum over t of dx_t conj(h_{t-1}), for each row apart.
    n = poles_re.shape[0]
    length = grad.shape[1]
    for b in range(first, last):
        for i in range(2 * n):
            dx[b, length - 1, i] = grad[b, length - 1, i]
        for t in range(length - 1, 0, -1):
            for i in range(n):
                re, im = dx[b, t, i], dx[b, t, n + i]
                h_re, h_im = h[b, t - 1, i], h[b, t - 1, n + i]
                dpoles[b, i] += re * h_re + im * h_im
                dpoles[b, n + i] += im * h_re - re * h_im
                dx[b, t - 1, i] = grad[b, t - 1, i] + poles_re[i] * re + poles_im[i] * im
                dx[b, t - 1, n + i] = grad[b, t - 1, n + i] + poles_re[i] * im - poles_im[i] * re


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by the process as well: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="compressm-scan")


def _over_batch(kernel: Callable[..., None], batch: int, *arrays: np.ndarray) -> None:
    if any(a.size == 0 for a in arrays):  # the kernels start at the first step of the first state
        return
    threads = min(torch.get_num_threads(), batch)
    if threads <= 1:
        kernel(*arrays, 0, batch)
        return
    cuts = [batch * i // threads for i in range(threads + 1)]
    pool = _pool(threads, os.getpid())
    tasks = [pool.submit(kernel, *arrays, a, b) for a, b in pairwise(cuts[1:])]
    kernel(*arrays, cuts[0], cuts[1])
    for task in tasks:
        task.result()


def scan_forward(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """``reference.diagonal_scan`` for contiguous CPU tensors of one floating dtype."""
    h = torch.empty_like(x)
    _over_batch(_forward, x.shape[0], x.numpy(), poles_re.numpy(), poles_im.numpy(), h.numpy())
    return h


def scan_backward(
    grad: Tensor, h: Tensor, poles_re: Tensor, poles_im: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, poles_re and poles_im."""
    dx = torch.empty_like(grad)
    dpoles = grad.new_zeros(grad.shape[0], grad.shape[2])
    arrays = (grad, h, poles_re, poles_im, dx, dpoles)
    _over_batch(_backward, grad.shape[0], *(a.numpy() for a in arrays))
    total = dpoles.sum(0)
    n = poles_re.shape[0]
    return dx, total[:n].clone(), total[n:].clone()
