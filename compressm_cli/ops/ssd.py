"""Mamba-2's state space duality: a recurrence with a matrix as state and one decay a head, chunk by chunk.

Within a chunk the recurrence is a product with a lower triangular matrix; between chunks the states are scanned
(Dao and Gu, *Transformers are SSMs*, 2024). With dt = 1 and A = log(decay) it is linear attention with scalar decay.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.ops.chunked import at_least_float32, full_precision, pad_length, parts, scan_chunks


def ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None, *, chunk: int = 64
) -> Tensor:
    """y_t = h_t C_t + D x_t with h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T, a (P, N) state a head, h_0 = 0.

    x (batch, length, heads, P), dt (batch, length, heads) >= 0, A (heads,) <= 0, B and C (batch, length, groups, N),
    D (heads,) or None. Head h reads B and C of group h // (heads // groups). Returns (batch, length, heads, P) in the
    common dtype of the inputs, float32 at least, whatever autocast says. Cost is linear in length; what is kept for the
    gradient is the inputs, y, and the states at the ends of chunks of at most ``chunk`` steps.
    Raises ValueError where heads are not divisible by groups, where an input is empty, or where chunk < 1.
    """
    _check(x, B, chunk)
    length = x.shape[1]
    chunks = -(-length // chunk)
    size = -(-length // chunks)  # chunks of one size, with as little padding as that allows
    with full_precision(x.device):
        present = at_least_float32(x, dt, A, B, C, *([] if D is None else [D]))
        x, dt, B, C = (pad_length(present[i], chunks * size) for i in (0, 1, 3, 4))
        y = _SSD.apply(x, dt, present[2], B, C, None if D is None else present[5], size)
    return y[:, :length]


def _check(x: Tensor, B: Tensor, chunk: int = 1) -> None:
    heads, groups = x.shape[2], B.shape[2]
    if heads % groups:
        raise ValueError(f"{heads} heads cannot be divided among {groups} groups")
    if chunk < 1:
        raise ValueError(f"a chunk has at least one step, not {chunk}")
    if 0 in x.shape or 0 in B.shape:
        raise ValueError(f"there is nothing to compute: x is {tuple(x.shape)}, B is {tuple(B.shape)}")


class _Chunks(NamedTuple):
    """The inputs by chunk. R chunks (batch times chunks of a sequence), G groups, H heads, K heads a group, l steps."""

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


def _split(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, size: int) -> _Chunks:
    _, _, heads, head_dim = x.shape
    groups, n = B.shape[2:]
    by_head = dt.reshape(-1, size, heads).mT.contiguous()
    log_decay = (by_head.double() * A.double()[:, None]).cumsum(-1)
    by_group = [t.reshape(-1, size, groups, n).transpose(1, 2).reshape(-1, size, n) for t in (B, C)]
    return _Chunks(
        x=x.reshape(-1, size, heads, head_dim).transpose(1, 2),
        dt=by_head,
        B=by_group[0],
        C=by_group[1],
        log_decay=log_decay,
        grow=log_decay.exp().to(x.dtype),
        fade=(log_decay[..., -1:] - log_decay).exp().to(x.dtype),
        groups=groups,
    )


def _select(chunks: _Chunks, rows: slice) -> _Chunks:
    x, dt, B, C, log_decay, grow, fade, groups = chunks
    pairs = _by_group(rows, groups)
    return _Chunks(x[rows], dt[rows], B[pairs], C[pairs], log_decay[rows], grow[rows], fade[rows], groups)


def _by_group(rows: slice, groups: int) -> slice:
    """The same chunks where chunks and groups share an axis."""
    return slice(rows.start * groups, rows.stop * groups)


def _decays(log_decay: Tensor, dtype: torch.dtype) -> Tensor:
    """exp(sum of the log decays after step j up to step i) for j < i, else 0: (R, H, l, l)."""
    exponents = torch.empty(*log_decay.shape, log_decay.shape[-1], dtype=dtype, device=log_decay.device)
    torch.sub(log_decay[..., :, None], log_decay[..., None, :], out=exponents)
    return exponents.exp_().tril_(-1)


def _side_by_side(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """weight x with the heads of a group side by side: x (R, H, l, P), weight (R, H, l); returns (R G, l, K P)."""
    rows, heads, size, _ = x.shape
    # The product has the layout of x in memory, mostly that of the sequence: the heads are side by side already.
    by_group = (x * weight[..., None]).unflatten(1, (groups, heads // groups))
    return by_group.transpose(2, 3).reshape(rows * groups, size, -1)


def _by_head(x: Tensor, groups: int, heads: int) -> Tensor:
    """The opposite arrangement: x (R G, l, K P) as (R, H, l, P)."""
    return (
        x.view(-1, groups, x.shape[1], heads // groups, x.shape[2] * groups // heads)
        .transpose(2, 3)
        .flatten(1, 2)
    )


def _times_products(x: Tensor, products: Tensor, groups: int) -> Tensor:
    """x (R, H, l, l) times the products of its group (R G, l, l), in the place of ``x``."""
    per_group = x.view(-1, groups, x.shape[1] // groups, *x.shape[2:])
    per_group.mul_(products.view(-1, groups, 1, *x.shape[2:]))
    return x


def _direct(chunks: _Chunks) -> Tensor:
    """C_i^T B_i: what each step reads of itself, (R, H, l)."""
    products = (chunks.C * chunks.B).sum(-1).view(-1, chunks.groups, chunks.C.shape[1])
    return products.repeat_interleave(chunks.x.shape[1] // chunks.groups, dim=1)


def _reached(
    chunks: _Chunks, x: Tensor, weight: Tensor, B: Tensor, batch: int, *, reverse: bool = False
) -> Tensor:
    """The sums of weight x B^T over the chunks before each chunk (after it, in reverse), decayed: (R G, K P, N).

    x (R, H, l, P), weight (R, H, l), B (R G, l, N).
    """
    rows, heads, _, head_dim = x.shape
    n = B.shape[-1]
    if rows == batch:
        return B.new_zeros(rows * chunks.groups, heads // chunks.groups * head_dim, n)
    added = _side_by_side(x, weight, chunks.groups).mT @ B
    by_chunk = (batch, rows // batch, heads)
    decay = chunks.grow[..., -1].reshape(*by_chunk, 1, 1)
    return scan_chunks(added.view(*by_chunk, head_dim, n), decay, reverse=reverse).view(added.shape)


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, size: int
    ) -> Tensor:
        batch, length, heads, head_dim = x.shape
        chunks = _split(x, dt, A, B, C, size)
        starts = _reached(chunks, chunks.x, chunks.dt * chunks.fade, chunks.B, batch)
        before = x.new_empty(chunks.x.shape if length > size else 0)
        y = x.new_empty(x.shape)
        by_chunk = y.view(-1, size, heads, head_dim).transpose(1, 2)
        for part in parts(x, chunks.x.shape[0], heads * size * max(size, head_dim)):
            now, start = _select(chunks, part), starts[_by_group(part, chunks.groups)]
            # What step i reads of step j in its chunk: decays_ij C_i^T B_j.
            scores = _times_products(_decays(now.log_decay, x.dtype), now.C @ now.B.mT, chunks.groups)
            outputs = scores @ (now.x * now.dt[..., None])
            if length > size:
                before[part] = _by_head(now.C @ start.mT, chunks.groups, heads) * now.grow[..., None]
                outputs += before[part]
            through = _direct(now) * now.dt
            if D is not None:
                through += D[:, None]
            by_chunk[part] = outputs.addcmul_(now.x, through[..., None])
        ctx.save_for_backward(x, dt, A, B, C, D, before, starts)
        ctx.size = size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, dt, A, B, C, D, before, starts = ctx.saved_tensors
        with full_precision(x.device):
            return *_differentiate(grad, x, dt, A, B, C, D, before, starts, ctx.size), None


def _differentiate(
    grad: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    before: Tensor,
    starts: Tensor,
    size: int,
) -> tuple[Tensor | None, ...]:
    """The gradients with respect to x, dt, A, B, C and D; ``before`` is what each step reads of earlier chunks.

    What a step k decays is all that steps i >= k read of steps j < k, in four parts: both in the chunk (a rectangle of
    the matrix of what i reads of j), j before it, i after it, or both outside. What a step reads of itself is in none.
    """
    batch, length, heads, head_dim = x.shape
    chunks = _split(x, dt, A, B, C, size)
    groups = chunks.groups
    dy = grad.reshape(-1, size, heads, head_dim).transpose(1, 2)
    ends = _reached(chunks, dy, chunks.grow, chunks.C, batch, reverse=True)
    dx, dB, dC = x.new_empty(x.shape), torch.empty_like(chunks.B), torch.empty_like(chunks.C)
    dx_by_chunk = dx.view(-1, size, heads, head_dim).transpose(1, 2)
    dlog_decay, ddt = torch.empty_like(chunks.dt), torch.empty_like(chunks.dt)
    dD = None if D is None else torch.zeros_like(D)
    for part in parts(x, chunks.x.shape[0], heads * size * max(size, head_dim)):
        pairs = _by_group(part, groups)
        now, start, after = _select(chunks, part), starts[pairs], ends[pairs]
        dy_now, u = dy[part].contiguous(), now.x * now.dt[..., None]
        decays = _decays(now.log_decay, x.dtype)
        dscores = (dy_now @ u.mT).mul_(decays)
        dproducts = dscores.view(-1, heads // groups, size, size).sum(1)
        direct = (dy_now * now.x).sum(-1)
        dproducts.diagonal(dim1=1, dim2=2).add_((direct * now.dt).view(-1, heads // groups, size).sum(1))
        products = now.C @ now.B.mT
        dlog_decay[part] = _rectangles(_times_products(dscores, products, groups))
        du = _times_products(decays, products, groups).mT @ dy_now
        dB_now, dC_now = dproducts.mT @ now.C, dproducts @ now.B
        if length > size:
            later = _by_head(now.B @ after.mT, groups, heads) * now.fade[..., None]
            du += later
            dlog_decay[part] += _from_here((dy_now * before[part]).sum(-1))
            dlog_decay[part] += _until_here((later * u).sum(-1))
            dB_now += _side_by_side(u, now.fade, groups) @ after
            dC_now += _side_by_side(dy_now, now.grow, groups) @ start
        dB[pairs], dC[pairs] = dB_now, dC_now
        through = _direct(now)
        ddt[part] = (du * now.x).sum(-1) + through * direct
        through = through * now.dt
        if D is not None and dD is not None:
            through += D[:, None]
            dD += direct.sum((0, 2))
        dx_by_chunk[part] = (du * now.dt[..., None]).addcmul_(dy_now, through[..., None])
    if length > size:
        across = (starts * ends).view(chunks.dt.shape[0], heads, -1).sum(-1)
        dlog_decay += (across * chunks.grow[..., -1])[..., None]
    ddt.addcmul_(A[:, None], dlog_decay)
    dA = (chunks.dt * dlog_decay).sum((0, 2))
    return dx, ddt.mT.reshape(dt.shape), dA, _as_given(dB, B), _as_given(dC, C), dD


def _rectangles(x: Tensor) -> Tensor:
    """The sums of x_ij over i >= k > j for each k; x (R, H, l, l), zero where j >= i. Returns (R, H, l).

    From one k to the next, row k leaves and column k joins: exact but for what float64 rounds.
    """
    exact = x.double()
    return _from_here(exact.sum(-1) - exact.sum(-2)).to(x.dtype)


def _from_here(x: Tensor) -> Tensor:
    """The sum of x (..., l) over each step and those after it."""
    return x.flip(-1).cumsum(-1).flip(-1)


def _until_here(x: Tensor) -> Tensor:
    """The sum of x (..., l) over the steps before each step."""
    return functional.pad(x, (1, -1)).cumsum(-1)


def _as_given(x: Tensor, like: Tensor) -> Tensor:
    """x (R G, l, N) in the layout of B and C, (batch, length, groups, N)."""
    groups = like.shape[2]
    return x.view(-1, groups, *x.shape[1:]).transpose(1, 2).reshape(like.shape)


@torch.no_grad()
def ssd_state_moments(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Sum over batch, time, the heads of a group and the P rows of weight h^T h, h being a row of a state of ``ssd``.

    Shapes as for ``ssd``; weight (batch, length, heads, P) >= 0. Returns (groups, N, N) in float64. The states have the
    common dtype of the inputs, float32 at least: pass float64 where singular values far below 1e-3 of the largest
    matter. The states of one step are held at a time: some three times batch x heads x P x N entries.
    Raises ValueError where heads are not divisible by groups, or B has other groups.
    """
    _check(x, B)
    if B.shape[2] != groups:
        raise ValueError(f"B has {B.shape[2]} groups, not {groups}")
    batch, length, heads, head_dim = x.shape
    n = B.shape[-1]
    with full_precision(x.device):
        x, dt, A, B, weight = at_least_float32(x, dt, A, B, weight)
        # Rows of states are (batch, heads of the group, P), the group in front for one product a group.
        u = (x * dt[..., None]).view(batch, length, groups, -1, head_dim).permute(1, 2, 0, 3, 4).flatten(2)
        decay = torch.exp(dt * A).view(batch, length, groups, -1, 1).expand(-1, -1, -1, -1, head_dim)
        decay = decay.permute(1, 2, 0, 3, 4).flatten(2)
        root = weight.sqrt().view(batch, length, groups, -1, head_dim).permute(1, 2, 0, 3, 4).flatten(2)
        rows = heads // groups * head_dim
        h = x.new_zeros(groups, batch * rows, n)
        moments = torch.zeros(groups, n, n, dtype=torch.float64, device=x.device)
        for t in range(length):
            entering = B[:, t].transpose(0, 1)[:, :, None].expand(-1, -1, rows, -1).reshape(h.shape)
            h = torch.addcmul(h * decay[t, ..., None], u[t, ..., None], entering)
            weighted = h * root[t, ..., None]
            moments += weighted.mT @ weighted
    return moments
