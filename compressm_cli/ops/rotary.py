"""Rotation of queries and keys by their positions: a numba kernel on CPUs, where it works in place.

Its definition takes a dozen passes over memory, and as many for the gradient.
"""

import torch
from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import flat, over_parts
from compressm_cli.ops.simd import LANES, load, store


@compiled()
def _rotate(sizes, x, cos, sin, first, last):  # type: ignore[no-untyped-def]
    length, heads, pairs, step = sizes
    whole = pairs // LANES * LANES
    for row in range(first, last):
        turn = row % length * pairs
        for head in range(heads):
            one = row * step + head * 2 * pairs
            other = one + pairs
            for i in range(0, whole, LANES):
                c, s = load(cos, turn + i), load(sin, turn + i)
                a, b = load(x, one + i), load(x, other + i)
                store(x, one + i, a * c - b * s)
                store(x, other + i, b * c + a * s)
            for i in range(whole, pairs):
                c, s = cos[turn + i], sin[turn + i]
                a, b = x[one + i], x[other + i]
                x[one + i] = a * c - b * s
                x[other + i] = b * c + a * s


def rotate_(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Turn each pair of dimensions, i and i + pairs, of x (batch, length, heads, 2 pairs) by its angle, in place.

    cos and sin (length, pairs), contiguous and of the type of x: float32 or float64. Entries of a head lie side by side
    in x, and so do heads; rows and steps lie alike far apart. With -sin it is undone.
    """
    batch, length, heads, dim = x.shape
    if x.dtype == torch.float32 and x.numel():
        sizes = (length, heads, dim // 2, x.stride(1))
        over_parts(_rotate, batch * length, sizes, flat(x), flat(cos), flat(sin))
        return
    a, b = x.unflatten(-1, (2, dim // 2)).unbind(-2)
    cos, sin, before = cos[:, None], sin[:, None], a.clone()
    a.mul_(cos).addcmul_(b, sin, value=-1)
    b.mul_(cos).addcmul_(before, sin)
