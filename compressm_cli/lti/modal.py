"""Modes of a real system, one of each complex-conjugate pair."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from compressm_cli.lti.arrays import Array, to_numpy, to_tensor
from compressm_cli.lti.realization import require_well_conditioned


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
    k = len(matrix)
    while True:
        poles, vectors = np.linalg.eig(matrix[:k, :k])
        if _count(poles) <= states:
            return _modes(poles, vectors, A)
        points = _separating(poles.real[poles.imag == 0])
        k -= 1
        while k + _real_poles_at_least(matrix[:k, :k], points) > 2 * states:
            k -= 1


def _separating(poles: Array) -> Array:
    """Points on both sides of each of the real ``poles``."""
    ordered = np.sort(poles)
    return np.concatenate([ordered[:1] - 1, (ordered[1:] + ordered[:-1]) / 2, ordered[-1:] + 1])


def _real_poles_at_least(A: Array, points: Array) -> int:
    """How often ``det(x I - A)`` changes its sign from one of the points to the next: as many poles lie between."""
    signs, _ = np.linalg.slogdet(points[:, None, None] * np.eye(len(A)) - A)
    return int((signs[1:] != signs[:-1]).sum())


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
