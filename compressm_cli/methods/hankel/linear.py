"""The reduction of a linear time-invariant layer: balanced truncation of each of its systems."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer
from compressm_cli.lti import error_bound, order_for_energy
from compressm_cli.methods.hankel import empirical
from compressm_cli.methods.hankel.balanced import BalancedSystem, Cut
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.methods.hankel.reduction import Reduction
from compressm_cli.structure.plan import UnitRecord


@dataclass(frozen=True)
class _Chosen:
    """The cut of each of a layer's systems, all to one order."""

    systems: list[BalancedSystem]
    """As they were balanced for the cut."""
    cuts: list[Cut]
    projections: list[StateProjection]
    refusals: list[str]
    """Why some could not be cut as they are balanced over a horizon."""


class LinearReduction(Reduction):
    """The systems of a layer, balanced: with what calibration inputs excite, or with analytic Gramians.

    Analytic ones sum over ``horizon`` steps or for ever. A layer that is no stable finite system is refused.
    """

    layer: TimeInvariantLayer
    statistic: empirical.StateCovariance | empirical.JointMoments | None

    def __init__(self, layer: TimeInvariantLayer, config: HankelConfig, horizon: int | None) -> None:
        self.layer, self.config, self.horizon = layer, config, horizon
        self.full = layer.systems()
        self.statistic = None
        if config.gramian == "empirical":
            self.statistic = empirical.StateCovariance(self.full, layer.system_inputs)
        self.systems: list[BalancedSystem] = []
        self.chosen: _Chosen | None = None

    def measure(self) -> None:
        started = time.perf_counter()
        covariances: list[Tensor] | list[None] = [None] * len(self.full)
        if isinstance(self.statistic, empirical.StateCovariance):
            covariances = self.statistic.result()
            self.seconds = self.statistic.seconds
        self.systems = [
            BalancedSystem.of(system, self.config.realization, P, self.horizon)
            for system, P in zip(self.full, covariances, strict=True)
        ]
        self.seconds += time.perf_counter() - started

    def hsv(self) -> Tensor:
        """The mean over the systems."""
        return _mean_spectrum(self.systems)

    def order_for(self, energy_threshold: float) -> int:
        values = order_for_energy(self.hsv(), energy_threshold)
        return max(s.states_of(values) for s in self.systems)

    def by_state(self) -> Tensor:
        return self.systems[0].by_state(self.hsv())

    def describe(self, record: UnitRecord) -> None:
        record.details |= {
            "hsv": self.hsv().tolist(),
            "realization": self.config.realization,
            "gramian": self.config.gramian,
            "horizon": self.horizon,
        }

    def truncate(self, order: int, allowed: Callable[[int], int], generator: torch.Generator) -> None:
        found = [self._truncate(system, order, generator) for system in self.systems]
        cuts = [cut for _, cut, _ in found]
        order = allowed(max(cut.projection.order for cut in cuts))
        projections = [_padded(cut.projection, order) for cut in cuts]
        refusals = [refusal for _, _, refusal in found if refusal]
        self.chosen = _Chosen([system for system, _, _ in found], cuts, projections, refusals)
        if self.statistic is not None:
            covariances = [s.covariance for s in self.systems if s.covariance is not None]
            self.statistic = empirical.JointMoments(
                self.full, self.layer.system_inputs, projections, covariances
            )

    def cut(self, record: UnitRecord) -> list[StateProjection]:
        assert self.chosen is not None  # by ``truncate``
        details = record.details
        systems, cuts, projections = self.chosen.systems, self.chosen.cuts, self.chosen.projections
        if isinstance(self.statistic, empirical.JointMoments):
            projections, details["measured_error"] = self._refit(projections, self.statistic.result())
        record.after = projections[0].order
        record.reason = f"cut from {record.before} to {record.after}"
        self._tell_changed_horizon(record, systems, self.chosen.refusals)
        tails = [s.discarded(cut.kept) for s, cut in zip(systems, cuts, strict=True)]
        details["tail"] = sum(tails) / len(tails)
        if self.config.selection == "largest":
            details["kept"] = max(len(cut.kept) for cut in cuts)
            if details["gramian"] == "analytic" and details["horizon"] is None:
                details["bound"] = max(
                    error_bound(s.hsv, len(cut.kept)) for s, cut in zip(systems, cuts, strict=True)
                )
        return projections

    def _tell_changed_horizon(
        self, record: UnitRecord, systems: list[BalancedSystem], refusals: list[str]
    ) -> None:
        changed, details = len(refusals), record.details
        if changed:
            which = f"{changed} of {len(systems)} systems" if len(systems) > 1 else "the system"
            record.reason += (
                f"; {which} balanced over all time, since over {details['horizon']} steps: {refusals[-1]}"
            )
            details["hsv"] = _mean_spectrum(systems).tolist()
            details["horizon"] = None if changed == len(systems) else details["horizon"]

    def _truncate(
        self, system: BalancedSystem, order: int, generator: torch.Generator
    ) -> tuple[BalancedSystem, Cut, str | None]:
        """Cut one of the layer's systems; a finite horizon promises no stability, so all time is the way out.

        Returns the system as it was balanced for the cut, and why not over the horizon.
        """
        try:
            return system, system.truncate(order, self.config.selection, generator), None
        except ValueError as error:
            if system.horizon is None:
                raise
            refusal = str(error)
        system = system.over_all_time()
        return system, system.truncate(order, self.config.selection, generator), refusal

    def _refit(
        self, projections: list[StateProjection], moments: list[empirical.SecondMoments]
    ) -> tuple[list[StateProjection], float | None]:
        refitted, errors = [], []
        for balanced, projection, each in zip(self.systems, projections, moments, strict=True):
            refitted.append(each.refit_lift(projection))
            errors.append(each.output_error(balanced.system, refitted[-1]))
        return refitted, empirical.relative_error(errors)


def _mean_spectrum(systems: list[BalancedSystem]) -> Tensor:
    return torch.stack([s.hsv for s in systems]).mean(0).cpu()


def _padded(projection: StateProjection, order: int) -> StateProjection:
    """The projection with idle states appended, which neither read nor contribute, up to ``order``."""
    missing = order - projection.order
    if missing == 0:
        return projection
    rows = projection.restrict.new_zeros(missing, projection.restrict.shape[1])
    poles = projection.poles.new_full((missing,), 0.5)
    return StateProjection(
        torch.cat([projection.poles, poles]),
        torch.cat([projection.restrict, rows]),
        torch.cat([projection.restrict_conj, rows]),
        torch.cat([projection.lift, rows.T], dim=1),
        torch.cat([projection.lift_conj, rows.T], dim=1),
    )
