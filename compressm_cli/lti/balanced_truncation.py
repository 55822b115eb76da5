"""Balanced truncation by the square-root method."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compressm_cli.lti.balancing import Balancing, balance_real_form, balance_realization
from compressm_cli.lti.real_form import conjugate_half, from_real_coordinates
from compressm_cli.lti.realization import Realization


@dataclass(frozen=True, eq=False)
class BalancedTruncation:
    """A reduced system and the coordinates that gave it: ``x ~= right z``, ``z = left^H x``."""

    realization: Realization
    """The reduced system, dense, of the order asked for."""
    hsv: Tensor
    """All n Hankel singular values of the full system, descending, float64."""
    left: Tensor
    """W (n, order), with W^H T = I."""
    right: Tensor
    """T (n, order)."""


def balanced_truncation(r: Realization, order: int) -> BalancedTruncation:
    """Keep the ``order`` states that matter most to the map from input to output.

    The reduced system is stable and, in the H-infinity norm, within ``error_bound(hsv, order)`` of ``r``
    (Antoulas 2005, section 7.2; discrete time: Hinrichsen and Pritchard 1990). For a conjugate-closed
    diagonal ``r`` (what ``Realization.real_output`` gives) the work is done in real arithmetic and the
    reduced system is real; ``left`` and ``right`` still refer to the states of ``r``.

    Raises ValueError for an unstable system, and for an order that is not between 1 and the numerical
    rank (``Balancing.rank``): beyond it no coordinates exist that are controllable and observable.
    """
    half = conjugate_half(r)
    balancing = balance_realization(r) if half is None else balance_real_form(half)
    _check_order(order, r.order, balancing)
    left, right = balancing.coordinates(slice(order))
    if half is not None:
        left, right = from_real_coordinates(left), from_real_coordinates(right)
    return BalancedTruncation(project(r, left, right), balancing.hsv, left, right)


def project(r: Realization, left: Tensor, right: Tensor) -> Realization:
    """The dense system ``(W^H A T, W^H B, C T, D)`` for W = ``left``, T = ``right``, both (n, k).

    Real when ``r`` and the projections are, or when all of them are conjugate-closed. Raises ValueError for
    shapes that do not fit.
    """
    if left.ndim != 2 or left.shape != right.shape or left.shape[0] != r.order:
        raise ValueError(
            f"left and right must both have shape (n, k) with n = {r.order}, "
            f"got {tuple(left.shape)} and {tuple(right.shape)}"
        )
    half = conjugate_half(r)
    if half is not None and _is_conjugate_closed(left) and _is_conjugate_closed(right):
        # Both halves of each product are conjugates of one another: sum = twice the real part.
        W, T = left[: half.order].mH, right[: half.order]
        A, B, C = 2 * (W @ (half.A[:, None] * T)).real, 2 * (W @ half.B).real, (half.C @ T).real
        return Realization(A, B, C, None if r.D is None else r.D.real)
    dtype = torch.promote_types(r.A.dtype, torch.promote_types(left.dtype, right.dtype))
    W, T = left.to(dtype).mH, right.to(dtype)
    A = r.A.to(dtype)
    AT = A[:, None] * T if r.is_diagonal else A @ T
    return Realization(W @ AT, W @ r.B.to(dtype), r.C.to(dtype) @ T, r.D)


def _is_conjugate_closed(X: Tensor) -> bool:
    n = len(X) // 2
    return X.is_complex() and 2 * n == len(X) and torch.equal(X[n:], X[:n].conj())


def _check_order(order: int, n: int, balancing: Balancing) -> None:
    if not 1 <= order <= n:
        raise ValueError(f"order out of range: must be from 1 to {n}, got {order}")
    if order > balancing.rank:
        raise ValueError(
            f"order out of range: the numerical rank of the system is {balancing.rank} "
            f"(Hankel singular values above round-off), got {order}"
        )
