"""The inputs of a state space dual by chunk, and the products within and between chunks of which it is made."""

from typing import NamedTuple

import torch
from torch import Tensor

from compressm_cli.ops.chunked import scan_chunks


class Chunks(NamedTuple):
    """The inputs by chunk; empty is one that no gradient needs.

    R chunks (batch times chunks of a sequence), G groups, H heads, K heads a group, l steps.
    """

    x: Tensor
    """(R, H, l, P), a view."""
    dt: Tensor
    """(R, H, l)."""
    B: Tensor
    """(R G, l, N)."""
    C: Tensor
    """(R G, l, N)."""
    log_decay: Tensor
    """(R, H, l): sum of dt A from the start of the chunk up to each step; float64, for differences of it are taken."""
    grow: Tensor
    """(R, H, l): decay from the start of the chunk up to each step, this one included."""
    fade: Tensor
    """(R, H, l): decay from after each step up to the end of the chunk."""
    groups: int


def split(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, size: int) -> Chunks:
    by_head = dt.reshape(-1, size, dt.shape[2]).mT.contiguous()
    log_decay = (by_head.double() * A.double()[:, None]).cumsum(-1)
    return Chunks(
        x=heads_by_chunk(x, size),
        dt=by_head,
        B=groups_by_chunk(B, size),
        C=groups_by_chunk(C, size),
        log_decay=log_decay,
        grow=log_decay.exp().to(dt.dtype),
        fade=(log_decay[..., -1:] - log_decay).exp().to(dt.dtype),
        groups=max(t.shape[2] for t in (B, C) if t.ndim == 4),
    )


def heads_by_chunk(x: Tensor, size: int) -> Tensor:
    """(batch, length, heads, P) as (R, heads, l, P), a view where x is contiguous; an empty tensor as it is."""
    return x if x.ndim == 1 else x.reshape(-1, size, *x.shape[2:]).transpose(1, 2)


def groups_by_chunk(x: Tensor, size: int) -> Tensor:
    """(batch, length, groups, N) as (R groups, l, N); an empty tensor as it is."""
    return x if x.ndim == 1 else heads_by_chunk(x, size).reshape(-1, size, x.shape[3])


def select(chunks: Chunks, rows: slice) -> Chunks:
    x, dt, B, C, log_decay, grow, fade, groups = chunks
    pairs = by_group(rows, groups)
    return Chunks(x[rows], dt[rows], B[pairs], C[pairs], log_decay[rows], grow[rows], fade[rows], groups)


def by_group(rows: slice, groups: int) -> slice:
    """The same chunks where chunks and groups share an axis."""
    return slice(rows.start * groups, rows.stop * groups)


def decays(log_decay: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(sum of the log decays after step j up to step i) for j < i, else 0: (R, H, l, l)."""
    exponents = torch.empty(*log_decay.shape, log_decay.shape[-1], dtype=dtype, device=log_decay.device)
    torch.sub(log_decay[..., :, None], log_decay[..., None, :], out=exponents)
    return exponents.exp_().tril_(-1)


def side_by_side(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """weight x with the heads of a group side by side: x (R, H, l, P), weight (R, H, l); returns (R G, l, K P)."""
    rows, heads, size, _ = x.shape
    # The product has the layout of x in memory, mostly that of the sequence: the heads are side by side already.
    by_group = (x * weight[..., None]).unflatten(1, (groups, heads // groups))
    return by_group.transpose(2, 3).reshape(rows * groups, size, -1)


def by_head(x: Tensor, groups: int, heads: int) -> Tensor:
    """The opposite arrangement: x (R G, l, K P) as (R, H, l, P)."""
    return (
        x.view(-1, groups, x.shape[1], heads // groups, x.shape[2] * groups // heads)
        .transpose(2, 3)
        .flatten(1, 2)
    )


def times_products(x: Tensor, products: Tensor, groups: int) -> Tensor:
    """x (R, H, l, l) times the products of its group (R G, l, l), in the place of ``x``."""
    per_group = x.view(-1, groups, x.shape[1] // groups, *x.shape[2:])
    per_group.mul_(products.view(-1, groups, 1, *x.shape[2:]))
    return x


def direct(chunks: Chunks) -> Tensor:
    """C_i^T B_i: what each step reads of itself, (R, H, l)."""
    products = (chunks.C * chunks.B).sum(-1).view(-1, chunks.groups, chunks.C.shape[1])
    return products.repeat_interleave(chunks.dt.shape[1] // chunks.groups, dim=1)


def reached(
    chunks: Chunks, x: Tensor, weight: Tensor, B: Tensor, batch: int, *, reverse: bool = False
) -> Tensor:
    """The sums of weight x B^T over the chunks before each chunk (after it, in reverse), decayed: (R G, K P, N).

    x (R, H, l, P), weight (R, H, l), B (R G, l, N).
    """
    rows, heads, _, head_dim = x.shape
    n = B.shape[-1]
    added = side_by_side(x, weight, chunks.groups).mT @ B
    by_chunk = (batch, rows // batch, heads)
    decay = chunks.grow[..., -1].reshape(*by_chunk, 1, 1)
    return scan_chunks(added.view(*by_chunk, head_dim, n), decay, reverse=reverse).view(added.shape)
