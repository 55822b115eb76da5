"""Mamba-2's state space duality: a recurrence with a matrix as state and one decay a head, chunk by chunk.

Within a chunk the recurrence is a product with a lower triangular matrix; between chunks the states are scanned
(Dao and Gu, *Transformers are SSMs*, 2024). With dt = 1 and A = log(decay) it is linear attention with scalar decay.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.ops import ssd_chunks
from compressm_cli.ops.chunked import at_least_float32, full_precision, pad_length, parts


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


class _Needs(NamedTuple):
    """Whose gradients are asked for."""

    x: bool
    dt: bool
    A: bool
    B: bool
    C: bool
    D: bool

    @property
    def recurrence(self) -> bool:
        """Any but that of D, which reads x alone."""
        return self.x or self.dt or self.A or self.B or self.C

    @property
    def rates(self) -> bool:
        """Of the log decays dt A."""
        return self.dt or self.A

    @property
    def inputs(self) -> bool:
        """Of u = dt x."""
        return self.x or self.dt

    @property
    def later(self) -> bool:
        """What later chunks read of this one's inputs."""
        return self.inputs or self.rates

    @property
    def products(self) -> bool:
        """Of C_i^T B_j."""
        return self.B or self.C

    @property
    def scores(self) -> bool:
        """Of what each step reads of each, decays_ij C_i^T B_j."""
        return self.rates or self.products


class _SSD(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None, size: int
    ) -> Tensor:
        needs = _Needs(*ctx.needs_input_grad[:-1])
        batch, length, heads, head_dim = x.shape
        chunks = ssd_chunks.split(x, dt, A, B, C, size)
        starts = before = x.new_empty(0)
        if length > size:
            starts = ssd_chunks.reached(chunks, chunks.x, chunks.dt * chunks.fade, chunks.B, batch)
            before = x.new_empty(chunks.x.shape) if needs.rates else before
        y = x.new_empty(x.shape)
        by_chunk = ssd_chunks.heads_by_chunk(y, size)
        for part in parts(x, chunks.x.shape[0], heads * size * max(size, head_dim)):
            now = ssd_chunks.select(chunks, part)
            # What step i reads of step j in its chunk: decays_ij C_i^T B_j.
            scores = ssd_chunks.times_products(
                ssd_chunks.decays(now.log_decay, x.dtype), now.C @ now.B.mT, chunks.groups
            )
            outputs = scores @ (now.x * now.dt[..., None])
            if length > size:
                start = starts[ssd_chunks.by_group(part, chunks.groups)]
                earlier = ssd_chunks.by_head(now.C @ start.mT, chunks.groups, heads) * now.grow[..., None]
                if needs.rates:
                    before[part] = earlier
                outputs += earlier
            through = ssd_chunks.direct(now) * now.dt
            if D is not None:
                through += D[:, None]
            by_chunk[part] = outputs.addcmul_(now.x, through[..., None])
        ctx.save_for_backward(*_kept(needs, x, dt, A, B, C, D, before, starts))
        ctx.size = size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = _Needs(*ctx.needs_input_grad[:-1])
        with full_precision(grad.device):
            if needs.recurrence:
                return *_differentiate(needs, ctx.size, grad, *ctx.saved_tensors), None
            dD = _skip_gradient(grad, ctx.saved_tensors[0], ctx.size)
            return None, None, None, None, None, dD, None


def _kept(
    needs: _Needs,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    before: Tensor,
    starts: Tensor,
) -> list[Tensor | None]:
    """What the gradients that are asked for are computed from; an empty tensor in the place of all else."""
    empty = x.new_empty(0)
    wanted = [
        (x, needs.scores or needs.D),
        (dt, needs.recurrence),
        (A, needs.recurrence),
        (B, needs.later or needs.C),
        (C, needs.later or needs.B),
        (before, needs.rates),
        (starts, needs.rates or needs.C),
    ]
    kept = [tensor if needed else empty for tensor, needed in wanted]
    return [*kept[:5], D if needs.x else None, *kept[5:]]


def _differentiate(
    needs: _Needs,
    size: int,
    grad: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    before: Tensor,
    starts: Tensor,
) -> tuple[Tensor | None, ...]:
    """The gradients with respect to x, dt, A, B, C and D; ``before`` is what each step reads of earlier chunks.

    What a step k decays is all that steps i >= k read of steps j < k, in four parts: both in the chunk (a rectangle of
    the matrix of what i reads of j), j before it, i after it, or both outside. What a step reads of itself is in none.
    """
    batch, length, heads, head_dim = grad.shape
    chunks, dy, empty = (
        ssd_chunks.split(x, dt, A, B, C, size),
        ssd_chunks.heads_by_chunk(grad, size),
        grad.new_empty(0),
    )
    groups = chunks.groups
    ends = empty
    if length > size and (needs.later or needs.B):
        ends = ssd_chunks.reached(chunks, dy, chunks.grow, chunks.C, batch, reverse=True)
    like = B if B.ndim == 4 else C
    dB, dC = (grad.new_empty(dy.shape[0] * groups, size, like.shape[3]) if n else None for n in needs[3:5])
    dx = grad.new_empty(grad.shape) if needs.x else None
    ddt = torch.empty_like(chunks.dt) if needs.dt else None
    dlog_decay = torch.empty_like(chunks.dt) if needs.rates else None
    dD = grad.new_zeros(heads) if needs.D else None
    for part in parts(grad, dy.shape[0], heads * size * max(size, head_dim)):
        pairs = ssd_chunks.by_group(part, groups)
        now, dy_now, after = ssd_chunks.select(chunks, part), dy[part].contiguous(), ends[pairs]
        u = now.x * now.dt[..., None] if needs.scores else empty
        decays = ssd_chunks.decays(now.log_decay, grad.dtype)
        dscores = (dy_now @ u.mT).mul_(decays) if needs.scores else empty
        direct = (dy_now * now.x).sum(-1) if needs.dt or needs.products or needs.D else empty
        dproducts = _products_gradient(dscores, direct * now.dt, groups) if needs.products else empty
        products = now.C @ now.B.mT if needs.later else empty
        later = empty
        if needs.later and length > size:
            later = ssd_chunks.by_head(now.B @ after.mT, groups, heads) * now.fade[..., None]
        if dlog_decay is not None:
            dlog_decay[part] = _rates_gradient(dy_now, dscores, products, before[part], later, u, groups)
        if dB is not None:
            dB[pairs] = _plus_across(dproducts.mT @ now.C, u, now.fade, after, groups)
        if dC is not None:
            dC[pairs] = _plus_across(dproducts @ now.B, dy_now, now.grow, starts[pairs], groups)
        if needs.inputs:
            du = ssd_chunks.times_products(decays, products, groups).mT @ dy_now
            du = du.add_(later) if len(later) else du
            through = ssd_chunks.direct(now)
            if ddt is not None:
                ddt[part] = (du * now.x).sum(-1) + through * direct
            if dx is not None:
                ssd_chunks.heads_by_chunk(dx, size)[part] = _x_gradient(
                    now.dt, dy_now, du, through * now.dt, D
                )
        if dD is not None:
            dD += direct.sum((0, 2))
    dA = None
    if dlog_decay is not None:
        if length > size:
            across = (starts * ends).view(dy.shape[0], heads, -1).sum(-1)
            dlog_decay += (across * chunks.grow[..., -1])[..., None]
        if ddt is not None:
            ddt.addcmul_(A[:, None], dlog_decay)
        if needs.A:
            dA = (chunks.dt * dlog_decay).sum((0, 2))
    ddt = None if ddt is None else ddt.mT.reshape(dt.shape)
    return dx, ddt, dA, *(None if t is None else _as_given(t, like) for t in (dB, dC)), dD


def _skip_gradient(grad: Tensor, x: Tensor, size: int) -> Tensor:
    """The gradient with respect to D alone."""
    _, _, heads, head_dim = grad.shape
    dy, by_chunk = ssd_chunks.heads_by_chunk(grad, size), ssd_chunks.heads_by_chunk(x, size)
    dD = grad.new_zeros(heads)
    for part in parts(grad, dy.shape[0], heads * size * max(size, head_dim)):
        dD += (dy[part].contiguous() * by_chunk[part]).sum(-1).sum((0, 2))
    return dD


def _products_gradient(dscores: Tensor, direct: Tensor, groups: int) -> Tensor:
    """With respect to C_i^T B_j, (R G, l, l): dscores (R, H, l, l) for j < i, direct (R, H, l) for j = i."""
    _, heads, size, _ = dscores.shape
    dproducts = dscores.view(-1, heads // groups, size, size).sum(1)
    dproducts.diagonal(dim1=1, dim2=2).add_(direct.view(-1, heads // groups, size).sum(1))
    return dproducts


def _plus_across(inside: Tensor, x: Tensor, weight: Tensor, states: Tensor, groups: int) -> Tensor:
    """A gradient of B or C (R G, l, N) from inside the chunk, and what comes through the states at its end or start."""
    return inside.add_(ssd_chunks.side_by_side(x, weight, groups) @ states) if len(states) else inside


def _rates_gradient(
    dy: Tensor, dscores: Tensor, products: Tensor, before: Tensor, later: Tensor, u: Tensor, groups: int
) -> Tensor:
    """With respect to the log decays (R, H, l), but for what passes by the whole chunk; dscores are used up."""
    rates = _rectangles(ssd_chunks.times_products(dscores, products, groups))
    if len(later):
        rates += _from_here((dy * before).sum(-1))
        rates += _until_here((later * u).sum(-1))
    return rates


def _x_gradient(dt: Tensor, dy: Tensor, du: Tensor, through: Tensor, D: Tensor | None) -> Tensor:
    """With respect to x (R, H, l, P), ``through`` (R, H, l) being what a step reads of itself without D."""
    if D is not None:
        through += D[:, None]
    return (du * dt[..., None]).addcmul_(dy, through[..., None])


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
