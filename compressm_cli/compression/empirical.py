"""Second moments of the states that real inputs produce, and the read-out refitted to them.

All in the real coordinates of ``lti.real_form``: x = sqrt(2) [Re h; Im h].
"""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from compressm_cli.layers.interface import StateProjection
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
        total += 2 * (x.T @ x)
        count += x.shape[0]
    return total / count


def _pairs(
    system: Realization, projection: StateProjection, inputs: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Full states [Re h, Im h] beside reduced states [Re g, Im g], a batch at a time, rows flattened."""
    reduced = projection.reduce_input(system.B.to(torch.complex128))
    for u in inputs:
        full = _states(system.A, system.B.to(torch.complex128), u)
        yield _rows(full), _rows(_states(projection.poles, reduced, u))


def refit_lift(system: Realization, projection: StateProjection, inputs: list[Tensor]) -> StateProjection:
    """The projection with its lift replaced by the regression of the full state on the reduced state.

    It minimizes the mean square error of h, hence of every read-out C h, over the calibration inputs.
    """
    n, r = system.order, projection.order
    cross = torch.zeros(2 * n, 2 * r, dtype=torch.float64, device=system.A.device)
    own = torch.zeros(2 * r, 2 * r, dtype=torch.float64, device=system.A.device)
    for full, reduced in _pairs(system, projection, inputs):
        cross += full.T @ reduced
        own += reduced.T @ reduced
    # Real poles leave imaginary parts that are always zero: the inverse is a pseudo-inverse.
    fit = cross @ torch.linalg.pinv(own, rtol=1e-12, hermitian=True)
    aa, ab, ba, bb = fit[:n, :r], fit[:n, r:], fit[n:, :r], fit[n:, r:]
    return replace(
        projection,
        lift=torch.complex(aa + bb, ba - ab) / 2,
        lift_conj=torch.complex(aa - bb, ba + ab) / 2,
    )


def output_error(
    system: Realization, projection: StateProjection, inputs: list[Tensor]
) -> tuple[float, float]:
    """Sums of squares of y - y' and of y, y = Re(C h), over the calibration inputs."""
    C, reduced_C = system.C, projection.reduce_output(system.C.to(torch.complex128))
    wrong = whole = 0.0
    for full, reduced in _pairs(system, projection, inputs):
        y = full @ torch.cat([C.real, -C.imag], dim=1).T
        difference = y - reduced @ torch.cat([reduced_C.real, -reduced_C.imag], dim=1).T
        wrong += float(difference.square().sum())
        whole += float(y.square().sum())
    return wrong, whole


def relative_error(errors: list[tuple[float, float]]) -> float | None:
    """Root of the summed squares' ratio over several systems; None where there is no output at all."""
    wrong, whole = (sum(column) for column in zip(*errors, strict=True))
    return math.sqrt(wrong / whole) if whole > 0 else None
