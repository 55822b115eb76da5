"""Gated linear attention: a recurrence with a matrix as state and a decay of its own for each of its N rows.

Chunk by chunk, as in Yang et al., *Gated Linear Attention Transformers with Hardware-Efficient Training*, 2023. The
products within a chunk need exp(G_i - G_j) for i > j, G being the sum of the log decays, and exp(-G_j) overflows where
the decay is strong. So a chunk is halved again and again: what the second half reads of the first is weighted by
exp(G_i - G_middle) exp(G_middle - G_j), neither above one, and each of these exponents is a sum of log decays, never a
difference of sums, so that none loses precision either.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.ops.chunked import at_least_float32, full_precision, pad_length, parts, scan_chunks


def gated_linear_attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, *, chunk: int = 64) -> Tensor:
    """y_t = h_t^T q_t with h_t = diag(exp(log_decay_t)) h_{t-1} + k_t v_t^T, an (N, P) state a head, h_0 = 0.

    q, k and log_decay <= 0 (batch, length, heads, N), v (batch, length, heads, P). Returns (batch, length, heads, P) in
    the common dtype of the inputs, float32 at least, whatever autocast says. Cost is linear in length; what is kept for
    the gradient is the inputs and the states at the ends of chunks of at most ``chunk`` steps, a power of two, and of
    these only what the gradients that are asked for need.
    Raises ValueError where an input is empty, or ``chunk`` is no power of two.
    """
    _check(k, v, chunk)
    length = q.shape[1]
    size = min(chunk, _power_of_two(length))
    size = min(size, _power_of_two(-(-length // -(-length // size))))
    with full_precision(q.device):
        padded = (pad_length(t, -(-length // size) * size) for t in at_least_float32(q, k, v, log_decay))
        return _GatedLinearAttention.apply(*padded, size)[:, :length]


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _check(k: Tensor, v: Tensor, chunk: int = 1) -> None:
    if chunk < 1 or chunk & (chunk - 1):
        raise ValueError(f"the steps of a chunk are a power of two, not {chunk}")
    if 0 in k.shape or 0 in v.shape:
        raise ValueError(f"there is nothing to compute: k is {tuple(k.shape)}, v is {tuple(v.shape)}")


def _by_chunk(x: Tensor, size: int) -> Tensor:
    """(batch, length, heads, m) as (batch * chunks, heads, l, m), a view where x is contiguous; empty as it is."""
    return x if x.ndim == 1 else x.reshape(-1, size, *x.shape[2:]).transpose(1, 2)


def _rows(x: Tensor, part: slice) -> Tensor:
    """Some chunks with their heads, (R, l, m); empty as it is."""
    return x if x.ndim == 1 else x[part].flatten(0, 1)


def _up_to(log_decay: Tensor) -> Tensor:
    """Decay from the start of the chunk up to each step, this one included; over the last axis but one."""
    return log_decay.cumsum(-2).exp_()


def _onward(log_decay: Tensor) -> Tensor:
    """Decay from after each step up to the end of the chunk."""
    later = functional.pad(log_decay[..., 1:, :], (0, 0, 0, 1))
    return _from_the_end(later).exp_()


def _from_the_end(x: Tensor) -> Tensor:
    """The sum over each step and those after it."""
    return x.flip(-2).cumsum(-2).flip(-2)


def _halves(x: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """First and second halves of blocks of twice so many steps: x (R, l, m) as two views (R, blocks, steps, m)."""
    blocks = x.view(x.shape[0], -1, 2, steps, x.shape[2])
    return blocks[:, :, 0], blocks[:, :, 1]


def _lower(scores: Tensor, steps: int) -> Tensor:
    """Second halves against first halves: scores (R, l, l) as a view (R, blocks, steps, steps)."""
    blocks = scores.shape[1] // (2 * steps)
    quarters = scores.view(-1, blocks, 2, steps, blocks, 2, steps).diagonal(dim1=1, dim2=4)
    return quarters[:, 1, :, 0].movedim(-1, 1)


def _halvings(log_decay: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The chunk in blocks of 2, 4, ... steps: (steps of half a block, decays in the second halves, in the first).

    log_decay (R, l, N), decays (R, blocks, steps, N): in a second half up to each step, in a first half after it.
    """
    before, after = log_decay.clone(), torch.zeros_like(log_decay)
    steps = 1
    while steps < log_decay.shape[1]:
        (before_first, before_second), (after_first, _) = _halves(before, steps), _halves(after, steps)
        yield steps, before_second.exp(), after_first.exp()
        after_first += before_second[:, :, -1:]
        before_second += before_first[:, :, -1:]
        steps *= 2


def _reached(keys: Tensor, values: Tensor, decay: Tensor, batch: int, *, reverse: bool = False) -> Tensor:
    """The sums of keys^T values over the chunks before each chunk (after it, in reverse), decayed: (R, heads, N, P).

    keys (R, heads, l, N), values (R, heads, l, P), decay of a whole chunk (R, heads, N); R is batch times chunks.
    """
    added = keys.mT @ values
    by_chunk = (batch, added.shape[0] // batch)
    carried = scan_chunks(
        added.unflatten(0, by_chunk), decay.unflatten(0, by_chunk)[..., None], reverse=reverse
    )
    return carried.flatten(0, 1)


class _Needs(NamedTuple):
    """Whose gradients are asked for; that of the decays follows from those of q and k."""

    q: bool
    k: bool
    v: bool
    log_decay: bool

    @property
    def of_q(self) -> bool:
        return self.q or self.log_decay

    @property
    def of_k(self) -> bool:
        return self.k or self.log_decay

    @property
    def scores(self) -> bool:
        """Of what each step reads of each, the products of q and k."""
        return self.q or self.k or self.log_decay

    @property
    def ends(self) -> bool:
        """Of the states at the ends of the chunks."""
        return self.of_k or self.v


class _GatedLinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, size: int) -> Tensor:
        batch, length, heads, n = q.shape
        inputs = [_by_chunk(t, size) for t in (q, k, v, log_decay)]
        starts = empty = q.new_empty(0)
        if length > size:
            keys = inputs[1] * _onward(inputs[3])
            starts = _reached(keys, inputs[2], inputs[3].sum(-2).exp(), batch)
        y = torch.empty_like(v, memory_format=torch.contiguous_format)
        by_chunk = _by_chunk(y, size)
        for part in parts(q, by_chunk.shape[0], heads * size * max(size, n, v.shape[3])):
            q_now, k_now, v_now, g_now = (t[part].flatten(0, 1) for t in inputs)
            outputs = _scores(q_now, k_now, g_now) @ v_now
            if length > size:
                outputs += (q_now * _up_to(g_now)) @ starts[part].flatten(0, 1)
            by_chunk[part] = outputs.unflatten(0, (-1, heads))
        needs = _Needs(*ctx.needs_input_grad[:-1])
        needed = (needs.ends, needs.of_q or needs.v, needs.scores, any(needs), needs.of_q)
        kept = zip((q, k, v, log_decay, starts), needed, strict=True)
        ctx.save_for_backward(*(tensor if needs_it else empty for tensor, needs_it in kept))
        ctx.size = size
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = _Needs(*ctx.needs_input_grad[:-1])
        with full_precision(grad.device):
            return *_differentiate(needs, ctx.size, grad.contiguous(), *ctx.saved_tensors), None


def _differentiate(
    needs: _Needs,
    size: int,
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    starts: Tensor,
) -> list[Tensor | None]:
    """The gradients with respect to q, k, v and log_decay.

    The decays need no products of their own. What a step decays is all that it and later steps read of earlier ones;
    for each of the N rows that is the sum from there on of q * grad q - k * grad k, plus <state, gradient of the state>
    at the end of the chunk. What a step reads of itself would cancel in it, but for rounding, and is left out.
    """
    (batch, length, heads, p), n = grad.shape, log_decay.shape[3]
    q, k, v, g, dy = (_by_chunk(t, size) for t in (q, k, v, log_decay, grad))
    ends = crossing = grad.new_empty(0)
    if length > size and needs.ends:
        ends = _reached(q * _up_to(g), dy, g.sum(-2).exp(), batch, reverse=True)
    if length > size and needs.log_decay:
        crossing = _across(starts, ends, batch)
    lengths = zip(needs, (n, n, p, n), strict=True)
    gradients = [grad.new_empty(*grad.shape[:3], m) if needed else None for needed, m in lengths]
    for part in parts(grad, dy.shape[0], heads * size * max(size, n, p)):
        now = [_rows(t, part) for t in (q, k, v, g, dy, starts, ends, crossing)]
        for whole, gradient in zip(gradients, _part_gradients(needs, *now), strict=True):
            if whole is not None and gradient is not None:
                _by_chunk(whole, size)[part] = gradient.unflatten(0, (-1, heads))
    return gradients


def _part_gradients(
    needs: _Needs,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    dy: Tensor,
    before: Tensor,
    after: Tensor,
    crossing: Tensor,
) -> tuple[Tensor | None, ...]:
    """Those of some chunks, (R, l, m) each; ``before`` and ``after`` are the states and their gradients, or empty."""
    dscores = dy @ v.mT if needs.scores else None
    scores, dq, dk = _inside(q, k, log_decay, dscores, needs)
    dv = None if scores is None else scores.mT @ dy
    if dq is not None and len(before):
        dq.addcmul_(dy @ before.mT, _up_to(log_decay))
    if len(after):
        onward = _onward(log_decay)
        if dk is not None:
            dk.addcmul_(v @ after.mT, onward)
        if dv is not None:
            dv += (k * onward) @ after
    dg = None
    if needs.log_decay and dq is not None and dk is not None:
        dg = _from_the_end(q * dq - k * dk)
        if len(crossing):
            dg += crossing
    if dscores is not None:
        direct = dscores.diagonal(dim1=1, dim2=2)[..., None]
        dq = dq.addcmul_(direct, k) if dq is not None and needs.q else None
        dk = dk.addcmul_(direct, q) if dk is not None and needs.k else None
    return dq, dk, dv, dg


def _inside(
    q: Tensor, k: Tensor, log_decay: Tensor, dscores: Tensor | None, needs: _Needs
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Of a chunk by itself: the scores, for dv; dq and dk, but for what a step reads of itself."""
    scores = _own_scores(q, k) if needs.v else None
    dq = torch.zeros_like(log_decay) if needs.of_q else None
    dk = torch.zeros_like(log_decay) if needs.of_k else None
    for steps, up_to, onward in _halvings(log_decay):
        reading = _halves(q, steps)[1] * up_to if needs.ends else q
        read = _halves(k, steps)[0] * onward if needs.of_q or needs.v else k
        if scores is not None:
            _lower(scores, steps).copy_(reading @ read.mT)
        if dscores is None:
            continue
        block = _lower(dscores, steps)
        if dq is not None:
            _halves(dq, steps)[1].addcmul_(block @ read, up_to)
        if dk is not None:
            _halves(dk, steps)[0].addcmul_(block.mT @ reading, onward)
    return scores, dq, dk


def _own_scores(q: Tensor, k: Tensor) -> Tensor:
    """(R, l, l): what each step reads of itself on the diagonal, else zero."""
    scores = q.new_zeros(q.shape[0], q.shape[1], q.shape[1])
    scores.diagonal(dim1=1, dim2=2).copy_((q * k).sum(-1))
    return scores


def _scores(q: Tensor, k: Tensor, log_decay: Tensor) -> Tensor:
    """What each step reads of itself and of those before it, (R, l, l); q, k and log_decay (R, l, N)."""
    scores = _own_scores(q, k)
    for steps, up_to, onward in _halvings(log_decay):
        reading, read = _halves(q, steps)[1] * up_to, _halves(k, steps)[0] * onward
        _lower(scores, steps).copy_(reading @ read.mT)
    return scores


def _across(starts: Tensor, ends: Tensor, batch: int) -> Tensor:
    """<state, gradient of the state> at the end of each chunk for each of the N rows: (R, heads, 1, N)."""
    starts, ends = (t.unflatten(0, (batch, -1)) for t in (starts, ends))
    products = (starts[:, 1:] * ends[:, :-1]).sum(-1)
    return functional.pad(products, (0, 0, 0, 0, 0, 1)).flatten(0, 1)[:, :, None]


@torch.no_grad()
def gla_state_moments(k: Tensor, v: Tensor, log_decay: Tensor, weight: Tensor) -> Tensor:
    """Sum over batch, time and the P columns of weight h h^T, h being a column of a state of gated linear attention.

    Shapes as for ``gated_linear_attention``; weight (batch, length, heads, P) >= 0. Returns (heads, N, N) in float64.
    The states have the common dtype of the inputs, float32 at least: pass float64 where singular values far below 1e-3
    of the largest matter. The states of one step are held at a time: some three times batch x heads x P x N entries.
    Raises ValueError where an input is empty.
    """
    _check(k, v)
    _, length, heads, n = k.shape
    moments = torch.zeros(heads, n, n, dtype=torch.float64, device=k.device)
    with full_precision(k.device):
        k, v, log_decay, weight = (t.transpose(0, 2) for t in at_least_float32(k, v, log_decay, weight))
        decay, root = log_decay.exp(), weight.sqrt()  # (heads, length, batch, ...)
        h = k.new_zeros(heads, k.shape[2], v.shape[3], n)
        for t in range(length):
            h = torch.addcmul(h * decay[:, t, :, None], v[:, t, ..., None], k[:, t, :, None])
            weighted = (h * root[:, t, ..., None]).flatten(1, 2)
            moments += weighted.mT @ weighted
    return moments
