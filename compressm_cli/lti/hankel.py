"""Hankel singular values, and what they say about a truncation."""

import torch
from torch import Tensor

from compressm_cli.lti.balancing import balance_real_form, balance_realization
from compressm_cli.lti.real_form import conjugate_half
from compressm_cli.lti.realization import Realization


def hankel_singular_values(r: Realization) -> Tensor:
    """``sigma_i = sqrt(eig_i(P Q))``, descending, (n,) float64; invariant under change of basis.

    Singular values of Lq^H Lp for factors P = Lp Lp^H and Q = Lq Lq^H (never eigenvalues of P Q), with an
    absolute error of round-off times the largest value. Raises ValueError for an unstable system.
    """
    half = conjugate_half(r)
    return balance_realization(r).hsv if half is None else balance_real_form(half).hsv


def order_for_energy(hsv: Tensor, energy_threshold: float) -> int:
    """The smallest k whose leading k values hold at least ``energy_threshold`` of the Hankel energy.

    The Hankel energy is the sum of the values (not of their squares). A threshold of 1 keeps all; if
    all values are zero, one is kept. Raises ValueError for a threshold outside (0, 1] and for ``hsv``
    that are not (n,) descending, finite and non-negative.
    """
    if not 0.0 < energy_threshold <= 1.0:
        raise ValueError(f"energy_threshold must be above 0 and at most 1, got {energy_threshold}")
    values = _checked(hsv)
    kept = values.cumsum(0)
    if float(kept[-1]) == 0.0:
        return 1
    if energy_threshold == 1.0:
        return len(values)
    # The last partial sum is the total, so that rounding cannot leave every partial sum below it.
    return int((kept < energy_threshold * kept[-1]).sum()) + 1


def error_bound(hsv: Tensor, order: int) -> float:
    """``2 * sum(hsv[order:])``: bound on the H-infinity error of a balanced truncation to ``order``.

    Glover (1984) and Enns (1984); for discrete time Hinrichsen and Pritchard (1990). Raises ValueError for an
    order outside 0 to n.
    """
    values = _checked(hsv)
    if not 0 <= order <= len(values):
        raise ValueError(f"order out of range: must be from 0 to {len(values)}, got {order}")
    return 2.0 * float(values[order:].sum())


def _checked(hsv: Tensor) -> Tensor:
    values = torch.as_tensor(hsv).detach().double()
    if values.ndim != 1 or not len(values):
        raise ValueError(f"hsv must have shape (n,) with n >= 1, got {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()) or bool((values.diff() > 0).any()):
        raise ValueError("hsv must be finite, non-negative and descending")
    return values
