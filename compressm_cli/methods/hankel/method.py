"""In-training balanced truncation by Hankel singular values (Chahine et al., ICLR 2026, arXiv 2510.02823).

At each check every layer's systems are balanced; the order comes from the spectrum (an energy threshold), from a
fraction, or from a target; the balanced states that matter least are dropped.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.validation import is_count, mapping_of, part, require
from compressm_cli.layers.interface import StateSpaceLayer, state_axis, state_space_layers
from compressm_cli.layers.time_invariant import TimeInvariantLayer
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.hankel.config import TARGETS, HankelConfig
from compressm_cli.methods.hankel.empirical import moments_bytes
from compressm_cli.methods.hankel.linear import LinearReduction
from compressm_cli.methods.hankel.record import OF_A_CUT, HankelDetails, hankel_record, no_details
from compressm_cli.methods.hankel.reduction import Reduction
from compressm_cli.methods.hankel.selective import selective_reduction
from compressm_cli.methods.hankel.selective.moments import selective_bytes
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.methods.schedule import AdaptiveSchedule, SettlingOrders
from compressm_cli.structure.computed import computed_states
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.projection import Project

__all__ = ["TARGETS", "Hankel", "HankelConfig"]

UNUSABLE = (ValueError, torch.linalg.LinAlgError)
"""What a layer raises that is no stable finite system, or is too ill-conditioned: it keeps its states."""
REFUSED = "nothing cut: refused: "
"""How the reason begins where a layer cannot be cut to the order wanted of it."""

Measured = dict[str, Reduction | str]
"""Each layer's reduction, or why it cannot be measured."""


@dataclass
class _Candidate:
    """One layer at one check, and what becomes of it."""

    name: str
    reduction: Reduction
    record: UnitRecord
    order: int = 0
    """What is wanted."""
    is_cut: bool = False

    @property
    def layer(self) -> StateSpaceLayer:
        return self.reduction.layer

    def refuse(self, error: Exception) -> None:
        self.is_cut = False
        self.record.reason = f"{REFUSED}{error}"


class TargetsError(BadInputError, ValueError):
    """A list of target orders has not one for each layer; a ValueError in a loop of one's own."""


class Hankel(Method):
    """Balanced truncation of every linear time-invariant layer."""

    Config = HankelConfig
    Details = HankelDetails

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
        left_out = computed_states(model)
        measured = self.measure({n: layer for n, layer in layers.items() if n not in left_out}, context)
        measured |= left_out
        return self.decide(layers, measured, context)

    def measure(self, layers: dict[str, StateSpaceLayer], context: CheckContext) -> Measured:
        """What orders are chosen by; only reads the layers, and serves for any number of decisions."""
        found: Measured = {}
        horizon = self._horizon(layers, context)
        for name, layer in layers.items():
            try:
                found[name] = self._reduction(layer, horizon)
            except UNUSABLE as error:
                found[name] = str(error)
        self._observe({name: r for name, r in found.items() if isinstance(r, Reduction)}, context)
        for name, reduction in found.items():
            if isinstance(reduction, Reduction):
                try:
                    reduction.measure()
                except UNUSABLE as error:
                    found[name] = str(error)
        return found

    def decide(self, layers: dict[str, StateSpaceLayer], measured: Measured, context: CheckContext) -> Plan:
        """The plan that follows from what was measured."""
        plan = Plan()
        candidates = []
        for name, found in measured.items():
            if isinstance(found, str):
                plan.records.append(_refused(name, layers[name], found))
            else:
                now = layers[name].state_dim
                candidates.append(_Candidate(name, found, hankel_record(name, now, seconds=found.seconds)))
        self._choose_orders(candidates, context)
        wanted = {c.name: c.order for c in candidates}
        waiting = self._waiting([wanted.get(name, layer.state_dim) for name, layer in layers.items()])
        for candidate in candidates:
            with _timed(candidate.record):
                self._decide(candidate, waiting, context.generator)
        cuts = [c for c in candidates if c.is_cut]
        self._observe({c.name: c.reduction for c in cuts}, context)
        for candidate in cuts:
            if candidate.reduction.statistic is not None:
                candidate.record.seconds += candidate.reduction.statistic.seconds
            with _timed(candidate.record):
                edit = self._cut(candidate, context)
            if edit is not None:
                plan.edits.append(edit)
        plan.records += [c.record for c in candidates]
        plan.records.sort(key=lambda record: list(layers).index(record.title))
        return plan

    def calibration_bytes(self, model: nn.Module, rows: int, length: int) -> tuple[int, int]:
        found = [(0, 0)]
        for layer in state_space_layers(model).values():
            if not isinstance(layer, TimeInvariantLayer):
                found.append(selective_bytes(layer, rows, length))
            elif self.config.gramian == "empirical":
                found.append(moments_bytes(layer, rows, length))
        return sum(kept for kept, _ in found), max(at_once for _, at_once in found)

    def no_details(self) -> dict[str, Any]:
        return no_details()

    def refused(self, records: list[UnitRecord], why: str) -> None:
        for record in records:
            if record.is_change:
                record.details |= dict.fromkeys(OF_A_CUT)
        super().refused(records, why)

    def accepted(self, records: list[UnitRecord]) -> None:
        if self.settling:
            self.settling.reset()

    def rejected(self, records: list[UnitRecord]) -> None:
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

    def validate(self, state: dict[str, Any], model: nn.Module) -> None:
        layers = list(state_space_layers(model))
        orders = mapping_of(
            state, "start_orders", lambda v: is_count(v, 1, 65536), "a whole number of at least 1"
        )
        require(not orders or list(orders) == layers, "start_orders", "of the model's layers", orders)
        require(is_count(state.get("rejections")), "rejections", "a whole number", state.get("rejections"))
        if self.settling is None:
            found = state.get("settling")
            require(found is None, "settling", "null: the schedule is not adaptive", found)
            return
        settling = part(state, "settling", dict)
        last, still = settling.get("last", 0), settling.get("still")
        right = last is None or (type(last) is list and len(last) == len(layers) and all(map(is_count, last)))
        require(right, "settling.last", "null or an order for each layer", last)
        require(is_count(still), "settling.still", "a whole number", still)

    def needs_inputs(self, layers: dict[str, StateSpaceLayer]) -> bool:
        """Whether ``measure`` asks for calibration batches."""
        selective = any(not isinstance(layer, TimeInvariantLayer) for layer in layers.values())
        return selective or self.config.gramian == "empirical"

    def _horizon(self, layers: dict[str, StateSpaceLayer], context: CheckContext) -> int | None:
        """Steps over which the Gramians of these layers sum; None for ever, or where no layer asks."""
        asked = any(isinstance(layer, TimeInvariantLayer) for layer in layers.values())
        return context.length if asked and self.config.horizon == "sequence" else None

    def _reduction(self, layer: StateSpaceLayer, horizon: int | None) -> Reduction:
        if isinstance(layer, TimeInvariantLayer):
            return LinearReduction(layer, self.config, horizon)
        return selective_reduction(layer, self.config)

    def _observe(self, reductions: dict[str, Reduction], context: CheckContext) -> None:
        """Show all calibration batches to what wants to see them, every layer in the same passes."""
        wanted = {name: r.statistic for name, r in reductions.items() if r.statistic is not None}
        self._calibrate(wanted, context)

    def _calibrate(self, statistics: dict[str, Statistic], context: CheckContext) -> None:
        if statistics:
            context.calibrate(statistics, self.config.calibration_batches)

    def _choose_orders(self, candidates: list[_Candidate], context: CheckContext) -> None:
        """Set each candidate's wanted order, with rounding, limits and gentleness applied."""
        for candidate, wanted in zip(candidates, self._target_orders(candidates, context), strict=True):
            now = candidate.layer.state_dim
            # Each rejected cut halves what the next one removes.
            removed = max(0, now - self._allowed(wanted)) // 2**self.rejections
            candidate.order = min(now, self._allowed(now - removed))

    def _allowed(self, order: int) -> int:
        """The smallest order from this one on that min_order and multiple_of allow."""
        multiple = self.config.multiple_of
        return -(-max(order, self.config.min_order) // multiple) * multiple

    def _target_orders(self, candidates: list[_Candidate], context: CheckContext) -> list[int]:
        config = self.config
        if config.energy_threshold is not None:
            return [c.reduction.order_for(config.energy_threshold) for c in candidates]
        now = [c.layer.state_dim for c in candidates]
        if config.keep_fraction is not None:
            return [max(1, round(config.keep_fraction * n)) for n in now]
        progress = self._progress(context)
        start = [self.start_orders[c.name] for c in candidates]
        if config.target_order is not None:
            targets = self._targets(candidates)
            return [_between(s, t, progress) for s, t in zip(start, targets, strict=True)]
        total = _between(sum(start), config.target_order_total, progress)
        return share_out(total, [c.reduction.by_state() for c in candidates])

    def _targets(self, candidates: list[_Candidate]) -> list[int]:
        target = self.config.target_order
        if isinstance(target, int):
            return [target] * len(candidates)
        if len(target) != len(self.start_orders):
            layers = ", ".join(self.start_orders)
            raise TargetsError(
                f"compression.target_order: {len(target)} orders are listed, and the model's layers with states are "
                f"{layers}; write one number, or a list of {len(self.start_orders)}"
            )
        by_name = dict(zip(self.start_orders, target, strict=True))
        return [by_name[c.name] for c in candidates]

    def _progress(self, context: CheckContext) -> float:
        """Which part of the way to the target this check goes: 1 at the last one."""
        if self.settling:
            return 1.0
        steps = self.check_steps(context.total_steps)
        return (sum(step <= context.reached for step in steps)) / len(steps)

    def _waiting(self, orders: list[int]) -> bool:
        """Whether an adaptive schedule still waits for the orders to settle."""
        return self.settling is not None and not self.settling.settled(orders)

    def _decide(self, candidate: _Candidate, waiting: bool, generator: torch.Generator) -> None:
        """Choose new states where the layer is to be cut, or say why it is not."""
        now, wanted, record = candidate.layer.state_dim, candidate.order, candidate.record
        candidate.reduction.describe(record)
        if wanted >= now:
            record.reason = f"nothing cut: the wanted order is {wanted}, the layer has {now}"
        elif now - wanted < self.config.min_reduction * now:
            least = f"min_reduction ({self.config.min_reduction:g})"
            record.reason = f"nothing cut: {now} -> {wanted} removes less than {least}"
        elif waiting:
            record.reason = f"nothing cut: the wanted order ({wanted}) has not settled"
        else:
            try:
                candidate.reduction.truncate(wanted, self._allowed, generator)
                candidate.is_cut = True
            except UNUSABLE as error:
                candidate.refuse(error)

    def _cut(self, candidate: _Candidate, context: CheckContext) -> Project | None:
        """The edit that brings a layer to the states that were chosen; None where it is refused after all."""
        record, reduction = candidate.record, candidate.reduction
        try:
            projections = reduction.cut(record)
            values = reduction.values(
                projections, record, lambda seen: self._calibrate({candidate.name: seen}, context)
            )
        except UNUSABLE as error:
            candidate.refuse(error)
            return None
        return Project(state_axis(candidate.name), record.after, projections, self.config.moments, values)


@contextmanager
def _timed(record: UnitRecord) -> Iterator[None]:
    started = time.perf_counter()
    yield
    record.seconds += time.perf_counter() - started


def _kept(name: str, layer: StateSpaceLayer, reason: str) -> UnitRecord:
    return hankel_record(name, layer.state_dim, f"nothing cut: {reason}")


def _refused(name: str, layer: StateSpaceLayer, why: str) -> UnitRecord:
    return hankel_record(name, layer.state_dim, f"{REFUSED}{why}")


def _between(start: int, target: int, progress: float) -> int:
    """From start to target by equal ratios."""
    return max(target, round(start * (target / start) ** progress)) if start > target else start


def share_out(total: int, spectra: list[Tensor]) -> list[int]:
    """How many states each layer keeps when the ``total`` largest shares of energy stay, at least one each."""
    shares = torch.cat([s / s.sum().clamp_min(1e-300) for s in spectra])
    owner = torch.cat([torch.full((len(s),), i) for i, s in enumerate(spectra)])
    # Every layer's own largest value comes first, so that none is left without a state.
    first = torch.cat([torch.arange(len(s)) == 0 for s in spectra])
    chosen = torch.argsort(shares + first * 2.0, descending=True, stable=True)[: max(total, len(spectra))]
    return [int((owner[chosen] == i).sum()) for i in range(len(spectra))]
