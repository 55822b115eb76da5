"""The reduction of a linear time-invariant layer: balanced truncation of each of its systems."""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from compressm_cli.compression import empirical
from compressm_cli.compression.balanced import BalancedSystem, Cut
from compressm_cli.compression.hankel_config import HankelConfig
from compressm_cli.compression.method import LayerRecord
from compressm_cli.compression.reduction import Reduction
from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer
from compressm_cli.lti import error_bound, order_for_energy


class LinearReduction(Reduction):
    """The systems of a layer, balanced.

    ``inputs`` (batch, length, H) of the layer on calibration batches, or None for analytic Gramians, which sum
    over ``horizon`` steps or for ever. Raises ValueError for a layer that is no stable finite system.
    """

    def __init__(
        self,
        layer: TimeInvariantLayer,
        config: HankelConfig,
        inputs: list[Tensor] | None,
        horizon: int | None,
    ) -> None:
        started = time.perf_counter()
        self.layer, self.config, self.horizon = layer, config, horizon
        self.inputs: list[list[Tensor]] | None = None
        if inputs is not None:
            seen = [layer.system_inputs(u) for u in inputs]
            self.inputs = [[batch[i] for batch in seen] for i in range(len(seen[0]))]
        self.systems = []
        for i, system in enumerate(layer.systems()):
            P = None if self.inputs is None else empirical.state_covariance(system, self.inputs[i])
            self.systems.append(BalancedSystem.of(system, config.realization, P, horizon))
        self.seconds = time.perf_counter() - started

    def hsv(self) -> Tensor:
        """The mean over the systems."""
        return _mean_spectrum(self.systems)

    def order_for(self, energy_threshold: float) -> int:
        values = order_for_energy(self.hsv(), energy_threshold)
        return max(s.states_of(values) for s in self.systems)

    def by_state(self) -> Tensor:
        return self.systems[0].by_state(self.hsv())

    def describe(self, record: LayerRecord) -> None:
        record.hsv = self.hsv().tolist()
        record.realization, record.gramian = self.config.realization, self.config.gramian
        record.horizon = self.horizon

    def cut(
        self, order: int, allowed: Callable[[int], int], generator: torch.Generator, record: LayerRecord
    ) -> list[StateProjection]:
        found = [self._truncate(system, order, generator) for system in self.systems]
        systems, cuts = [system for system, _, _ in found], [cut for _, cut, _ in found]
        order = allowed(max(cut.projection.order for cut in cuts))
        projections = [_padded(cut.projection, order) for cut in cuts]
        if self.inputs is not None:
            projections, record.measured_error = self._refit(projections)
        record.order_after = order
        record.reason = f"cut from {record.order_before} to {order}"
        self._tell_changed_horizon(record, systems, [refusal for _, _, refusal in found if refusal])
        tails = [s.discarded(cut.kept) for s, cut in zip(systems, cuts, strict=True)]
        record.tail = sum(tails) / len(tails)
        if self.config.selection == "largest":
            record.kept = max(len(cut.kept) for cut in cuts)
        if self.config.selection == "largest" and record.gramian == "analytic" and record.horizon is None:
            record.bound = max(
                error_bound(s.hsv, len(cut.kept)) for s, cut in zip(systems, cuts, strict=True)
            )
        return projections

    def _tell_changed_horizon(
        self, record: LayerRecord, systems: list[BalancedSystem], refusals: list[str]
    ) -> None:
        changed = len(refusals)
        if changed:
            which = f"{changed} of {len(systems)} systems" if len(systems) > 1 else "the system"
            record.reason += (
                f"; {which} balanced over all time, since over {record.horizon} steps: {refusals[-1]}"
            )
            record.hsv = _mean_spectrum(systems).tolist()
            record.horizon = None if changed == len(systems) else record.horizon

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

    def _refit(self, projections: list[StateProjection]) -> tuple[list[StateProjection], float | None]:
        refitted, errors = [], []
        for balanced, projection, inputs in zip(self.systems, projections, self.inputs or [], strict=True):
            assert balanced.covariance is not None  # as everywhere with calibration inputs
            moments = empirical.SecondMoments.of(balanced.system, projection, balanced.covariance, inputs)
            refitted.append(moments.refit_lift(projection))
            errors.append(moments.output_error(balanced.system, refitted[-1]))
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
