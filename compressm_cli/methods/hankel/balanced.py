"""One system of a layer in balanced coordinates, and the projection that keeps some of them."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from compressm_cli.core.threads import one_torch_thread
from compressm_cli.layers.time_invariant import StateProjection
from compressm_cli.lti import (
    MAX_EIGENVECTOR_CONDITION,
    Balancing,
    Modes,
    Realization,
    balance,
    balance_real_form,
    balance_realization,
    controllability_gramian,
    count_states,
    leading_modes,
    observability_gramian,
    project,
    project_real_form,
    real_gramians,
)

Selection = Literal["largest", "smallest", "random"]


@dataclass(frozen=True)
class Cut:
    """A projection and the indices of the Hankel singular values that it keeps."""

    projection: StateProjection
    kept: Tensor


@dataclass(frozen=True)
class BalancedSystem:
    """A diagonal system with y = Re(C h), and the balancing of the form of it that is truncated.

    For ``realization: real`` that is the real form of order 2 n in the coordinates sqrt(2) [Re h; Im h], whose
    output is y itself; for ``complex`` it is the system as it stands, as in the paper.
    """

    system: Realization
    balancing: Balancing
    is_real: bool
    covariance: Tensor | None
    horizon: int | None

    @classmethod
    @one_torch_thread()
    def of(
        cls,
        system: Realization,
        realization: Literal["real", "complex"],
        covariance: Tensor | None = None,
        horizon: int | None = None,
    ) -> "BalancedSystem":
        """Balance a system, over ``horizon`` steps or for ever.

        ``covariance`` (2 n, 2 n) of its real states replaces the controllability Gramian.
        """
        if realization == "real":
            balancing = _balance_real(system, covariance, horizon)
            return cls(system, balancing, True, covariance, horizon)
        balancing = _balance_complex(system, covariance, horizon)
        return cls(system, balancing, False, covariance, horizon)

    def over_all_time(self) -> "BalancedSystem":
        """The same system balanced without a horizon: then what is cut to is stable (Antoulas 2005, 7.2)."""
        return self.of(self.system, "real" if self.is_real else "complex", self.covariance)

    @property
    def hsv(self) -> Tensor:
        """Hankel singular values of the form, descending: 2 n for the real one, else n."""
        return self.balancing.hsv

    @property
    def rank(self) -> int:
        """How many balanced coordinates there are, numerically; none where nothing gets from input to output."""
        return self.balancing.rank

    def discarded(self, kept: Tensor) -> float:
        """Share of the sum of the Hankel singular values outside ``kept``, 0 where all are zero."""
        whole = float(self.hsv.sum())
        return 1.0 - float(self.hsv[kept].sum()) / whole if whole > 0 else 0.0

    def by_state(self, hsv: Tensor) -> Tensor:
        """Hankel singular values (of this form) summed to one value a complex state."""
        return hsv.view(-1, 2).sum(1) if self.is_real else hsv

    def states_of(self, order: int) -> int:
        """How many complex states it takes to keep the ``order`` largest Hankel singular values.

        To keep all of them takes all states, also those that nothing is known of beside round-off.
        """
        if order == len(self.hsv):
            return self.system.order
        order = min(order, self.rank)
        if not self.is_real or order == 0:
            return order
        return count_states(project_real_form(self.system, *self.balancing.coordinates(slice(order))))

    @one_torch_thread()
    def truncate(self, states: int, selection: Selection, generator: torch.Generator) -> Cut:
        """Keep as many balanced coordinates as fit into ``states`` complex states.

        Two conjugate poles make one state, a real pole makes one too: the real form is truncated to the largest
        order whose poles fit. Of a system without any balanced coordinate no state is kept. Raises ValueError
        where the reduced system is unstable or its basis is too ill-conditioned to be diagonalized.
        """
        ranking = self._ranking(selection, generator)
        if self.rank == 0:
            return Cut(self._no_projection(), ranking)
        if not self.is_real:
            kept = ranking[:states]
            return Cut(self._complex_projection(kept), kept)
        most = ranking[: 2 * states]
        left, right = self.balancing.coordinates(most)
        modes = leading_modes(project_real_form(self.system, left, right), states)
        order = modes.left.shape[0]
        return Cut(self._real_projection(left[:, :order], right[:, :order], modes), most[:order])

    def _ranking(self, selection: Selection, generator: torch.Generator) -> Tensor:
        if selection == "random":
            return torch.randperm(self.rank, generator=generator)
        ranking = torch.arange(self.rank)
        return ranking if selection == "largest" else ranking.flip(0)

    def _no_projection(self) -> StateProjection:
        poles = self.system.A.to(torch.complex128)[:0]
        rows = poles.new_zeros(0, self.system.order)
        return StateProjection(poles, rows, rows, rows.mT, rows.mT)

    def _complex_projection(self, kept: Tensor) -> StateProjection:
        left, right = self.balancing.coordinates(kept)
        poles, vectors = torch.linalg.eig(project(self.system, left, right).dense().A.to(torch.complex128))
        _require_stable(poles)
        condition = float(torch.linalg.cond(vectors))
        if not condition <= MAX_EIGENVECTOR_CONDITION:
            raise ValueError(
                f"the reduced system cannot be diagonalized (eigenvector condition {condition:.1e})"
            )
        restrict, lift = (
            torch.linalg.solve(vectors, left.mH.to(vectors.dtype)),
            right.to(vectors.dtype) @ vectors,
        )
        return StateProjection(poles, restrict, torch.zeros_like(restrict), lift, torch.zeros_like(lift))

    def _real_projection(self, left: Tensor, right: Tensor, modes: Modes) -> StateProjection:
        """From x = sqrt(2) [Re h; Im h] to one complex state g a pair of poles (see ``StateProjection``)."""
        _require_stable(modes.poles)
        n = self.system.order
        to_modes = math.sqrt(2) * _times_complex(left, modes.left.conj()).mT
        # A pair contributes 2 Re(v g) to x, a real pole v g = Re(v g).
        weight = torch.where(modes.is_pair, 1.0, 0.5)
        from_modes = _times_complex(right, modes.right * weight / math.sqrt(2))
        a, b = to_modes[:, :n], to_modes[:, n:]
        c, d = from_modes[:n], from_modes[n:]
        return StateProjection(
            poles=modes.poles,
            restrict=(a - 1j * b) / 2,
            restrict_conj=(a + 1j * b) / 2,
            lift=c + 1j * d,
            lift_conj=c.conj() + 1j * d.conj(),
        )


def _balance_real(system: Realization, covariance: Tensor | None, horizon: int | None) -> Balancing:
    if covariance is None and horizon is None:
        return balance_real_form(system)
    P, Q = real_gramians(system, horizon)
    return balance(P if covariance is None else covariance, Q)


def _balance_complex(system: Realization, covariance: Tensor | None, horizon: int | None) -> Balancing:
    if covariance is None and horizon is None:
        return balance_realization(system)
    P = controllability_gramian(system, horizon) if covariance is None else _complex_covariance(covariance)
    return balance(P, observability_gramian(system, horizon))


def _times_complex(real: Tensor, factor: Tensor) -> Tensor:
    """``real @ factor`` for a complex factor, in real arithmetic."""
    return torch.view_as_complex(
        (real @ torch.view_as_real(factor.resolve_conj()).flatten(1)).unflatten(1, (-1, 2))
    )


def _require_stable(poles: Tensor) -> None:
    radius = float(poles.abs().max())
    if not radius < 1:
        raise ValueError(f"the reduced system is not stable (spectral radius {radius:.9f})")


def _complex_covariance(covariance: Tensor) -> Tensor:
    """E[h h^H] (n, n) from E[x x^T] (2 n, 2 n), x = sqrt(2) [Re h; Im h]."""
    n = covariance.shape[0] // 2
    aa, ab, ba, bb = covariance[:n, :n], covariance[:n, n:], covariance[n:, :n], covariance[n:, n:]
    return torch.complex(aa + bb, ba - ab) / 2
