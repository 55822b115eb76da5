"""Controllability and observability Gramians, and accurate factors of them.

The Gramians solve the discrete Lyapunov equations ``P = A P A^H + B B^H`` and ``Q = A^H Q A + C^H C``.
"""

import numpy as np
from scipy.linalg import lapack, qr, schur, solve_triangular
from torch import Tensor

from compressm_cli.lti.arrays import Array, to_numpy, to_tensor
from compressm_cli.lti.realization import Realization

_SYMMETRY_TOLERANCE = 1e-8
_SEMIDEFINITE_TOLERANCE = 1e-8


def controllability_gramian(r: Realization) -> Tensor:
    """P = sum_k A^k B B^H (A^H)^k, (n, n), in the type of ``r``.

    Closed form for diagonal A (Antoulas 2005, section 4.3), otherwise from ``controllability_factor``.
    Raises ValueError, with the spectral radius, for an unstable system.
    """
    r.require_stable()
    return to_tensor(_gramian(to_numpy(r.A), to_numpy(r.B)), r.A)


def observability_gramian(r: Realization) -> Tensor:
    """Q = sum_k (A^H)^k C^H C A^k, (n, n), in the type of ``r``; else as ``controllability_gramian``."""
    r.require_stable()
    return to_tensor(_gramian(*_dual(r)), r.A)


def controllability_factor(r: Realization) -> Tensor:
    """L (n, k), k <= n, with P = L L^H.

    For dense A found without forming P, by Hammarling's method, so that small Hankel singular values
    keep their accuracy. Raises ValueError for an unstable system.
    """
    r.require_stable()
    return to_tensor(_factor(to_numpy(r.A), to_numpy(r.B)), r.A)


def observability_factor(r: Realization) -> Tensor:
    """L (n, k), k <= n, with Q = L L^H; else as ``controllability_factor``."""
    r.require_stable()
    return to_tensor(_factor(*_dual(r)), r.A)


def _dual(r: Realization) -> tuple[Array, Array]:
    """State and input matrix of the dual system (A^H, C^H)."""
    A = to_numpy(r.A).conj()
    return (A if r.is_diagonal else A.T), to_numpy(r.C).conj().T


def _gramian(A: Array, B: Array) -> Array:
    if A.ndim == 1:
        return diagonal_covariance(A, A.conj(), B @ B.conj().T)
    factor = hammarling(A, B)
    return factor @ factor.conj().T


def _factor(A: Array, B: Array) -> Array:
    return semidefinite_factor(_gramian(A, B), "the Gramian") if A.ndim == 1 else hammarling(A, B)


def diagonal_covariance(left: Array, right: Array, noise: Array) -> Array:
    """X (n, n) with ``X_ij = left_i X_ij right_j + noise_ij``, all poles inside the unit circle."""
    return noise / (1 - np.multiply.outer(left, right))


def semidefinite_factor(P: Array, name: str) -> Array:
    """L (n, k) with ``P = L L^H`` for a Hermitian positive semidefinite P (n, n).

    Cholesky where P is numerically definite, else Cholesky with complete pivoting on the matrix scaled
    to unit diagonal, stopped at the numerical rank k. Each row of L then has a relative error of
    round-off size, however differently the states are scaled (Higham 2002, theorems 10.3 and 10.14),
    where a factor from eigenvectors would only be accurate relative to the largest entry.

    Raises ValueError when P is not Hermitian or clearly indefinite.
    """
    if P.ndim != 2 or P.shape[0] != P.shape[1] or not np.isfinite(P).all():
        raise ValueError(f"{name} must be a square matrix with finite entries, got shape {P.shape}")
    if np.abs(P - P.conj().T).max() > _SYMMETRY_TOLERANCE * np.abs(P).max():
        raise ValueError(f"{name} must be Hermitian")
    potrf, pstrf = lapack.get_lapack_funcs(("potrf", "pstrf"), (P,))
    lower, failed = potrf(P, lower=1, clean=1)
    if not failed:
        return lower
    scale = np.sqrt(np.diagonal(P).real.clip(0.0))
    scale[scale == 0.0] = 1.0
    scaled = P / np.multiply.outer(scale, scale)
    packed, pivots, rank, _ = pstrf(scaled, lower=1, tol=_pivot_tolerance(len(P)))
    factor = np.zeros((len(P), rank), dtype=P.dtype)
    factor[pivots - 1] = np.tril(packed[:, :rank])
    if np.abs(factor @ factor.conj().T - scaled).max() > _SEMIDEFINITE_TOLERANCE:
        raise ValueError(f"{name} must be positive semidefinite")
    return factor * scale[:, None]


def _pivot_tolerance(n: int) -> float:
    return 4.0 * float(np.sqrt(n)) * float(np.finfo(np.float64).eps)


def hammarling(A: Array, B: Array) -> Array:
    """L (n, n) with ``P = L L^H`` for dense stable A (n, n), B (n, p); real for a real system.

    Hammarling (1982), told for stochastic processes: in Schur form the last state is a first-order
    process y of its own. Its share in every state is one column of the factor; what remains of the
    other states is again such a system, driven by the all-pass filtered (hence still white) input.
    """
    triangular, basis = schur(A, output="complex")
    drive = basis.conj().T @ B
    n = len(A)
    factor = np.zeros((n, n), dtype=np.complex128)
    for k in reversed(range(n)):
        block, pole, magnitude = triangular[: k + 1, : k + 1], triangular[k, k], abs(triangular[k, k])
        norm = np.linalg.norm(drive[k])
        if norm == 0.0:
            continue
        # The unit-variance process is y' = pole y + gain u, with |pole|^2 + |gain|^2 = 1.
        gain = drive[k] * (np.sqrt((1 - magnitude) * (1 + magnitude)) / norm)
        heard = drive[: k + 1] @ gain.conj()
        resolvent = np.eye(k + 1) - pole.conjugate() * block
        column = solve_triangular(resolvent, heard, check_finite=False)
        factor[: k + 1, k] = column
        # All-pass filter orthogonal to y: v = -(pole / |pole|) gain^H y + (I - gain^H gain / (1 + |pole|)) u.
        phase = -pole.conjugate() / magnitude if magnitude > 0.0 else -1.0
        drive = (drive[: k + 1] + np.outer(phase * (block @ column) - heard / (1 + magnitude), gain))[:k]
    factor = basis @ factor
    if np.iscomplexobj(A) or np.iscomplexobj(B):
        return factor
    (upper,) = qr(np.hstack([factor.real, factor.imag]).T, mode="r", check_finite=False)
    return upper[:n].T
