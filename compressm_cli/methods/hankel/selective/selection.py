"""Choosing some of a layer's states, and what the kept ones can tell of the dropped ones."""

from dataclasses import dataclass

import torch
from torch import Tensor

_RIDGE = 1e-10


@dataclass(frozen=True)
class Fold:
    """Kept states and the read-out that they take over."""

    keep: Tensor
    """(r,) int64, in the order of choice."""
    to_output: Tensor
    """(r, N) float64, ``M`` of ``C' = M C``: the kept states' regression on all, transposed."""
    error: float
    """``tr(Q (P - P_:S P_SS^-1 P_S:))``: mean square of the output's error, where C and h are uncorrelated."""


def top(score: Tensor, order: int) -> Tensor:
    """Indices (order,) of the largest entries, ascending."""
    return torch.argsort(score, descending=True, stable=True)[:order].sort().values


def coordinates(keep: Tensor, states: int) -> Tensor:
    """(r, states) float64: the rows of the identity that ``keep`` (r,) names."""
    return torch.eye(states, dtype=torch.float64, device=keep.device)[keep]


def pivoted_fold(P: Tensor, Q: Tensor, order: int) -> Fold:
    """Keep the states that, one after the other, explain most of the read-out of the others.

    P = E[w h h^T] and Q = E[C C^T], both (N, N). Greedily the largest ``(R Q R)_nn / R_nn`` of the residual R:
    Cholesky with pivots weighted by Q. The dropped states are then interpolated from the kept ones.
    """
    R = P.clone()
    keep: list[int] = []
    floor = _RIDGE * P.diagonal().clamp_min(0.0)
    for _ in range(order):
        d = R.diagonal()
        gain = torch.einsum("in,ij,jn->n", R, Q, R) / d.clamp_min(1e-300)
        gain[d <= floor] = 0.0
        gain[keep] = -1.0
        n = int(gain.argmax())
        keep.append(n)
        if d[n] > floor[n]:
            R = R - torch.outer(R[:, n], R[:, n]) / d[n]
    kept = torch.tensor(keep, device=P.device)
    read = interpolation(P, kept)
    return Fold(kept, read, float(((P - P[:, kept] @ read) * Q).sum().clamp_min(0.0)))


def interpolation(P: Tensor, keep: Tensor) -> Tensor:
    """``P_SS^-1 P_S:`` (r, N), the regression of all states on the kept ones; the kept ones stay themselves."""
    read = regression(P[keep][:, keep], P[keep])
    read[:, keep] = torch.eye(len(keep), dtype=P.dtype, device=P.device)
    return read


def regression(inner: Tensor, cross: Tensor) -> Tensor:
    """``inner^-1 cross`` for a positive semidefinite ``inner`` (r, r), scaled first and with a small ridge."""
    scale = inner.diagonal().clamp_min(0.0).sqrt()
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    scaled = inner / scale[:, None] / scale
    scaled = scaled + _RIDGE * torch.eye(len(inner), dtype=inner.dtype, device=inner.device)
    return torch.linalg.solve(scaled, cross / scale[:, None]) / scale[:, None]
