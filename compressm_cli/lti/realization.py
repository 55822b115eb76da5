"""Discrete-time linear systems ``x' = A x + B u``, ``y = C x + D u`` in float64."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.linalg import schur
from torch import Tensor

from compressm_cli.lti.arrays import Array, to_numpy, to_tensor

MAX_EIGENVECTOR_CONDITION = 1e10
"""Largest 2-norm condition number of unit-length eigenvectors with which a matrix is diagonalized.

The relative error of a diagonal form is about the condition number times 2e-16.
"""

_CHUNK_ENTRIES = 2**22


@dataclass(frozen=True, eq=False)
class Realization:
    """A discrete-time state space realization, kept as an own copy in float64 or complex128.

    ``A`` is diagonal, given as (n,), or dense (n, n); ``B`` (n, p), ``C`` (q, n), ``D`` (q, p) or None.
    Real and complex entries may be mixed: all are brought to one type.

    Raises ValueError for a wrong shape or a non-finite entry; the message names the matrix.
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in "ABCD" if getattr(self, name) is not None}
        tensors = {name: torch.as_tensor(value).detach() for name, value in given.items()}
        dtype = torch.complex128 if any(t.is_complex() for t in tensors.values()) else torch.float64
        for name, value in tensors.items():
            object.__setattr__(self, name, value.to(dtype, copy=True).resolve_conj().contiguous())
        self._check()

    def _check(self) -> None:
        shape = tuple(self.A.shape)
        if self.A.ndim not in (1, 2) or (self.A.ndim == 2 and shape[0] != shape[1]) or shape[0] < 1:
            raise ValueError(f"A must be diagonal (n,) or square (n, n) with n >= 1, got shape {shape}")
        n = shape[0]
        if self.B.ndim != 2 or self.B.shape[0] != n or self.B.shape[1] < 1:
            raise ValueError(f"B must have shape (n, p) with n = {n}, p >= 1, got {tuple(self.B.shape)}")
        if self.C.ndim != 2 or self.C.shape[1] != n or self.C.shape[0] < 1:
            raise ValueError(f"C must have shape (q, n) with n = {n}, q >= 1, got {tuple(self.C.shape)}")
        if self.D is not None and self.D.shape != (self.outputs, self.inputs):
            raise ValueError(
                f"D must have shape (q, p) = ({self.outputs}, {self.inputs}), got {tuple(self.D.shape)}"
            )
        for name, value in (("A", self.A), ("B", self.B), ("C", self.C), ("D", self.D)):
            if value is not None and not bool(torch.isfinite(value).all()):
                raise ValueError(f"{name} has non-finite entries")

    @property
    def order(self) -> int:
        """Number of states n."""
        return self.A.shape[0]

    @property
    def inputs(self) -> int:
        """Number of inputs p."""
        return self.B.shape[1]

    @property
    def outputs(self) -> int:
        """Number of outputs q."""
        return self.C.shape[0]

    @property
    def is_diagonal(self) -> bool:
        """Whether A is stored as its diagonal."""
        return self.A.ndim == 1

    @property
    def is_complex(self) -> bool:
        """Whether the matrices are complex128 (else float64)."""
        return self.A.is_complex()

    def poles(self) -> Tensor:
        """Eigenvalues of A, (n,) complex128."""
        return self._poles

    @cached_property
    def _poles(self) -> Tensor:
        poles = self.A if self.is_diagonal else to_tensor(np.linalg.eigvals(to_numpy(self.A)), self.A)
        return poles.to(torch.complex128)

    def spectral_radius(self) -> float:
        """Largest magnitude of a pole; the system is stable when it is below 1."""
        return float(self.poles().abs().max())

    def require_stable(self) -> None:
        """Raise ValueError, with the spectral radius, unless all poles lie inside the unit circle."""
        radius = self.spectral_radius()
        if radius >= 1.0:
            raise ValueError(
                f"the system is unstable: its spectral radius is {radius:.17g}, and Gramians need one below 1"
            )

    def dense(self) -> "Realization":
        """The same system with A stored as an (n, n) matrix."""
        if not self.is_diagonal:
            return self
        return Realization(torch.diag(self.A), self.B, self.C, self.D)

    def real_output(self) -> "Realization":
        """The system u -> Re(y) for real inputs u.

        For a complex realization this is the conjugate-closed one of order 2n: poles ``[A, conj A]``
        (block-diagonal if A is dense), input matrix ``[B; conj B]``, output matrix ``[C, conj C] / 2``,
        feedthrough ``Re D``. A real realization returns itself.
        """
        if not self.is_complex:
            return self
        conjugate = self.A.conj()
        A = torch.cat([self.A, conjugate]) if self.is_diagonal else torch.block_diag(self.A, conjugate)
        D = None if self.D is None else self.D.real
        B = torch.cat([self.B, self.B.conj()])
        return Realization(A, B, torch.cat([self.C, self.C.conj()], dim=1) / 2, D)

    def diagonalize(self) -> "Realization":
        """The same system with diagonal A, complex in general.

        Raises ValueError, with the condition number, when that of the unit-length eigenvectors exceeds
        ``MAX_EIGENVECTOR_CONDITION``: such a system has no numerically useful diagonal form.
        """
        if self.is_diagonal:
            return self
        poles, vectors = np.linalg.eig(to_numpy(self.A))
        require_well_conditioned(vectors)
        modal = (poles, np.linalg.solve(vectors, to_numpy(self.B)), to_numpy(self.C) @ vectors)
        A, B, C = (to_tensor(x.astype(np.complex128), self.A) for x in modal)
        return Realization(A, B, C, self.D)

    def frequency_response(self, omega: Tensor) -> Tensor:
        """``G(e^{i omega}) = C (e^{i omega} I - A)^{-1} B + D``.

        ``omega`` (m,) in radians a sample; returns (m, q, p) complex128.
        """
        angles = torch.as_tensor(omega, device=self.A.device).detach().double()
        if angles.ndim != 1:
            raise ValueError(f"omega must have shape (m,), got {tuple(angles.shape)}")
        A, B, C = (x.to(torch.complex128) for x in (self.A, self.B, self.C))
        if not self.is_diagonal:
            triangular, basis = (to_tensor(x, A) for x in schur(to_numpy(A), output="complex"))
            A, B, C = triangular, basis.mH @ B, C @ basis
        parts = [
            C @ _resolvent_times(torch.polar(torch.ones_like(chunk), chunk), A, B)
            for chunk in angles.split(max(1, _CHUNK_ENTRIES // (self.order * max(self.inputs, A[0].numel()))))
        ]
        response = torch.cat(parts) if len(parts) else C.new_zeros(0, self.outputs, self.inputs)
        return response if self.D is None else response + self.D


def _resolvent_times(z: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """``(z I - A)^{-1} B`` for diagonal or upper triangular A: (m, n, p)."""
    if A.ndim == 1:
        return B / (z[:, None] - A)[:, :, None]
    shifted = z[:, None, None] * torch.eye(len(A), dtype=A.dtype, device=A.device) - A
    return torch.linalg.solve_triangular(shifted, B.expand(len(z), *B.shape), upper=True)


def require_well_conditioned(vectors: Array) -> float:
    """The 2-norm condition number of a matrix of eigenvectors; ValueError when it is too large."""
    condition = float(np.linalg.cond(vectors))
    if not condition <= MAX_EIGENVECTOR_CONDITION:
        raise ValueError(
            f"A cannot be diagonalized: the condition number of its eigenvectors is {condition:.3g}, "
            f"and at most {MAX_EIGENVECTOR_CONDITION:.0e} is allowed"
        )
    return condition
