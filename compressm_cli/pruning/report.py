"""What of a network could leave: its axes, what a unit of each costs, and what its units are worth."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.pruning.costs import Costs
from compressm_cli.pruning.groups import Groups
from compressm_cli.pruning.scores import SCORES, Judged
from compressm_cli.pruning.workload import Workload

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class AxisReport:
    """An axis of which units may leave, with those that are tied to it."""

    axis: str
    tied: list[str]
    kind: str
    units: int
    least: int
    """How many stay at least."""
    flops: float
    """Of a unit, in one call with the workload's example."""
    parameters: float
    scores: list[float] | None
    """The ``QUANTILES`` of its units' scores; None where they have none."""
    reason: str | None
    """Why there are no scores."""


@dataclass(frozen=True)
class AxesReport:
    """All that could leave of a network, and all that cannot."""

    flops: float
    """Of the network, in one call with the workload's example, in evaluation mode."""
    parameters: float
    score: str
    price: bool
    """Whether scores are predicted increases of the loss."""
    axes: list[AxisReport]
    pinned: dict[str, str]
    """Why other axes lose nothing."""


def axes_report(
    model: nn.Module,
    workload: Workload,
    score: str = "taylor",
    *,
    pinned: Mapping[str, str] | None = None,
    seed: int = 0,
) -> AxesReport:
    """Look at a network, which is left as it is, as ``prune`` would.

    ``score`` and ``pinned`` as of ``prune``. Raises ValueError for a score that there is not.
    """
    if score not in SCORES:
        raise ValueError(f"there is no score {score!r}; there are {', '.join(SCORES)}")
    by, groups = SCORES[score](workload, True, seed), Groups.of(model, pinned)
    judged = by.judge(model, groups.free) if groups.free else Judged()
    costs = Costs(model, groups.free, workload)
    axes = []
    for group in groups.free:
        unit, scores = costs.of_unit(group), judged.scores.get(group.name)
        axes.append(
            AxisReport(
                group.name,
                [axis.name for axis in group.axes[1:]],
                group.kind,
                group.size,
                group.least,
                unit.flops,
                unit.parameters,
                None if scores is None else _quantiles(scores),
                judged.unknown.get(group.name),
            )
        )
    whole = costs.whole
    return AxesReport(whole.flops, whole.parameters, score, by.PRICE is None, axes, groups.pinned)


def _quantiles(scores: Tensor) -> list[float]:
    found: list[float] = scores.double().quantile(torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return found
