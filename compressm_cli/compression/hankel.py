"""In-training balanced truncation by Hankel singular values (Chahine et al., ICLR 2026, arXiv 2510.02823).

At each check every layer's systems are balanced; the order comes from the spectrum (an energy threshold), from a
fraction, or from a target; the balanced states that matter least are dropped.
"""

import time
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.compression import empirical
from compressm_cli.compression.balanced import BalancedSystem, Cut
from compressm_cli.compression.method import (
    CheckContext,
    LayerRecord,
    Method,
    MethodConfig,
    Moments,
    Plan,
    Truncate,
)
from compressm_cli.compression.schedule import AdaptiveSchedule, SettlingOrders
from compressm_cli.layers.interface import StateProjection, StateSpaceLayer, state_space_layers
from compressm_cli.lti import error_bound, order_for_energy

Order = Annotated[int, Field(ge=1)]
TARGETS = ("energy_threshold", "keep_fraction", "target_order", "target_order_total")


class HankelConfig(MethodConfig):
    """``compression: {method: hankel}``; give exactly one of the four targets."""

    method: Literal["hankel"]
    energy_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the Hankel energy (sum of the singular values) to keep; the paper's tau is 1 minus this."""
    keep_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the states that each check keeps."""
    target_order: Order | Annotated[list[Order], Field(min_length=1)] | None = None
    """Order to reach at the last check, by equal ratios from check to check; a list gives one a layer."""
    target_order_total: Order | None = None
    """Sum of all layers' orders to reach at the last check; shared out by their spectra."""
    min_reduction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """A layer is cut only if at least this share of its states goes."""
    min_order: Order = 1
    """No layer gets fewer states."""
    multiple_of: Order = 1
    """Orders are rounded up to a multiple of this."""
    selection: Literal["largest", "smallest", "random"] = "largest"
    """Which balanced states are kept; the last two are for ablations."""
    realization: Literal["real", "complex"] = "real"
    """``real``: balance the real system that the real output makes of the layer; ``complex``: the paper's."""
    gramian: Literal["analytic", "empirical"] = "empirical"
    """``analytic``: P of white inputs, the paper's; ``empirical``: P from the states that calibration batches
    produce, and the read-out refitted to them."""
    horizon: Literal["infinite", "sequence"] = "sequence"
    """Steps over which analytic Gramians sum: for ever, as in the paper, or the length of the sequences."""
    calibration_batches: Annotated[int, Field(ge=1)] = 4
    """Training batches that an empirical Gramian is made of."""
    moments: Moments = "reset"
    """Adam's moments of the cut parameters: start anew, carry over to the new coordinates, or cut by index."""

    @model_validator(mode="after")
    def _one_target(self) -> "HankelConfig":
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of {', '.join(TARGETS)}; found {found}")
        return self

    @model_validator(mode="after")
    def _target_above_minimum(self) -> "HankelConfig":
        targets = (
            self.target_order
            if isinstance(self.target_order, list)
            else [self.target_order or self.min_order]
        )
        if min(targets) < self.min_order:
            raise ValueError(f"target_order ({min(targets)}) must not be below min_order ({self.min_order})")
        return self


@dataclass
class _Candidate:
    """One layer at one check: its systems, balanced, and what is wanted of it."""

    name: str
    layer: StateSpaceLayer
    inputs: list[list[Tensor]] | None
    """Calibration inputs by system, or None for analytic Gramians."""
    systems: list[BalancedSystem]
    horizon: int | None
    seconds: float
    order: int = 0
    refusal: str = ""
    """Why a reduction over the horizon was not used."""

    def hsv(self) -> Tensor:
        """The spectrum of the layer, descending: the mean over its systems; on the CPU."""
        return torch.stack([s.hsv for s in self.systems]).mean(0).cpu()


class Hankel(Method):
    """Balanced truncation of every linear time-invariant layer."""

    Config = HankelConfig

    def __init__(self, config: HankelConfig) -> None:
        super().__init__(config)
        schedule = config.schedule
        self.settling: SettlingOrders | None = None
        if isinstance(schedule, AdaptiveSchedule):
            self.settling = SettlingOrders(schedule.tolerance, schedule.patience)
        self.start_orders: dict[str, int] = {}
        self.rejections = 0

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        layers = state_space_layers(model)
        if not self.start_orders:
            self.start_orders = {name: layer.state_dim for name, layer in layers.items()}
        if self.rejections and self.config.safety.on_rejection == "stop":
            return Plan(
                records=[
                    _kept(n, m, "an earlier cut was rejected; no further cuts") for n, m in layers.items()
                ]
            )
        plan = Plan()
        candidates = []
        horizon = context.length if self.config.horizon == "sequence" else None
        inputs = (
            context.calibrate(self.config.calibration_batches) if self.config.gramian == "empirical" else {}
        )
        for name, layer in layers.items():
            try:
                candidates.append(self._balance(name, layer, inputs.get(name), horizon))
            except ValueError as error:
                plan.records.append(_kept(name, layer, f"refused: {error}"))
        self._choose_orders(candidates, context)
        wanted = {c.name: c.order for c in candidates}
        waiting = self._waiting([wanted.get(name, layer.state_dim) for name, layer in layers.items()])
        for candidate in candidates:
            started = time.perf_counter()
            record, edit = self._decide(candidate, waiting, context.generator)
            record.seconds = candidate.seconds + time.perf_counter() - started
            plan.records.append(record)
            if edit is not None:
                plan.edits.append(edit)
        plan.records.sort(key=lambda record: list(layers).index(record.layer))
        return plan

    def accepted(self, plan: Plan) -> None:
        if self.settling:
            self.settling.reset()

    def rejected(self, plan: Plan) -> None:
        self.rejections += 1
        if self.settling:
            self.settling.reset()

    def state_dict(self) -> dict[str, Any]:
        return {
            "start_orders": dict(self.start_orders),
            "rejections": self.rejections,
            "settling": self.settling.state_dict() if self.settling else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start_orders = dict(state["start_orders"])
        self.rejections = state["rejections"]
        if self.settling:
            self.settling.load_state_dict(state["settling"])

    def _balance(
        self, name: str, layer: StateSpaceLayer, inputs: list[Tensor] | None, horizon: int | None
    ) -> _Candidate:
        started = time.perf_counter()
        by_system = None
        if inputs is not None:
            seen = [layer.system_inputs(u) for u in inputs]
            by_system = [[batch[i] for batch in seen] for i in range(len(seen[0]))]
        systems = []
        for i, system in enumerate(layer.systems()):
            P = None if by_system is None else empirical.state_covariance(system, by_system[i])
            systems.append(BalancedSystem.of(system, self.config.realization, P, horizon))
        return _Candidate(name, layer, by_system, systems, horizon, time.perf_counter() - started)

    def _choose_orders(self, candidates: list[_Candidate], context: CheckContext) -> None:
        """Set each candidate's wanted order, with rounding, limits and gentleness applied."""
        for candidate, wanted in zip(candidates, self._wanted_orders(candidates, context), strict=True):
            now = candidate.layer.state_dim
            # Each rejected cut halves what the next one removes.
            removed = max(0, now - self._allowed(wanted)) // 2**self.rejections
            candidate.order = min(now, self._allowed(now - removed))

    def _allowed(self, order: int) -> int:
        """The smallest order from this one on that min_order and multiple_of allow."""
        multiple = self.config.multiple_of
        return -(-max(order, self.config.min_order) // multiple) * multiple

    def _wanted_orders(self, candidates: list[_Candidate], context: CheckContext) -> list[int]:
        config = self.config
        if config.energy_threshold is not None:
            return [
                max(s.states_of(order_for_energy(c.hsv(), config.energy_threshold)) for s in c.systems)
                for c in candidates
            ]
        now = [c.layer.state_dim for c in candidates]
        if config.keep_fraction is not None:
            return [max(1, round(config.keep_fraction * n)) for n in now]
        progress = self._progress(context)
        start = [self.start_orders[c.name] for c in candidates]
        if config.target_order is not None:
            targets = self._targets(candidates)
            return [_between(s, t, progress) for s, t in zip(start, targets, strict=True)]
        total = _between(sum(start), config.target_order_total, progress)
        return _share_out(total, [c.systems[0].by_state(c.hsv()) for c in candidates])

    def _targets(self, candidates: list[_Candidate]) -> list[int]:
        target = self.config.target_order
        if isinstance(target, int):
            return [target] * len(candidates)
        by_name = dict(zip(self.start_orders, target, strict=True))
        return [by_name[c.name] for c in candidates]

    def _progress(self, context: CheckContext) -> float:
        """Which part of the way to the target this check goes: 1 at the last one."""
        if self.settling:
            return 1.0
        steps = self.check_steps(context.total_steps)
        return (sum(step <= context.step for step in steps)) / len(steps)

    def _waiting(self, orders: list[int]) -> bool:
        """Whether an adaptive schedule still waits for the orders to settle."""
        return self.settling is not None and not self.settling.settled(orders)

    def _decide(
        self, candidate: _Candidate, waiting: bool, generator: torch.Generator
    ) -> tuple[LayerRecord, Truncate | None]:
        record = self._record(candidate)
        now, wanted = candidate.layer.state_dim, candidate.order
        if wanted >= now:
            record.reason = f"nothing cut: the wanted order is {wanted}, the layer has {now}"
        elif now - wanted < self.config.min_reduction * now:
            least = f"min_reduction ({self.config.min_reduction:g})"
            record.reason = f"nothing cut: {now} -> {wanted} removes less than {least}"
        elif waiting:
            record.reason = f"nothing cut: the wanted order ({wanted}) has not settled"
        else:
            return self._cut(candidate, record, generator)
        return record, None

    def _record(self, candidate: _Candidate) -> LayerRecord:
        now = candidate.layer.state_dim
        return LayerRecord(
            layer=candidate.name,
            order_before=now,
            order_after=now,
            reason="",
            hsv=candidate.hsv().tolist(),
            realization=self.config.realization,
            gramian=self.config.gramian,
            horizon=candidate.horizon,
        )

    def _cut(
        self, candidate: _Candidate, record: LayerRecord, generator: torch.Generator
    ) -> tuple[LayerRecord, Truncate | None]:
        try:
            cuts = [self._truncate(candidate, i, generator) for i in range(len(candidate.systems))]
        except ValueError as error:
            record.reason = f"nothing cut: refused: {error}"
            return record, None
        order = self._allowed(max(cut.projection.order for cut in cuts))
        projections = [_padded(cut.projection, order) for cut in cuts]
        if candidate.inputs is not None:
            projections, record.measured_error = _refit(candidate, projections)
        record.order_after = order
        record.reason = f"cut from {record.order_before} to {order}"
        changed = sum(s.horizon != candidate.horizon for s in candidate.systems)
        if changed:
            which = f"{changed} of {len(cuts)} systems" if len(cuts) > 1 else "the system"
            record.reason += (
                f"; {which} balanced over all time, since over {record.horizon} steps: {candidate.refusal}"
            )
            record.hsv = candidate.hsv().tolist()
            record.horizon = None if changed == len(cuts) else record.horizon
        tails = [s.discarded(cut.kept) for s, cut in zip(candidate.systems, cuts, strict=True)]
        record.tail = sum(tails) / len(tails)
        if self.config.selection == "largest":
            record.kept = max(len(cut.kept) for cut in cuts)
        if self.config.selection == "largest" and record.gramian == "analytic" and record.horizon is None:
            record.bound = max(
                error_bound(s.hsv, len(cut.kept)) for s, cut in zip(candidate.systems, cuts, strict=True)
            )
        return record, Truncate(candidate.name, order, projections, self.config.moments)

    def _truncate(self, candidate: _Candidate, i: int, generator: torch.Generator) -> Cut:
        """Cut one of the layer's systems; a finite horizon promises no stability, so all time is the way out."""
        system = candidate.systems[i]
        try:
            return system.truncate(candidate.order, self.config.selection, generator)
        except ValueError as error:
            if system.horizon is None:
                raise
            candidate.refusal = str(error)
        candidate.systems[i] = system.over_all_time()
        return candidate.systems[i].truncate(candidate.order, self.config.selection, generator)


def _kept(name: str, layer: StateSpaceLayer, reason: str) -> LayerRecord:
    return LayerRecord(name, layer.state_dim, layer.state_dim, f"nothing cut: {reason}")


def _between(start: int, target: int, progress: float) -> int:
    """From start to target by equal ratios."""
    return max(target, round(start * (target / start) ** progress)) if start > target else start


def _share_out(total: int, spectra: list[Tensor]) -> list[int]:
    """How many states each layer keeps when the ``total`` largest shares of energy stay, at least one each."""
    shares = torch.cat([s / s.sum().clamp_min(1e-300) for s in spectra])
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(spectra)])
    # Every layer's own largest value comes first, so that none is left without a state.
    first = torch.cat([torch.arange(len(s)) == 0 for s in spectra])
    chosen = torch.argsort(shares + first * 2.0, descending=True, stable=True)[: max(total, len(spectra))]
    return [int((owner[chosen] == i).sum()) for i in range(len(spectra))]


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


def _refit(
    candidate: _Candidate, projections: list[StateProjection]
) -> tuple[list[StateProjection], float | None]:
    refitted, errors = [], []
    for balanced, projection, inputs in zip(
        candidate.systems, projections, candidate.inputs or [], strict=True
    ):
        assert balanced.covariance is not None  # as everywhere with calibration inputs
        moments = empirical.SecondMoments.of(balanced.system, projection, balanced.covariance, inputs)
        refitted.append(moments.refit_lift(projection))
        errors.append(moments.output_error(balanced.system, refitted[-1]))
    return refitted, empirical.relative_error(errors)
