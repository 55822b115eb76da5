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
_NEGLIGIBLE_VARIANCE = 1e-34

ACCURATE_PIVOT = 1e-6
"""Smallest relative pivot with which a Gramian's Cholesky factor is as good as one found without it.

Round-off in the Gramian changes no Hankel singular value by more than about 2e-16 / pivot, relatively.
"""


def controllability_gramian(r: Realization, horizon: int | None = None) -> Tensor:
    """P = sum_k A^k B B^H (A^H)^k, (n, n), in the type of ``r``.

    Closed form for diagonal A (Antoulas 2005, section 4.3), otherwise from ``controllability_factor``.
    With a ``horizon`` the sum ends after so many steps (Gawronski and Juang 1990).
    Raises ValueError, with the spectral radius, for an unstable system.
    """
    r.require_stable()
    return to_tensor(_gramian(to_numpy(r.A), to_numpy(r.B), horizon), r.A)


def observability_gramian(r: Realization, horizon: int | None = None) -> Tensor:
    """Q = sum_k (A^H)^k C^H C A^k, (n, n), in the type of ``r``; else as ``controllability_gramian``."""
    r.require_stable()
    return to_tensor(_gramian(*_dual(r), horizon), r.A)


def controllability_factor(r: Realization) -> Tensor:
    """L (n, k), k <= n, with P = L L^H.

    Found without forming P, so that small Hankel singular values keep their accuracy: see
    ``diagonal_factor`` and ``dense_factor``. Raises ValueError for an unstable system.
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


def _gramian(A: Array, B: Array, horizon: int | None) -> Array:
    if A.ndim == 1:
        return diagonal_covariance(A, B, horizon)
    factor = dense_factor(A, B)
    gramian = factor @ factor.conj().T
    if horizon is None:
        return gramian
    power = np.linalg.matrix_power(A, checked_horizon(horizon))
    return gramian - power @ gramian @ power.conj().T


def _factor(A: Array, B: Array) -> Array:
    if A.ndim == 2:
        return dense_factor(A, B)
    lower = definite_factor(diagonal_covariance(A, B), ACCURATE_PIVOT)
    return diagonal_factor(A, B) if lower is None else lower


def diagonal_covariance(poles: Array, B: Array, horizon: int | None = None) -> Array:
    """E[h h^H] (n, n) of ``h' = poles h + B u`` for white u, ``horizon`` steps after zero or for ever."""
    covariance = cauchy_like(poles, poles.conj(), B @ B.conj().T, horizon)
    # Round-off differs between the halves, and is magnified near the unit circle.
    return (covariance + covariance.conj().T) / 2


def cauchy_like(left: Array, right: Array, noise: Array, horizon: int | None) -> Array:
    """X (n, n), ``X_ij = noise_ij sum_k (left_i right_j)^k`` over all k >= 0 or those below ``horizon``."""
    total = noise / (1 - np.multiply.outer(left, right))
    if horizon is None:
        return total
    steps = checked_horizon(horizon)
    return total * (1 - np.multiply.outer(left**steps, right**steps))


def checked_horizon(horizon: int) -> int:
    """The horizon; ValueError unless it is at least 1."""
    if horizon < 1:
        raise ValueError(f"horizon must be at least 1 step, got {horizon}")
    return horizon


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
    lower = definite_factor(P)
    if lower is not None:
        return lower
    scale = np.sqrt(np.diagonal(P).real.clip(0.0))
    scale[scale == 0.0] = 1.0
    scaled = P / np.multiply.outer(scale, scale)
    (pstrf,) = lapack.get_lapack_funcs(("pstrf",), (P,))
    packed, pivots, rank, _ = pstrf(scaled, lower=1, tol=_pivot_tolerance(len(P)))
    factor = np.zeros((len(P), rank), dtype=P.dtype)
    factor[pivots - 1] = np.tril(packed[:, :rank])
    if np.abs(factor @ factor.conj().T - scaled).max() > _SEMIDEFINITE_TOLERANCE:
        raise ValueError(f"{name} must be positive semidefinite")
    return factor * scale[:, None]


def definite_factor(P: Array, least_pivot: float = 0.0) -> Array | None:
    """The Cholesky factor (n, n); None unless each pivot exceeds ``least_pivot`` times its diagonal entry."""
    # NumPy's LAPACK, as for all else that is large: the waiting threads of two libraries slow each other down.
    try:
        lower = np.linalg.cholesky(P)
    except np.linalg.LinAlgError:
        return None
    pivots = np.diagonal(lower).real ** 2
    return lower if (pivots > least_pivot * np.diagonal(P).real).all() else None


def _pivot_tolerance(n: int) -> float:
    return 4.0 * float(np.sqrt(n)) * float(np.finfo(np.float64).eps)


def diagonal_factor(poles: Array, B: Array) -> Array:
    """L (n, k) with ``P = L L^H`` for stable ``poles`` (n,) and B (n, p), without forming P.

    Cholesky with complete pivoting on the generators of P, which is Cauchy-like (Gohberg, Kailath and
    Olshevsky 1995). A step takes out of every state what state j, the one with the largest relative
    variance, explains of it, and passes the input through the all-pass filter that has the pole of j: what
    remains is again driven by white noise. Only products, and differences of poles, occur; so the factor
    stays accurate where poles nearly meet and P is singular to working precision.
    """
    n = len(poles)
    drive = B.astype(np.result_type(poles, B))
    margin = (1 - np.abs(poles)) * (1 + np.abs(poles))
    variance = (np.abs(drive) ** 2).sum(1)
    reciprocal = np.divide(1.0, variance, out=np.zeros(n), where=variance > 0.0)
    columns: list[Array] = []
    for _ in range(n):
        relative = (np.abs(drive) ** 2).sum(1) * reciprocal
        j = int(relative.argmax())
        if relative[j] <= _NEGLIGIBLE_VARIANCE:
            break
        _rotate_to_first_input(drive, j)
        distance = 1 - poles * poles[j].conj()
        columns.append(drive[:, 0] * np.sqrt(margin[j]) / distance)
        drive[:, 0] *= (poles - poles[j]) / distance
        drive[j] = 0.0
    return np.array(columns, dtype=drive.dtype).reshape(-1, n).T


def _rotate_to_first_input(drive: Array, j: int) -> None:
    """Turn the inputs, in place, so that state j is driven by the first one alone (Householder)."""
    mirror = drive[j].conj()
    norm = np.linalg.norm(mirror)
    mirror[0] += norm * (mirror[0] / abs(mirror[0]) if mirror[0] != 0 else 1.0)
    mirror /= np.linalg.norm(mirror)
    drive -= np.multiply.outer(drive @ mirror, 2 * mirror.conj())


def dense_factor(A: Array, B: Array) -> Array:
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
    return factor if np.iscomplexobj(A) or np.iscomplexobj(B) else real_factor(factor)


def real_factor(factor: Array) -> Array:
    """A real (n, m), m <= n, factor of a real ``L L^H``, given a complex factor L (n, k)."""
    (upper,) = qr(np.hstack([factor.real, factor.imag]).T, mode="r", check_finite=False)
    return upper[: len(factor)].T
