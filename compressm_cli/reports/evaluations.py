"""``evaluate``: a trained model judged on a split of its own data, or of others in the encoding of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.data.encodings import Classes
from compressm_cli.data.interface import Split
from compressm_cli.engine.data_placement import placed
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.inputs import named_place, task_for
from compressm_cli.engine.oneshot import require_same_shape
from compressm_cli.engine.precision import prepare, resolve_device
from compressm_cli.engine.same_data import as_before, names_data, relation
from compressm_cli.engine.targets import TargetReport, in_own_unit
from compressm_cli.engine.workload import evaluation_rows
from compressm_cli.objectives import objective_config, objective_of
from compressm_cli.objectives.objective import Metric
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_mapping
from compressm_cli.reports.spectrum import open_model

SplitName = Literal["train", "validation", "test"]
SETTINGS = ("data", "objective")
"""The parts of a recipe that say what a model is judged on, and by what."""


@dataclass(frozen=True)
class ClassReport:
    """How a model does on one class."""

    name: str
    rows: int
    """Labels of this class."""
    said: int
    """How often the model says it."""
    precision: float | None
    """Share of those that are right; None where it never says it."""
    recall: float | None
    """Share of the class's rows that it finds; None where there are none."""


@dataclass(frozen=True)
class EvaluationReport:
    """What a model is worth on a split."""

    model: str
    chosen: str
    split: SplitName
    data: str
    """Which data they are, and whether the model was trained on them."""
    rows: int
    labels: int
    loss: float
    metrics: dict[str, float | None]
    primary: str
    definitions: dict[str, str]
    """What a metric is exactly, by its name, where that depends on the version of a library."""
    classes: list[ClassReport] | None
    """None where the labels are no classes with names."""
    targets: list[TargetReport] | None
    """None where the labels are no real numbers."""


def judge(
    path: Path, split: SplitName = "test", overrides: Sequence[str] = (), device: str = "auto"
) -> tuple[EvaluationReport, tuple[Metric, ...]]:
    """Judge the model of a checkpoint, run or folder; also the metrics of its objective, to show the values with.

    ``overrides`` may name other data and metrics. Raises BadInputError where the model cannot read them, or where they
    would be encoded otherwise than those that it was trained on, and RunFailedError where it says no numbers.
    """
    checkpoint, chosen = open_model(path)
    recipe = _asked(checkpoint, overrides, path, split)
    if unjudged := recipe.data.unjudged():
        raise BadInputError(f"{path}: cannot be judged: {unjudged}")
    rows, data = _split(checkpoint, recipe, split, names_data(overrides))
    where = resolve_device(device)
    prepare(where, recipe.train.precision)
    objective = objective_of(recipe, checkpoint.data)
    seen = _Seen()
    evaluated = evaluate(
        checkpoint.build_model().to(where),
        placed([rows], where).splits[0],
        evaluation_rows(recipe.train),
        recipe.train.precision,
        objective=objective,
        seen=seen,
    )
    outputs = None if checkpoint.encoding is None else checkpoint.encoding.outputs
    report = EvaluationReport(
        model=str(path),
        chosen=chosen,
        split=split,
        data=data,
        rows=evaluated.rows,
        labels=evaluated.labels,
        loss=evaluated.loss,
        metrics=evaluated.metrics,
        primary=objective.primary.name,
        definitions=objective.definitions(),
        classes=seen.classes(outputs.names) if isinstance(outputs, Classes) else None,
        targets=in_own_unit(evaluated.targets, checkpoint.encoding),
    )
    return report, objective.METRICS


def _asked(checkpoint: Checkpoint, overrides: Sequence[str], path: Path, split: SplitName) -> Recipe:
    recipe = checkpoint.recipe
    for text in overrides:
        if text.partition("=")[0].partition(".")[0] not in SETTINGS:
            raise BadInputError(
                f"{text}: evaluate changes only what a model is judged on and by: data.KEY=VALUE, objective.KEY=VALUE"
            )
    objective = objective_config(recipe).model_dump(mode="json")  # so that a change of it needs no kind
    mapping, where = {**recipe_to_mapping(recipe), "objective": objective}, f"{path}: recipe"
    place = named_place(checkpoint, split, overrides, where)
    if place is None:
        return recipe_from_mapping(mapping, where, overrides)
    mapping["data"], changes = task_for(checkpoint, place, overrides)
    asked = recipe_from_mapping(mapping, where, changes)
    # Any place may be judged, also that of another split, which no recipe may name twice.
    return asked.model_copy(update={"data": asked.data.model_copy(update={split: place})})


def _split(checkpoint: Checkpoint, recipe: Recipe, name: SplitName, others: bool) -> tuple[Split, str]:
    """The rows of a split, and which data they are in words."""
    task, encoding = recipe.data, checkpoint.encoding
    if others and encoding is not None and (own := task.encoded_split(name, encoding)) is not None:
        return own, f"{task.places()[name]} (named by the user)"
    dataset = as_before(checkpoint.fingerprint, task.dataset())
    require_same_shape(checkpoint, dataset.spec)
    known = relation(checkpoint, dataset, task, others)
    if encoding is not None and dataset.encoding is not None and not encoding.suits(dataset.encoding):
        raise BadInputError(
            f"{known}: these data would be encoded otherwise than those that the model was trained on ("
            f"{_difference(encoding.model_dump(), dataset.encoding.model_dump())} differs), and mean something else to "
            "it; give a file of the rows to be judged, which is encoded as its own were: data.test=FILE"
        )
    return getattr(dataset, name), known


def _difference(before: dict[str, Any], now: dict[str, Any], place: str = "") -> str:
    """The first key of two encodings that differs."""
    for key in {**before, **now}:
        one, two = before.get(key), now.get(key)
        if isinstance(one, dict) and isinstance(two, dict) and one != two:
            return _difference(one, two, f"{place}{key}.")
        if one != two:
            return f"{place}{key}"
    return "nothing"


class _Seen:
    """What a model said, and what was right."""

    def __init__(self) -> None:
        self._said: list[Tensor] = []
        self._labels: list[Tensor] = []

    def __call__(self, outputs: Tensor, batch: Split) -> None:
        if not bool(outputs.isfinite().all()):
            raise RunFailedError(
                "the model says numbers that are not finite: its weights are of no use, or what is in a row is too "
                "large for it, which compressm predict names"
            )
        if outputs.ndim > 2 or batch.labels.is_floating_point():  # a label a step, or real numbers
            return
        self._said.append(outputs.argmax(dim=-1)[batch.scored].cpu())
        self._labels.append(batch.labels[batch.scored].cpu())

    def classes(self, names: list[str]) -> list[ClassReport] | None:
        if not self._said:
            return None
        said, labels = torch.cat(self._said), torch.cat(self._labels)
        counts = (
            torch.bincount(t, minlength=len(names)).tolist() for t in (labels, said, labels[labels == said])
        )
        return [
            ClassReport(name, rows, often, right / often if often else None, right / rows if rows else None)
            for name, rows, often, right in zip(names, *counts, strict=True)
        ]
