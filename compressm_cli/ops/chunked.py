"""What the chunked forms of recurrences share: chunks, parts that fit the cache, and the scan over chunks."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

ENTRIES_AT_ONCE = 1 << 19
"""Entries of the largest array in a part: few enough for the cache, enough for a product to run at full speed."""


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off; the meta device, on which FLOPs are counted, has none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def at_least_float32(*tensors: Tensor) -> list[Tensor]:
    """The tensors in their common dtype, or in float32 where that is higher."""
    dtype = torch.float32
    for tensor in tensors:
        dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype) for tensor in tensors]


def pad_length(x: Tensor, length: int) -> Tensor:
    """x (batch, length, ...) with zeros appended up to the given length."""
    missing = length - x.shape[1]
    return x if missing == 0 else functional.pad(x, [0, 0] * (x.dim() - 2) + [0, missing])


def parts(x: Tensor, rows: int, entries: int) -> Iterator[slice]:
    """Consecutive ranges of ``rows`` chunks with so many entries each; one range where x is not eagerly on a CPU."""
    at_once = rows
    if x.device.type == "cpu" and not torch.compiler.is_compiling():
        at_once = max(1, ENTRIES_AT_ONCE // entries)
    for first in range(0, rows, at_once):
        yield slice(first, min(first + at_once, rows))


def scan_chunks(added: Tensor, decay: Tensor, *, reverse: bool = False) -> Tensor:
    """What reaches each chunk from those before it (after it, in reverse): s_c = decay_{c-1} s_{c-1} + added_{c-1}.

    added (batch, chunks, ...), decay (batch, chunks, ...) that broadcasts against it. Returns s, with zeros in the
    first chunk (the last, in reverse).
    """
    order = list(range(added.shape[1]))
    if reverse:
        order.reverse()
    carried = torch.zeros_like(added[:, 0])
    reached = [carried] * len(order)
    for before, now in pairwise(order):
        carried = torch.addcmul(added[:, before], decay[:, before], carried)
        reached[now] = carried
    return torch.stack(reached, dim=1)
