"""Real arithmetic for the real part of a complex diagonal system's output.

For real inputs, ``Re(C h)`` of a complex diagonal system of order n is the output of a real system of
order 2n with the state ``x = sqrt(2) [Re h; Im h]``. It is the unitary image of the conjugate-closed
realization ``Realization.real_output()``, state ``[h; conj h]``:

    x = J [h; conj h],    J = [[I, I], [-i I, i I]] / sqrt(2)
"""

import math

import numpy as np
import torch
from torch import Tensor

from compressm_cli.lti.arrays import Array, to_numpy, to_tensor
from compressm_cli.lti.gramian import (
    ACCURATE_PIVOT,
    cauchy_like,
    definite_factor,
    diagonal_covariance,
    diagonal_factor,
    real_factor,
)
from compressm_cli.lti.realization import Realization


def real_form(r: Realization) -> Realization:
    """The real dense realization, order 2n, of u -> Re(y) of a diagonal ``r`` of order n.

    ``A = [[a, -b], [b, a]]`` for poles a + i b, ``B = sqrt(2) [Re B; Im B]``,
    ``C = [Re C, -Im C] / sqrt(2)``, ``D = Re D``.
    Raises ValueError for a dense ``r``.
    """
    A, B, C = (x.to(torch.complex128) for x in _diagonal(r))
    turn, cross = torch.diag(A.real), torch.diag(A.imag)
    return Realization(
        torch.cat([torch.cat([turn, -cross], dim=1), torch.cat([cross, turn], dim=1)]),
        math.sqrt(2) * torch.cat([B.real, B.imag]),
        torch.cat([C.real, -C.imag], dim=1) / math.sqrt(2),
        None if r.D is None else r.D.real,
    )


def project_real_form(r: Realization, left: Tensor, right: Tensor) -> Tensor:
    """``W^T A T`` (k, k) for the A of ``real_form(r)`` and W = ``left``, T = ``right``, both real (2n, k).

    The dense A, which is diagonal in each quarter, is not formed. Raises ValueError for a dense ``r``.
    """
    A = to_numpy(_diagonal(r)[0].to(torch.complex128))[:, None]
    upper, lower = np.split(to_numpy(right), 2)
    turned = np.concatenate([A.real * upper - A.imag * lower, A.imag * upper + A.real * lower])
    return to_tensor(to_numpy(left).T @ turned, r.A)


def real_gramians(r: Realization, horizon: int | None = None) -> tuple[Tensor, Tensor]:
    """(P, Q) of ``real_form(r)``, both (2n, 2n) float64, in closed form from a stable diagonal ``r``.

    With ``E[h h^H]_ij = (B B^H)_ij / (1 - a_i conj(a_j))`` and ``E[h h^T]_ij = (B B^T)_ij / (1 - a_i a_j)``
    for white input; Q is the same of the dual system, poles ``conj a`` and input matrix ``C^H / 2``.
    With a ``horizon``, those of an input and an output of so many steps (Gawronski and Juang 1990).
    Raises ValueError for an unstable or a dense ``r``.
    """
    A, B, C = (to_numpy(x.to(torch.complex128)) for x in _diagonal(r))
    r.require_stable()
    P, Q = _real_covariance(A, B, horizon), _real_covariance(A.conj(), C.conj().T / 2, horizon)
    return to_tensor(P, r.A), to_tensor(Q, r.A)


def real_factors(r: Realization) -> tuple[Array, Array]:
    """Real factors (Lp, Lq), each (2n, k), of the Gramians of ``real_form(r)``; else as ``real_gramians``."""
    A, B, C = (to_numpy(x.to(torch.complex128)) for x in _diagonal(r))
    r.require_stable()
    return _real_factor(A, B), _real_factor(A.conj(), C.conj().T / 2)


def from_real_coordinates(X: Tensor) -> Tensor:
    """``J^H X``: columns (2n, k) for the states ``sqrt(2) [Re h; Im h]`` -> the same for ``[h; conj h]``.

    Maps ``left`` and ``right`` of ``balance(*real_gramians(r))`` to those of ``r.real_output()``.
    """
    re, im = X.chunk(2)
    half = torch.complex(re, im) / math.sqrt(2)
    return torch.cat([half, half.conj()]).resolve_conj()


def conjugate_half(r: Realization) -> Realization | None:
    """The diagonal system whose ``real_output()`` is ``r``; None if there is none."""
    n = r.order // 2
    closed = (
        r.is_diagonal
        and r.is_complex
        and 2 * n == r.order
        and torch.equal(r.A[n:], r.A[:n].conj())
        and torch.equal(r.B[n:], r.B[:n].conj())
        and torch.equal(r.C[:, n:], r.C[:, :n].conj())
        and (r.D is None or not bool(r.D.imag.any()))
    )
    return Realization(r.A[:n], r.B[:n], 2 * r.C[:, :n], r.D) if closed else None


def _diagonal(r: Realization) -> tuple[Tensor, Tensor, Tensor]:
    if not r.is_diagonal:
        raise ValueError("A must be diagonal, of shape (n,): use diagonalize() first")
    return r.A, r.B, r.C


def _real_covariance(poles: Array, B: Array, horizon: int | None) -> Array:
    """E[x x^T] of ``x = sqrt(2) [Re h; Im h]`` for ``h' = poles h + B u`` with white real u."""
    hermitian = diagonal_covariance(poles, B, horizon)
    symmetric = cauchy_like(poles, poles, B @ B.T, horizon)
    n = len(poles)
    covariance = np.empty((2 * n, 2 * n))
    covariance[:n, :n] = hermitian.real + symmetric.real
    covariance[n:, n:] = hermitian.real - symmetric.real
    covariance[n:, :n] = hermitian.imag + symmetric.imag
    covariance[:n, n:] = covariance[n:, :n].T
    return covariance


def _real_factor(poles: Array, B: Array) -> Array:
    lower = definite_factor(_real_covariance(poles, B, None), ACCURATE_PIVOT)
    if lower is not None:
        return lower
    closed = diagonal_factor(np.concatenate([poles, poles.conj()]), np.concatenate([B, B.conj()]))
    h, conjugate = np.split(closed, 2)
    return real_factor(np.concatenate([h + conjugate, -1j * (h - conjugate)]) / math.sqrt(2))
