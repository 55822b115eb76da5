"""Modes of a real system, one of each complex-conjugate pair."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg import hessenberg
from torch import Tensor

from compressm_cli.lti.arrays import Array, one_blas_thread, to_numpy, to_tensor
from compressm_cli.lti.realization import require_well_conditioned

_GRID = np.concatenate([[-2.0], np.tanh(np.linspace(-5.0, 5.0, 96)), [2.0]])
"""Points between which real poles are looked for, dense towards the unit circle, where poles are."""

_STEPS_BETWEEN_SCALINGS = 8


@dataclass(frozen=True, eq=False)
class Modes:
    """Modal coordinates of a real ``x' = A x``: one state a real pole or pair of complex ones.

    ``g = left^H x`` follows ``g' = poles g``, and x is the sum of ``2 Re(right_j g_j)`` over the pairs and
    of ``right_j g_j`` over the real poles.
    """

    poles: Tensor
    """(s,) complex128; of each pair the one with positive imaginary part."""
    left: Tensor
    """(k, s) complex128, with ``left^H right = I``."""
    right: Tensor
    """(k, s) complex128, columns of unit length."""
    is_pair: Tensor
    """(s,) bool: whether the pole stands for a pair."""
    condition: float
    """2-norm condition number of the k unit-length eigenvectors."""


def one_of_each_pair(A: Tensor) -> Modes:
    """The modes of a real (k, k) matrix.

    Raises ValueError for another matrix, and when the eigenvectors have a condition number above
    ``MAX_EIGENVECTOR_CONDITION`` (the matrix is numerically defective).
    """
    return _modes(*np.linalg.eig(_real_square(A)), A)


def count_states(A: Tensor) -> int:
    """Number of states s of ``one_of_each_pair(A)``, from the eigenvalues alone."""
    return _count(np.linalg.eigvals(_real_square(A)))


def leading_modes(A: Tensor, states: int) -> Modes:
    """The modes of the largest leading block ``A[:k, :k]`` of a real matrix that has at most ``states`` states.

    Smaller blocks may have more states than larger ones, so none is skipped. But a block of order k with m real
    poles has (k + m) / 2 states, and a bound from below on m often rules it out without its eigenvalues.
    Raises ValueError as ``one_of_each_pair`` does, and for fewer than one state.
    """
    if states < 1:
        raise ValueError(f"states must be at least 1, got {states}")
    matrix = _real_square(A)
    with one_blas_thread():
        return _leading_modes(matrix, states, A)


def _leading_modes(A: Array, states: int, like: Tensor) -> Modes:
    points = _GRID
    for k in range(len(A), 0, -1):
        if k + _real_poles_at_least(A[:k, :k], points) > 2 * states:
            continue
        poles, vectors = np.linalg.eig(A[:k, :k])
        if _count(poles) <= states:
            break
        points = np.union1d(_GRID, _separating(poles.real[poles.imag == 0]))
    return _modes(poles, vectors, like)


def _separating(poles: Array) -> Array:
    """Points between the real ``poles``."""
    ordered = np.sort(poles)
    return (ordered[1:] + ordered[:-1]) / 2


def _real_poles_at_least(A: Array, points: Array) -> int:
    """How often ``det(x I - A)`` changes its sign from one of the points to the next: as many poles lie between.

    By Hyman's method: of the Hessenberg form, O(k^2) operations a point (Higham 2002, section 14.6).
    """
    H = hessenberg(A, check_finite=False)
    least = np.finfo(np.float64).eps * max(float(np.abs(H).max()), np.finfo(np.float64).tiny)
    solution = np.zeros((len(H), len(points)))
    solution[-1] = 1.0
    for i in range(len(H) - 1, 0, -1):
        # A pivot at the level of round-off may have either sign, as long as it has it for all points.
        pivot = H[i, i - 1] if abs(H[i, i - 1]) > least else least
        solution[i - 1] = (points * solution[i] - H[i, i:] @ solution[i:]) / pivot
        if i % _STEPS_BETWEEN_SCALINGS == 0:
            solution[i - 1 :] /= np.abs(solution[i - 1 :]).max(0)
    determinant = points * solution[0] - H[0] @ solution
    return int(((determinant[1:] > 0) != (determinant[:-1] > 0)).sum())


def _modes(poles: Array, vectors: Array, like: Tensor) -> Modes:
    condition = require_well_conditioned(vectors)
    dual = np.linalg.inv(vectors).conj().T
    kept = poles.imag >= 0
    complex_, left, right = (
        to_tensor(x.astype(np.complex128), like) for x in (poles[kept], dual[:, kept], vectors[:, kept])
    )
    return Modes(complex_, left, right, complex_.imag > 0, condition)


def _count(poles: Array) -> int:
    return int((poles.imag >= 0).sum())


def _real_square(A: Tensor) -> Array:
    if A.is_complex() or A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] < 1:
        raise ValueError(f"A must be real with shape (k, k), got {A.dtype} with shape {tuple(A.shape)}")
    if not bool(torch.isfinite(A).all()):
        raise ValueError("A has non-finite entries")
    return to_numpy(A.double())
