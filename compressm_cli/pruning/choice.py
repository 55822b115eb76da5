"""Which units stay so that a network costs no more than a budget: those of most score per cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.pruning.costs import Costs
from compressm_cli.pruning.groups import Group

ROUNDS = 2
"""Units are priced in the whole network first, then in the one that these prices make: what a query costs depends on
how many groups of keys there are."""


@dataclass(frozen=True)
class Step:
    """Units that leave at once: some of a group, or as many of each of several that keep the same number."""

    ratio: float
    """Score per FLOP, at least that of what leaves before of the same groups."""
    bundle: int
    number: int
    """How many steps of the bundle are done with it."""


def chosen(
    groups: Sequence[Group], scores: Mapping[str, Tensor], costs: Costs, most: float, uniform: bool
) -> dict[str, Tensor]:
    """The units that stay, ascending, of each group of which some leave, so that FLOPs are at most ``most``.

    No more leave than that takes. With ``uniform`` groups of layers that are built alike keep the same number. The same
    for the same scores: of equal ones the first units stay longest. Raises BadInputError where the least network costs
    more.
    """
    bundles = _bundles(groups, uniform)
    least = {g.name: g.least for g in groups}
    if costs.at(least).flops > most:
        raise BadInputError(
            f"a budget of {_share(most, costs)} cannot be met: without all units that may leave, the network still "
            f"takes {_share(costs.at(least).flops, costs)}"
        )
    sizes = dict[str, int]()
    for _ in range(ROUNDS):
        steps = _steps(bundles, scores, costs, sizes)
        sizes = _fewest(bundles, steps, costs, most)
    return {g.name: _best(scores[g.name], sizes[g.name]) for g in groups if sizes[g.name] < g.size}


def _share(flops: float, costs: Costs) -> str:
    return f"{flops:,.0f} FLOPs, {flops / costs.whole.flops:.3f}x of the whole"


def _bundles(groups: Sequence[Group], uniform: bool) -> list[list[Group]]:
    """Groups that keep the same number."""
    found: dict[object, list[Group]] = {}
    for group in groups:
        found.setdefault(group.pattern if uniform else group.name, []).append(group)
    return list(found.values())


def _steps(
    bundles: Sequence[Sequence[Group]], scores: Mapping[str, Tensor], costs: Costs, sizes: Mapping[str, int]
) -> list[Step]:
    """All that may leave, in the order of score per cost in a network of these sizes."""
    found = []
    for number, bundle in enumerate(bundles):
        prices = [costs.flops_of_unit(group, sizes) for group in bundle]
        reached = 0.0
        for i, (more, fewer) in enumerate(zip(bundle[0].steps(), bundle[0].steps()[1:], strict=False)):
            worth = sum(
                float(scores[g.name].sort().values[g.size - more : g.size - fewer].sum()) for g in bundle
            )
            cost = sum(prices) * (more - fewer)
            reached = max(reached, worth / cost if cost > 0 else float("inf"))
            found.append(Step(reached, number, i + 1))
    return sorted(found, key=lambda step: (step.ratio, step.bundle, step.number))


def _fewest(
    bundles: Sequence[Sequence[Group]], steps: Sequence[Step], costs: Costs, most: float
) -> dict[str, int]:
    """The sizes after as few of the steps as the budget takes; FLOPs are counted, and fall with each."""

    def after(count: int) -> dict[str, int]:
        done = dict.fromkeys(range(len(bundles)), 0)
        for step in steps[:count]:
            done[step.bundle] = step.number
        return {g.name: g.steps()[done[i]] for i, bundle in enumerate(bundles) for g in bundle}

    low, high = 0, len(steps)  # too few, enough
    if costs.whole.flops <= most:
        return after(0)
    found = {low: costs.whole.flops, high: costs.at(after(high)).flops}
    turn = 0
    while high - low > 1:
        # FLOPs fall almost evenly, so the place is soon found; every third time in the middle, where they do not.
        share = (found[low] - most) / (found[low] - found[high]) if turn % 3 < 2 else 0.5
        middle = min(high - 1, max(low + 1, low + math.ceil(share * (high - low))))
        found[middle] = costs.at(after(middle)).flops
        low, high = (low, middle) if found[middle] <= most else (middle, high)
        turn += 1
    return after(high)


def _best(scores: Tensor, size: int) -> Tensor:
    return scores.argsort(descending=True, stable=True)[:size].sort().values
