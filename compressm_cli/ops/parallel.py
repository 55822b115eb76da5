"""Serial numba kernels over parts of an array, in a small pool of torch's number of threads.

Not numba's own parallelism: that would bring a second OpenMP into the process, ignore torch's thread count, and not
survive a fork. The kernels must release the interpreter (``nogil``).
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn


def runs_eagerly_on_cpu(x: Tensor) -> bool:
    """Whether x has values in memory that a kernel can work on: not on a device, not fake, not while compiling."""
    return x.device.type == "cpu" and type(x) in (Tensor, nn.Parameter) and not torch.compiler.is_compiling()


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    # Keyed by the process as well: threads do not survive a fork.
    return ThreadPoolExecutor(threads, thread_name_prefix="compressm")


def over_parts(kernel: Callable[..., None], size: int, *arguments: Any) -> None:
    """``kernel(*arguments, first, last)`` for consecutive ranges that cover 0 to ``size``, one a thread."""
    threads = min(torch.get_num_threads(), size)
    if threads <= 1:
        kernel(*arguments, 0, size)
        return
    cuts = [size * i // threads for i in range(threads + 1)]
    pool = _pool(threads, os.getpid())
    tasks = [pool.submit(kernel, *arguments, a, b) for a, b in pairwise(cuts[1:])]
    kernel(*arguments, cuts[0], cuts[1])
    for task in tasks:
        task.result()


def parts_a_row(batch: int, blocks: int) -> int:
    """In how many parts to cut each row of a batch, at most ``blocks``, so that all threads have as much to do."""
    threads = torch.get_num_threads()
    return 1 if batch % threads == 0 else min(threads, blocks)


def last_contiguous(x: Tensor) -> Tensor:
    """x, or a copy where the entries of its last dimension do not lie side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def flat(x: Tensor) -> NDArray[Any]:
    """The memory from the first entry of x to its last, for kernels that know its strides."""
    if x.numel() == 0:
        return x.flatten().numpy()
    span = 1 + sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return x.detach().as_strided((span,), (1,)).numpy()
