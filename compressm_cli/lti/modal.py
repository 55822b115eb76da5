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
    poles, vectors = np.linalg.eig(_real_square(A))
    condition = require_well_conditioned(vectors)
    dual = np.linalg.inv(vectors).conj().T
    kept = poles.imag >= 0
    complex_, left, right = (
        to_tensor(x.astype(np.complex128), A) for x in (poles[kept], dual[:, kept], vectors[:, kept])
    )
    return Modes(complex_, left, right, complex_.imag > 0, condition)


def count_states(A: Tensor) -> int:
    """Number of states s of ``one_of_each_pair(A)``, from the eigenvalues alone."""
    return int((np.linalg.eigvals(_real_square(A)).imag >= 0).sum())


def _real_square(A: Tensor) -> Array:
    if A.is_complex() or A.ndim != 2 or A.shape[0] != A.shape[1] or A.shape[0] < 1:
        raise ValueError(f"A must be real with shape (k, k), got {A.dtype} with shape {tuple(A.shape)}")
    if not bool(torch.isfinite(A).all()):
        raise ValueError("A has non-finite entries")
    return to_numpy(A.double())
