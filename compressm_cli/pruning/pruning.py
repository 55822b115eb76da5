"""One-shot compression of any network: units are priced, the worst of them leave, and what they gave is folded in."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.pruning.choice import chosen
from compressm_cli.pruning.costs import Cost, Costs
from compressm_cli.pruning.folds import Fold, folds, others
from compressm_cli.pruning.groups import Group, Groups
from compressm_cli.pruning.rounds import in_rounds
from compressm_cli.pruning.scores import SCORES, Judged, Score
from compressm_cli.pruning.workload import Workload
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.surgery import apply_edits


@dataclass(frozen=True)
class Pruned:
    """What a cut makes of a network, and what it costs."""

    plan: Plan
    """The edits, and a record for each group of axes that keep the same units."""
    before: Cost
    after: Cost
    price: float | None
    """By how much the loss is predicted to rise, without folds; None where the scores are no loss."""
    no_price: str | None
    """Why there is no price."""
    folds: list[Fold] = field(default_factory=list)


def prune(
    model: nn.Module,
    workload: Workload,
    flops: float,
    score: str = "taylor",
    *,
    fold: bool = True,
    uniform: bool = False,
    rounds: int = 1,
    pinned: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Pruned:
    """Cut a network in place until it takes at most the share ``flops`` of its FLOPs; whole or not at all.

    The units with the least ``score`` per FLOP leave (``SCORES``), of all axes that it declares or that were discovered
    in it but states. ``fold``: what they gave is folded into the matrices that read them. ``uniform``: layers that are
    built alike stay alike. ``rounds``: it is cut in so many equal parts, and what is left is judged and folded anew in
    each. Raises BadInputError for a budget that cannot be met, ValueError for a share, a score or
    rounds that there are not, and where the plan cannot be carried out.
    """
    pruned = planned(
        model, workload, flops, score, fold=fold, uniform=uniform, rounds=rounds, pinned=pinned, seed=seed
    )
    apply_edits(model, None, pruned.plan.edits)
    return pruned


def planned(
    model: nn.Module,
    workload: Workload,
    flops: float,
    score: str = "taylor",
    *,
    fold: bool = True,
    uniform: bool = False,
    rounds: int = 1,
    pinned: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Pruned:
    """As ``prune``, which only has to carry the plan out; the model is left as it is."""
    if not 0 < flops < 1:
        raise ValueError(f"flops is a share of the network's, above 0 and below 1, not {flops}")
    if score not in SCORES:
        raise ValueError(f"there is no score {score!r}; there are {', '.join(SCORES)}")
    if rounds < 1:
        raise ValueError(f"there is at least one round, not {rounds}")

    def once(network: nn.Module, share: float) -> Pruned:
        return _at_once(network, workload, share, SCORES[score](workload, fold, seed), fold, uniform, pinned)

    return once(model, flops) if rounds == 1 else in_rounds(model, once, flops, rounds)


def _at_once(
    model: nn.Module,
    workload: Workload,
    flops: float,
    by: Score,
    fold: bool,
    uniform: bool,
    pinned: Mapping[str, str] | None,
) -> Pruned:
    groups = Groups.of(model, pinned)
    judged = by.judge(model, groups.free) if groups.free else Judged()
    free = [group for group in groups.free if group.name in judged.scores]
    if not free:
        reasons = {**groups.pinned, **judged.unknown}
        told = "; ".join(f"{name}: {why}" for name, why in reasons.items())
        raise BadInputError(f"nothing of the network can be cut: {told or 'it has no axes'}")
    costs = Costs(model, free, workload)
    kept = chosen(free, judged.scores, costs, flops * costs.whole.flops, uniform)
    made, folded = (
        folds(model, [(g, kept[g.name]) for g in free if g.name in kept], workload) if fold else ([], [])
    )
    records = [_record(group, kept.get(group.name), judged, by, costs) for group in free]
    records += [
        UnitRecord(g.name, g.kind, g.size, g.size, f"nothing cut: {judged.unknown[g.name]}")
        for g in groups.free
        if g.name in judged.unknown
    ]
    plan = Plan([*(g.keep(kept[g.name].tolist()) for g in free if g.name in kept), *made], records)
    prices = [record.details["price"] for record in records if record.is_change]
    price = sum(prices) if by.PRICE is None else None
    sizes = {name: len(units) for name, units in kept.items()}
    return Pruned(plan, costs.whole, costs.at(sizes), price, by.PRICE, folded)


def _record(group: Group, kept: Tensor | None, judged: Judged, by: Score, costs: Costs) -> UnitRecord:
    scores = judged.scores[group.name]
    record = UnitRecord(
        group.name, group.kind, group.size, group.size, "nothing cut: all its units are worth their cost"
    )
    record.scores = scores.tolist()
    if kept is None:
        return record
    unit, gone = costs.of_unit(group), group.size - len(kept)
    left = others(kept, group.size)
    record.after = len(kept)
    also = f", with {', '.join(axis.name for axis in group.axes[1:])}" if len(group.axes) > 1 else ""
    record.reason = f"cut from {group.size} to {len(kept)}, {by.HOW}{also}"
    record.details = {
        "flops_saved": unit.flops * gone,
        "parameters_saved": unit.parameters * gone,
        "price": float(scores[left].sum()) if by.PRICE is None else None,
    }
    return record
