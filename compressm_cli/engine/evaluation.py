"""Loss and metrics on a split, and what the layers see on calibration batches."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.interface import Split
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.precision import autocast
from compressm_cli.methods.calibration import Statistic, seeing_inputs
from compressm_cli.objectives.classification import Classification
from compressm_cli.objectives.objective import Metric, Objective, Scores, TargetScores


@dataclass(frozen=True)
class Evaluation:
    """Mean over the labels of a split: one a row, or those of the scored steps."""

    loss: float
    metrics: dict[str, float | None]
    """Those of the objective, by name; None where one cannot be known, or is no finite number."""
    rows: int
    labels: int
    """How many labels were scored."""
    targets: list[TargetScores] | None = None
    """Of each of several real numbers, in the unit of the labels; None where these are classes, and in a checkpoint."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {key: value for key, value in asdict(self).items() if key != "targets"}

    def record(self) -> dict[str, Any]:
        """As files tell it: the metrics by their names, beside the rest."""
        return {**self.metrics, "loss": self.loss, "rows": self.rows, "labels": self.labels}

    def value(self, metric: Metric) -> float | None:
        """None where it is not known."""
        return self.metrics.get(metric.name)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    split: Split,
    batch_size: int,
    precision: str = "fp32",
    group: Group | None = None,
    objective: Objective | None = None,
    seen: Callable[[Tensor, Split], None] | None = None,
) -> Evaluation:
    """Evaluate in evaluation mode, each process of the group its part; leaves the model in the mode it was in.

    Without an ``objective`` it is that of classes; ``seen`` is shown what the model says of each batch. Raises
    BadInputError for a split of which no label is scored.
    """
    group = group or Group()
    device = split.device
    judge = (objective or Classification()).judge()
    scores = judge.scores(split)
    own = torch.arange(len(split), device=split.inputs.device).tensor_split(group.size)[group.rank]
    with in_evaluation_mode(model):
        for index in own.split(batch_size) if len(own) else ():
            batch = judge.learned(split.rows(index), index, None)
            with autocast(device, precision):
                outputs = judge.forward(model, batch)
            scores.update(outputs, batch)
            scores.ask(model, batch, index)
            if seen is not None:
                seen(outputs, batch)
    scores.reduce(group)
    if int(scores.labels) == 0:
        raise BadInputError(
            "no label of the split is scored, so there is nothing to evaluate on; give other data"
        )
    found = scores.metrics()
    if judge.primary.name not in found:
        told = f"{type(scores).__name__}.metrics() of {type(judge).__name__}"
        raise ValueError(f"{told} has no {judge.primary.name!r}, which models are judged by")
    metrics = {name: _if_known(value) for name, value in found.items()}
    return Evaluation(scores.mean_loss(), metrics, len(split), int(scores.labels), _targets(scores))


def _targets(scores: Scores) -> list[TargetScores] | None:
    found = scores.by_target()
    if found is None:
        return None
    known = (map(_if_known, (target.mse, target.mae, target.r2)) for target in found)
    return [TargetScores(*values) for values in known]


def _if_known(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


@torch.no_grad()
def calibrate(
    model: nn.Module, statistics: Mapping[str, Statistic], batches: Iterable[Split], rows: int
) -> None:
    """Show each statistic the input of the layer that it is named after, in evaluation mode.

    Each batch is passed through the model in parts of ``rows`` rows, of which nothing is kept. Where an update fails,
    its error is raised when all batches are through, so that processes that share the passes stay together.
    """
    lengths: list[Tensor | None] = [None]
    with seeing_inputs(model, statistics, lambda: lengths[0]):
        for batch in batches:
            for index in torch.arange(len(batch), device=batch.labels.device).split(rows):
                part = batch if len(index) == len(batch) else batch.rows(index)
                lengths[0] = part.lengths
                model(part.inputs, part.lengths)
            for statistic in statistics.values():
                statistic.end_batch()
