"""Second moments of the states that a recurrence with a decay a channel or head goes through, summed over batches.

States are simulated a step at a time and reduced to their moments in pieces of bounded size: never are all kept.
"""

import torch
from torch import Tensor

from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.layers.selective import ChannelTrace, HeadTrace, VectorTrace
from compressm_cli.methods.hankel.empirical import products
from compressm_cli.methods.hankel.selective.excerpt import MOST_STEPS
from compressm_cli.ops import gla_state_moments, ssd_state_moments
from compressm_cli.ops.states import scaled_states

_PIECE_ENTRIES = 2**22


def selective_bytes(layer: StateSpaceLayer, rows: int, length: int) -> tuple[int, int]:
    """About what is kept of a layer's inputs, and what its reduction takes, where so many rows are passed at once.

    A reduction takes the traces in float64, and for each step of some rows the states, old and new.
    """
    steps = max(MOST_STEPS, length)
    sizes = [p.numel() for name, p in layer.named_parameters() if name in layer.recurrent_parameters]
    states = max(sizes, default=0)
    piece = min(_PIECE_ENTRIES, min(rows * length, steps) * 2 * states)
    return 4 * layer.model_dim * steps, 8 * (piece + 8 * layer.model_dim * steps)


def channel_moments(
    traces: list[ChannelTrace], A: Tensor, to_input: Tensor, by_channel: bool = False
) -> Tensor:
    """Sum of ``w h h^T`` over steps, rows and channels of states with decays A (D, K), driven by ``to_input B``.

    to_input (K, N). Returns (K, K) float64, or (D, K, K) ``by_channel``. Memory: some 64 MB beside the result.
    """
    channels, K = A.shape
    A = A.double()
    total = A.new_zeros(channels if by_channel else 1, K, K)
    for trace in traces:
        dt, B = trace.dt.double(), trace.B.double() @ to_input.double().mT
        drive, scale = dt * trace.x.double(), trace.weight.double().sqrt()
        h = dt.new_zeros(dt.shape[0], channels, K)
        piece = max(1, _PIECE_ENTRIES // h.numel())
        for start in range(0, dt.shape[1], piece):
            now = slice(start, start + piece)
            states = scaled_states(h, dt[:, now], drive[:, now], A, B[:, now], scale[:, now])
            if by_channel:
                flat = states.flatten(0, 1).transpose(0, 1)
                total += flat.mT @ flat
            else:
                flat = states.flatten(0, 2)
                total[0] += products(flat, flat)
    return total if by_channel else total[0]


def head_moments(traces: list[HeadTrace]) -> Tensor:
    """Sum of ``w h^T h`` over steps, rows, the heads of a group and their channels: (groups, N, N) float64."""
    groups = traces[0].B.shape[2]
    parts = []
    for trace in traces:
        x, dt, A, B, weight = (value.double() for value in (*driven(trace), trace.B, trace.weight))
        parts.append(ssd_state_moments(x, dt, A, B, weight, groups))
    return torch.stack(parts).sum(0)


def vector_moments(traces: list[VectorTrace]) -> Tensor:
    """Sum of ``w h h^T`` over steps, rows and value channels of each head: (heads, N, N) float64."""
    parts = [gla_state_moments(*(x.double() for x in (t.k, t.v, t.log_decay, t.weight))) for t in traces]
    return torch.stack(parts).sum(0)


def vector_products(vectors: list[Tensor]) -> Tensor:
    """Sum of ``v v^T`` over steps, of (steps, groups, N) each: (groups, N, N) float64."""
    flat = [v.double().transpose(0, 1) for v in vectors]
    return torch.stack([f.mT @ f for f in flat]).sum(0)


def expected_loss(P: Tensor, Q: Tensor, lost: Tensor) -> float:
    """``E |h^T L C|^2`` for P = E[h h^T], Q = E[C C^T] and a C that is uncorrelated with h; (..., N, N), summed."""
    return float(torch.einsum("...ij,...jk,...kl,...il->...", P, lost, Q, lost).sum().clamp_min(0.0))


def driven(trace: HeadTrace) -> tuple[Tensor, Tensor, Tensor]:
    """x, dt and A of ``ops.ssd`` for a trace's inputs and decays: A = -1, so that step sizes are the log decays."""
    dt = (-trace.log_decay).clamp_min(torch.finfo(trace.log_decay.dtype).tiny ** 0.5)
    return trace.u / dt[..., None], dt, -dt.new_ones(dt.shape[2])
