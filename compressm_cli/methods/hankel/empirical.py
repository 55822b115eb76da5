"""Second moments of the states that real inputs produce, and the read-out refitted to them.

All in the real coordinates of ``lti.real_form``: x = sqrt(2) [Re h; Im h].
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer
from compressm_cli.lti import Realization
from compressm_cli.methods.calibration import Statistic, real_steps, without_padding
from compressm_cli.ops import diagonal_scan

SystemInputs = Callable[[Tensor], list[Tensor]]
"""What a layer sees (batch, length, H) -> what each of its systems sees (batch, length, p)."""


def _states(poles: Tensor, B: Tensor, u: Tensor) -> Tensor:
    """[Re h, Im h] (batch, length, 2 n) of h_t = diag(poles) h_{t-1} + B u_t, in float64."""
    projection = torch.cat([B.real, B.imag], dim=0)
    return diagonal_scan(u.to(projection) @ projection.T, poles.real.contiguous(), poles.imag.contiguous())


def products(x: Tensor, z: Tensor) -> Tensor:
    """x^T z; NumPy's BLAS sees where both are the same and does half the work."""
    if x.device.type != "cpu":
        return x.mT @ z
    return torch.from_numpy(x.numpy().T @ z.numpy())


class StateCovariance(Statistic):
    """P = E[x x^T] (2 n, 2 n) of each of a layer's systems, the mean over batches, rows and time.

    For white inputs of unit variance it tends to the controllability Gramian. ``system_inputs`` is the layer's.
    """

    def __init__(self, systems: list[Realization], system_inputs: SystemInputs) -> None:
        self._systems, self._system_inputs = systems, system_inputs
        self._totals = [_zeros(system, 2 * system.order, 2 * system.order) for system in self._systems]
        self._steps = 0

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        real = real_steps(lengths, u)
        for system, total, seen in zip(self._systems, self._totals, self._system_inputs(u), strict=True):
            x = without_padding(_states(system.A, system.B.to(torch.complex128), seen), real)
            total += products(x, x)
        self._steps += len(x)

    def result(self) -> list[Tensor]:
        """One matrix a system."""
        _require_steps(self._steps)
        return [2 * total / self._steps for total in self._totals]


@dataclass(frozen=True)
class SecondMoments:
    """Sums over calibration inputs of products of full states h and reduced states g, as [Re, Im] each."""

    full: Tensor
    """(2 n, 2 n)"""
    cross: Tensor
    """(2 n, 2 r), full by reduced"""
    reduced: Tensor
    """(2 r, 2 r)"""

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


class JointMoments(Statistic):
    """``SecondMoments`` of each of a layer's systems and of what a projection makes of it, both simulated.

    ``covariances`` are what ``StateCovariance`` gave for the same inputs.
    """

    def __init__(
        self,
        systems: list[Realization],
        system_inputs: SystemInputs,
        projections: list[StateProjection],
        covariances: list[Tensor],
    ) -> None:
        self._systems, self._system_inputs = systems, system_inputs
        self._projections, self._covariances = projections, covariances
        sizes = [(2 * s.order, 2 * p.order) for s, p in zip(self._systems, projections, strict=True)]
        self._cross = [_zeros(s, n, r) for s, (n, r) in zip(self._systems, sizes, strict=True)]
        self._reduced = [_zeros(s, r, r) for s, (_, r) in zip(self._systems, sizes, strict=True)]
        self._steps = 0

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        real = real_steps(lengths, u)
        for i, seen in enumerate(self._system_inputs(u)):
            system, projection = self._systems[i], self._projections[i]
            B = system.B.to(torch.complex128)
            h = without_padding(_states(system.A, B, seen), real)
            g = without_padding(_states(projection.poles, projection.reduce_input(B), seen), real)
            self._cross[i] += products(h, g)
            self._reduced[i] += products(g, g)
        self._steps += len(h)

    def result(self) -> list[SecondMoments]:
        """One a system."""
        _require_steps(self._steps)
        parts = zip(self._covariances, self._cross, self._reduced, strict=True)
        return [SecondMoments(P * (self._steps / 2), cross, reduced) for P, cross, reduced in parts]


def moments_bytes(layer: TimeInvariantLayer, rows: int, length: int) -> tuple[int, int]:
    """What stays of a layer's statistics, and what the second one takes while it sees so many rows of a length.

    Some matrices of the size of a Gramian stay of each system: sums, and the factors of its balancing. In passing
    there are the inputs of one system, its states, and the reduced states and what drives them.
    """
    n = layer.state_dim
    seen = layer.system_inputs(torch.empty(1, 1, layer.model_dim, device="meta"))
    matrices = 8 * len(seen) * (2 * n) ** 2
    return 8 * matrices, 8 * rows * length * (seen[0].shape[-1] + 3 * 2 * n)


def _zeros(system: Realization, rows: int, columns: int) -> Tensor:
    return torch.zeros(rows, columns, dtype=torch.float64, device=system.A.device)


def _require_steps(steps: int) -> None:
    if steps == 0:
        raise ValueError("there are no calibration batches to measure the states on")


def _real_read_out(C: Tensor) -> Tensor:
    """(q, 2 n), which takes [Re h, Im h] to Re(C h)."""
    C = C.to(torch.complex128)
    return torch.cat([C.real, -C.imag], dim=1)


def relative_error(errors: list[tuple[float, float]]) -> float | None:
    """Root of the summed squares' ratio over several systems; None where there is no output at all."""
    wrong, whole = (sum(column) for column in zip(*errors, strict=True))
    return math.sqrt(wrong / whole) if whole > 0 else None
