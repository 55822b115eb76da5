"""Second moments of the states that real inputs produce, and the read-out refitted to them.

All in the real coordinates of ``lti.real_form``: x = sqrt(2) [Re h; Im h].
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm_cli.layers.time_invariant import StateProjection
from compressm_cli.lti import Realization
from compressm_cli.ops import diagonal_scan


def _states(poles: Tensor, B: Tensor, u: Tensor) -> Tensor:
    """[Re h, Im h] (batch, length, 2 n) of h_t = diag(poles) h_{t-1} + B u_t, in float64."""
    projection = torch.cat([B.real, B.imag], dim=0)
    return diagonal_scan(u.to(projection) @ projection.T, poles.real.contiguous(), poles.imag.contiguous())


def _rows(states: Tensor) -> Tensor:
    return states.flatten(0, 1)


def state_covariance(system: Realization, inputs: list[Tensor]) -> Tensor:
    """P = E[x x^T] (2 n, 2 n), the mean over batches, rows and time of inputs (batch, length, p).

    For white inputs of unit variance it tends to the controllability Gramian.
    """
    n = 2 * system.order
    total, count = torch.zeros(n, n, dtype=torch.float64, device=system.A.device), 0
    for u in inputs:
        x = _rows(_states(system.A, system.B.to(torch.complex128), u))
        total += products(x, x)
        count += x.shape[0]
    return 2 * total / count


def products(x: Tensor, z: Tensor) -> Tensor:
    """x^T z; NumPy's BLAS sees where both are the same and does half the work."""
    if x.device.type != "cpu":
        return x.mT @ z
    return torch.from_numpy(x.numpy().T @ z.numpy())


@dataclass(frozen=True)
class SecondMoments:
    """Sums over calibration inputs of products of full states h and reduced states g, as [Re, Im] each."""

    full: Tensor
    """(2 n, 2 n)"""
    cross: Tensor
    """(2 n, 2 r), full by reduced"""
    reduced: Tensor
    """(2 r, 2 r)"""

    @classmethod
    def of(
        cls, system: Realization, projection: StateProjection, covariance: Tensor, inputs: list[Tensor]
    ) -> "SecondMoments":
        """Simulate both; ``covariance`` is ``state_covariance(system, inputs)``."""
        B = system.B.to(torch.complex128)
        reduced_B = projection.reduce_input(B)
        size = 2 * projection.order
        cross, reduced = covariance.new_zeros(len(covariance), size), covariance.new_zeros(size, size)
        count = 0
        for u in inputs:
            h, g = _rows(_states(system.A, B, u)), _rows(_states(projection.poles, reduced_B, u))
            cross += products(h, g)
            reduced += products(g, g)
            count += len(h)
        return cls(covariance * (count / 2), cross, reduced)

    def refit_lift(self, projection: StateProjection) -> StateProjection:
        """The projection with its lift replaced by the regression of the full state on the reduced state.

        It minimizes the mean square error of h, hence of every read-out C h, over the calibration inputs.
        """
        n, r = self.full.shape[0] // 2, projection.order
        # Real poles leave imaginary parts that are always zero: the inverse is a pseudo-inverse.
        fit = self.cross @ torch.linalg.pinv(self.reduced, rtol=1e-12, hermitian=True)
        aa, ab, ba, bb = fit[:n, :r], fit[:n, r:], fit[n:, :r], fit[n:, r:]
        return replace(
            projection,
            lift=torch.complex(aa + bb, ba - ab) / 2,
            lift_conj=torch.complex(aa - bb, ba + ab) / 2,
        )

    def output_error(self, system: Realization, projection: StateProjection) -> tuple[float, float]:
        """Sums of squares of y - y' and of y, y = Re(C h), over the calibration inputs.

        The first is a difference of products: below 1e-14 times the second it is round-off.
        """
        read, reduced = _real_read_out(system.C), _real_read_out(projection.reduce_output(system.C))
        whole = float((read @ self.full * read).sum())
        both = float((read @ self.cross * reduced).sum())
        return max(0.0, whole - 2 * both + float((reduced @ self.reduced * reduced).sum())), whole


def _real_read_out(C: Tensor) -> Tensor:
    """(q, 2 n), which takes [Re h, Im h] to Re(C h)."""
    C = C.to(torch.complex128)
    return torch.cat([C.real, -C.imag], dim=1)


def relative_error(errors: list[tuple[float, float]]) -> float | None:
    """Root of the summed squares' ratio over several systems; None where there is no output at all."""
    wrong, whole = (sum(column) for column in zip(*errors, strict=True))
    return math.sqrt(wrong / whole) if whole > 0 else None
