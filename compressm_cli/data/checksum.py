"""A checksum of decoded data: of the values, whatever types and devices hold them."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

SIZE = 16
"""Bytes of a checksum."""
ELEMENTS = 2**22
"""Values that are looked at at once: data may be far larger than what is free beside them."""
WIDTHS = (np.dtype("<i2"), np.dtype("<i4"), np.dtype("<i8"))


class InParts(NamedTuple):
    """A tensor of which some rows are in memory at a time."""

    shape: tuple[int, ...]
    values: Tensor
    """All that is in it, perhaps but for zeros, in any shape."""
    parts: Callable[[int], Iterator[Tensor]]
    """Some rows at a time, of so many values at most, or of one row."""


def checksum(*tensors: Tensor | InParts | None) -> str:
    """Hexadecimal, the same for the same shapes and values in the same order, and for nothing else.

    Real numbers count as float32, which the tasks give them as, whole numbers by their value. None is a tensor that
    is not there.
    """
    digest = hashlib.blake2b(digest_size=SIZE)
    for tensor in tensors:
        if tensor is None:
            digest.update(b"none")
            continue
        whole = tensor if isinstance(tensor, InParts) else _in_parts(tensor)
        kind = _kind(whole)
        digest.update(f"{kind.str} {whole.shape}".encode())
        for part in _parts(whole):
            digest.update(np.ascontiguousarray(part, dtype=kind).data)
    return digest.hexdigest()


def text_checksum(texts: Sequence[str]) -> str:
    """The same for the same texts in the same order."""
    digest = hashlib.blake2b(digest_size=SIZE)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(f"{len(encoded)} ".encode() + encoded)
    return digest.hexdigest()


def bytes_checksum(content: bytes) -> str:
    """The same for the same bytes."""
    return hashlib.blake2b(content, digest_size=SIZE).hexdigest()


def _in_parts(tensor: Tensor) -> InParts:
    return InParts(
        tuple(tensor.shape), tensor, lambda size: iter(tensor.split(max(1, size // tensor[0].numel())))
    )


def _kind(tensor: InParts) -> np.dtype:
    """Of real numbers always the same; of whole numbers the smallest that holds their values, not the one they have."""
    if tensor.values.is_floating_point():
        return np.dtype("<f4")
    ends = [int(end) for part in _parts(tensor) for end in (part.min(), part.max())]
    fits = (w for w in WIDTHS if all(np.iinfo(w).min <= end <= np.iinfo(w).max for end in ends))
    return next(fits)


def _parts(tensor: InParts) -> Iterator[np.ndarray]:
    """The values, in order, in some pieces of one dimension on the CPU."""
    if all(tensor.shape):
        for rows in tensor.parts(ELEMENTS):
            part = rows.detach().to(torch.float32) if rows.is_floating_point() else rows.detach()
            yield part.cpu().numpy().reshape(-1)
