"""Compression of a model of ours to a budget of FLOPs, in one shot, on the data that it was trained on."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import RunFailedError
from compressm_cli.data.interface import Dataset, Split
from compressm_cli.engine.batches import Batches
from compressm_cli.engine.evaluation import Evaluation, evaluate
from compressm_cli.engine.oneshot import LARGEST_BATCH, matching
from compressm_cli.measure.probe import example_batch
from compressm_cli.objectives import objective_of
from compressm_cli.objectives.objective import Objective
from compressm_cli.pruning import AxesReport, Pruned, Workload, axes_report, planned
from compressm_cli.structure import surgery

CALIBRATION_BATCHES = 32
"""Of the training split. Moments of so many places as a regression wants take more of them than Gramians do."""


@dataclass(frozen=True)
class PrunedModel:
    """A model that was cut to a budget, and what became of it."""

    checkpoint: Checkpoint
    pruned: Pruned
    before: Evaluation | None
    """On the validation split; None where it was not asked for, or where the data do not judge a model."""
    after: Evaluation | None
    data: str
    """Which data were used, and whether the model was trained on them."""


def prune_checkpoint(
    checkpoint: Checkpoint,
    dataset: Dataset,
    share: float,
    score: str,
    *,
    fold: bool,
    uniform: bool,
    rounds: int = 1,
    evaluated: bool = True,
    wanted: bool = False,
) -> PrunedModel:
    """Cut the model of a checkpoint once, on the CPU, to a share of the FLOPs of one sequence of full length.

    ``dataset``, that of the checkpoint's recipe, gives the calibration batches and, where ``evaluated`` and the data
    judge a model, the validation split. Raises BadInputError for data of another shape than the model's and for a
    budget that cannot be met, OtherDataError for other data than it was trained on, unless they are ``wanted``, and
    RunFailedError where the plan cannot be carried out.
    """
    dataset, told = matching(checkpoint, dataset, wanted)
    recipe = checkpoint.recipe
    evaluated = evaluated and recipe.data.unjudged() is None
    model, objective = checkpoint.build_model(), objective_of(recipe, dataset.spec)
    rows = recipe.train.rows()
    before = evaluate(model, dataset.validation, rows, objective=objective) if evaluated else None
    workload = workload_of(checkpoint, dataset, objective)
    pruned = planned(model, workload, share, score, fold=fold, uniform=uniform, rounds=rounds)
    try:
        surgery.apply_plan(model, None, pruned.plan)
    except ValueError as error:
        raise RunFailedError(f"nothing was cut: {error}") from error
    after = evaluate(model, dataset.validation, rows, objective=objective) if evaluated else None
    small = Checkpoint.of(
        model,
        recipe,
        checkpoint.data,
        checkpoint.step,
        fingerprint=dataset.fingerprint,
        encoding=checkpoint.encoding,
    )
    return PrunedModel(small, pruned, before, after, told)


def axes_of_checkpoint(
    checkpoint: Checkpoint, dataset: Dataset, score: str, wanted: bool = False
) -> tuple[AxesReport, str]:
    """What could leave of a model, judged on the data that it was trained on; and which data these were.

    FLOPs are those of one sequence of full length. Raises BadInputError and OtherDataError as ``prune_checkpoint``.
    """
    dataset, told = matching(checkpoint, dataset, wanted)
    model, objective = checkpoint.build_model(), objective_of(checkpoint.recipe, dataset.spec)
    return axes_report(model, workload_of(checkpoint, dataset, objective), score), told


def workload_of(checkpoint: Checkpoint, dataset: Dataset, objective: Objective) -> Workload:
    """How a model of ours is called: on rows of its training split, always the same ones."""
    rows = min(checkpoint.recipe.train.batch_size, LARGEST_BATCH)
    return Workload(
        _Calibration(Batches(dataset.train, rows, seed=0), objective),
        lambda model, batch: objective.loss(objective.forward(model, batch), batch),
        lambda batch: int(batch.scored.sum()),
        lambda model, batch: model(*_inputs(batch)),
        _inputs(example_batch(dataset.spec, 1)),
        lambda batch: batch.lengths if isinstance(batch, Split) else None,
    )


def _inputs(batch: Split | tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor | None]:
    return (batch.inputs, batch.lengths) if isinstance(batch, Split) else batch


class _Calibration:
    """Batches of the training split, read anew whenever they are gone through."""

    def __init__(self, batches: Batches, objective: Objective) -> None:
        self._batches, self._objective = batches, objective

    def __iter__(self) -> Iterator[Split]:
        for batch in self._batches.calibration(0, CALIBRATION_BATCHES):
            yield self._objective.learned(batch, torch.arange(len(batch)), None)
