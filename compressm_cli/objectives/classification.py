"""A class for each sequence, or for each scored step of it: cross-entropy, accuracy, macro-F1, AUC."""

from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.data.interface import IGNORE, DataSpec, Split, TaskConfig
from compressm_cli.objectives.linear_cross_entropy import ENTRIES_AT_ONCE, linear_cross_entropy
from compressm_cli.objectives.objective import (
    Metric,
    Objective,
    ObjectiveConfig,
    Processes,
    Reduction,
    Scores,
)
from compressm_cli.objectives.teacher import TaughtConfig

ACCURACY = Metric(
    "accuracy", "accuracy", higher_is_better=True, unit="share", plural="accuracies", least=0.0, most=1.0
)
MACRO_F1 = Metric("macro_f1", "macro-F1", higher_is_better=True, unit="share", least=0.0, most=1.0)
AUC = Metric(
    "auc",
    "AUC",
    higher_is_better=True,
    unit="share",
    unknown="a class never occurs in the split, or always",
    least=0.0,
    most=1.0,
)
SCORES_AT_ONCE = ENTRIES_AT_ONCE
"""Of a batch: with more, the loss is computed at the head, a part of the labels at a time."""
UNLABELLED = (
    "these rows have no labels; name data.label_column, or write objective: {kind: masked_language} to learn from the "
    "texts alone"
)
CROSS_ENTROPY = Metric("loss", "cross-entropy", unit="nats", least=0.0)


def cross_entropy(
    logits: Tensor, labels: Tensor, reduction: Reduction = "mean", smoothing: float = 0.0
) -> Tensor:
    """In nats. logits (..., classes) in any floating type; labels (...), IGNORE where nothing is scored.

    ``smoothing`` is the share of the probability that is divided equally among all classes.
    """
    flat, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    if flat.requires_grad or flat.numel() <= SCORES_AT_ONCE:
        return _cross_entropy(flat, labels, reduction, smoothing)
    rows = max(1, SCORES_AT_ONCE // flat.shape[1])
    parts = zip(flat.split(rows), labels.split(rows), strict=True)
    total = torch.stack([_cross_entropy(part, label, "sum", smoothing) for part, label in parts]).sum()
    return total if reduction == "sum" else total / (labels != IGNORE).sum()


def _cross_entropy(logits: Tensor, labels: Tensor, reduction: Reduction, smoothing: float) -> Tensor:
    return functional.cross_entropy(
        logits.float(), labels, ignore_index=IGNORE, reduction=reduction, label_smoothing=smoothing
    )


def loss_at_head(model: Any) -> nn.Module | None:
    """The head of a model that computes a loss in the place of the scores of its steps; None where it does not.

    Not one that is compiled: the compiler has its own way with the scores.
    """
    if hasattr(model, "_orig_mod"):
        return None
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    head = getattr(inner, "loss_head", None)
    return head if isinstance(head, nn.Module) else None


class ClassificationConfig(TaughtConfig):
    """``objective: {kind: classification}``: cross-entropy of a class for each sequence, or each scored step."""

    kind: Literal["classification"] = "classification"
    primary: Literal["accuracy", "macro_f1", "auc"] = "accuracy"
    """The metric that decides which model is the best, and whether a cut is kept."""
    metrics: list[Literal["macro_f1", "auc"]] = []
    """What is computed beside accuracy and ``primary``. ``macro_f1`` is the mean over the classes of F1; ``auc`` the
    area under the ROC curve, of more than two classes the mean of those of each one against the rest: for it the
    outputs of all rows of a split are kept."""

    @field_validator("metrics")
    @classmethod
    def _distinct_metrics(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value):
            raise ValueError(f"metrics repeat in {value}; write each once")
        return value


class Classification(Objective):
    """Cross-entropy; labels are class numbers (rows,) or (rows, steps)."""

    Config: ClassVar[type[ObjectiveConfig]] = ClassificationConfig
    METRICS = (ACCURACY, MACRO_F1, AUC)
    LOSS = CROSS_ENTROPY

    @classmethod
    def problem(cls, config: Any, spec: DataSpec, task: TaskConfig | None) -> str | None:
        if spec.targets is None:
            return None if task is None or not task.own_tokens else UNLABELLED
        kind = "forecasting" if spec.per_step else "regression"
        return f"{config.kind} takes classes, and these labels are real numbers; write kind: {kind}"

    def loss(self, outputs: Tensor, batch: Split, reduction: Reduction = "mean") -> Tensor:
        return cross_entropy(outputs, batch.labels, reduction)

    def training_loss(self, model: Any, batch: Split, reduction: Reduction = "mean") -> Tensor:
        """Where the scores of all labels would be large, they are never there at once."""
        head = loss_at_head(model)
        many = head is not None and batch.labels.numel() * len(head.get_parameter("weight")) > SCORES_AT_ONCE
        if (
            not many
            or type(self).loss is not Classification.loss
            or type(self).forward is not Objective.forward
        ):
            return super().training_loss(model, batch, reduction)

        def summed(x: Tensor, head: nn.Linear) -> Tensor:
            return linear_cross_entropy(x, head.weight, head.bias, batch.labels, IGNORE)

        total: Tensor = model(batch.inputs, batch.lengths, summed)
        return total if reduction == "sum" else total / batch.scored.sum()

    def scores(self, split: Split) -> "ClassScores":
        wanted = {self.config.primary, *self.config.metrics}
        return ClassScores(self, split.device, MACRO_F1.name in wanted, AUC.name in wanted)


class ClassScores(Scores):
    """Loss, accuracy, and perhaps macro-F1 and AUC."""

    def __init__(
        self, objective: Objective, device: torch.device, f1: bool = False, auc: bool = False
    ) -> None:
        super().__init__(objective, device)
        self._correct = torch.zeros((), dtype=torch.long, device=device)
        self._f1 = self._kept = None
        if f1 or auc:
            assert objective.spec is not None, "the number of classes is that of a data set"
            classes = objective.spec.classes
            self._f1 = torch.zeros(3, classes, dtype=torch.long, device=device) if f1 else None
            self._kept = _Kept(classes) if auc else None

    def update(self, outputs: Tensor, batch: Split) -> None:
        super().update(outputs, batch)
        said = outputs.argmax(dim=-1)
        self._correct += (said == batch.labels).sum()
        if self._f1 is not None:
            scored, classes = batch.scored, self._f1.shape[1]
            labels, guesses = batch.labels[scored], said[scored]
            for row, found in enumerate((labels[labels == guesses], labels, guesses)):
                self._f1[row] += torch.bincount(found, minlength=classes)
        if self._kept is not None:
            self._kept.add(outputs[batch.scored], batch.labels[batch.scored])

    def sums(self) -> list[Tensor]:
        return [*super().sums(), self._correct, *([] if self._f1 is None else [self._f1])]

    def reduce(self, processes: Processes) -> None:
        super().reduce(processes)
        if self._kept is not None:
            self._kept.of_all(processes)

    def metrics(self) -> dict[str, float | None]:
        found: dict[str, float | None] = {ACCURACY.name: float(self._correct) / int(self.labels)}
        if self._f1 is not None:
            found[MACRO_F1.name] = macro_f1(*self._f1)
        if self._kept is not None:
            found[AUC.name] = self._kept.auc()
        return found


class _Kept:
    """The outputs of all scored labels, in float64 on the CPU, as what classes are ranked by."""

    def __init__(self, classes: int) -> None:
        self._outputs, self._labels = [torch.empty(0, classes, dtype=torch.float64)], [torch.empty(0).long()]

    def add(self, outputs: Tensor, labels: Tensor) -> None:
        """outputs (labels, classes)."""
        self._outputs.append(outputs.detach().cpu().double())
        self._labels.append(labels.cpu())

    def of_all(self, processes: Processes) -> None:
        everyone = processes.gather((torch.cat(self._outputs), torch.cat(self._labels)))
        self._outputs, self._labels = [part[0] for part in everyone], [part[1] for part in everyone]

    def auc(self) -> float | None:
        return auc(torch.cat(self._outputs), torch.cat(self._labels))


def macro_f1(correct: Tensor, labels: Tensor, guesses: Tensor) -> float | None:
    """The mean F1 of the classes that occur, as label or as guess; None where none does.

    Each (classes,): how often a class was guessed right, how often it is the label, how often it was guessed.
    """
    together = labels + guesses
    occur = together > 0
    if not bool(occur.any()):
        return None
    return float((2.0 * correct[occur].double() / together[occur]).mean())


def auc(outputs: Tensor, labels: Tensor) -> float | None:
    """The area under the ROC curve, exact, with equal outputs counted half.

    outputs (rows, classes) in float64; labels (rows,). Of two classes by the difference of their outputs; of more the
    mean over all classes of each one's probability against the rest. None where a class never occurs, or always.
    """
    classes = outputs.shape[1]
    if classes == 2:
        return _area(outputs[:, 1] - outputs[:, 0], labels == 1)
    odds = _log_odds(outputs)
    areas = [_area(odds[:, c], labels == c) for c in range(classes)]
    known = [area for area in areas if area is not None]
    return sum(known) / classes if len(known) == classes else None


def _log_odds(outputs: Tensor) -> Tensor:
    """The logarithms of the odds of each class (rows, classes), which rise with its probability.

    They tell apart probabilities that are rounded to the same number next to 1.
    """
    known = outputs.log_softmax(dim=1)
    top = outputs.argmax(dim=1, keepdim=True)
    rest = known.scatter(1, top, float("-inf")).logsumexp(dim=1, keepdim=True)
    return known - torch.log1p(-known.exp()).scatter(1, top, rest)


def _area(scores: Tensor, positive: Tensor) -> float | None:
    """The share of pairs of a positive and a negative row of which the positive one has the higher score."""
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives or bool(scores.isnan().any()):
        return None
    below = scores[~positive].sort().values
    high = torch.searchsorted(below, scores[positive], right=True)
    low = torch.searchsorted(below, scores[positive])
    return int((high + low).sum()) / (2 * positives * negatives)
