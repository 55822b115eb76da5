"""Each metric against a computation of its own in float64, from all rows at once."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import TASKS
from compressm_cli.data.interface import IGNORE, DataSpec, Split
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.objectives import OBJECTIVES, Metric, Objective, Scores
from compressm_cli.objectives.classification import Classification, ClassificationConfig, auc
from compressm_cli.objectives.distillation import Distillation
from compressm_cli.objectives.language import Language
from compressm_cli.objectives.regression import Forecasting, Regression

ALL = ClassificationConfig(metrics=["macro_f1", "auc"])


class Said(nn.Module):
    """Says what is in the inputs: (rows, steps, outputs), or of each row its first step."""

    def __init__(self, per_step: bool = True) -> None:
        super().__init__()
        self.per_step = per_step

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        return inputs if self.per_step else inputs[:, 0]


def classes_split(classes: int, rows: int, seed: int = 0) -> Split:
    """Steps of unequal rows, some not scored, with outputs that are often equal."""
    generator = torch.Generator().manual_seed(seed)
    if classes == 2:
        outputs = torch.randint(-3, 4, (rows, 5, classes), generator=generator).float()
    else:
        outputs = torch.randn(rows, 5, classes, generator=generator)
        outputs[rows // 2 :] = outputs[: rows - rows // 2].clone()
    labels = torch.randint(0, classes, (rows, 5), generator=generator)
    lengths = torch.randint(1, 6, (rows,), generator=generator)
    skipped = torch.rand(rows, 5, generator=generator) < 0.3
    labels[skipped | (torch.arange(5) >= lengths[:, None])] = IGNORE
    labels[0, 0] = 0
    return Split(outputs, labels, lengths)


def scored_pairs(split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Outputs and labels of all that is scored, in float64."""
    kept = split.labels != IGNORE
    return split.inputs[kept].double().numpy(), split.labels[kept].numpy()


def brute_auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Over all pairs, one after the other."""
    wins = [1.0 if p > n else 0.5 if p == n else 0.0 for p in scores[positive] for n in scores[~positive]]
    return float(np.mean(wins))


def brute_f1(said: np.ndarray, labels: np.ndarray) -> float:
    found = []
    for c in set(said.tolist()) | set(labels.tolist()):
        true = int(((said == c) & (labels == c)).sum())
        precision = true / (said == c).sum() if (said == c).any() else 0.0
        recall = true / (labels == c).sum() if (labels == c).any() else 0.0
        found.append(2 * precision * recall / (precision + recall) if true else 0.0)
    return float(np.mean(found))


@pytest.mark.parametrize(("classes", "rows"), [(2, 7), (3, 11), (5, 40)])
def test_metrics_of_classes(classes: int, rows: int) -> None:
    split = classes_split(classes, rows)
    spec = DataSpec(classes=classes, length=5, features=classes, per_step=True)
    result = evaluate(Said(), split, 3, objective=Classification(ALL, spec))
    outputs, labels = scored_pairs(split)
    said = outputs.argmax(1)
    probabilities = np.exp(outputs) / np.exp(outputs).sum(1, keepdims=True)
    assert result.metrics["accuracy"] == pytest.approx(float((said == labels).mean()), rel=1e-12)
    assert result.metrics["macro_f1"] == pytest.approx(brute_f1(said, labels), rel=1e-12)
    if classes == 2:
        expected = brute_auc(outputs[:, 1] - outputs[:, 0], labels == 1)
    else:
        expected = float(np.mean([brute_auc(probabilities[:, c], labels == c) for c in range(classes)]))
    assert result.metrics["auc"] == pytest.approx(expected, rel=1e-9)
    assert result.loss == pytest.approx(
        float(-np.log(probabilities[np.arange(len(labels)), labels]).mean()), rel=1e-6
    )
    assert (result.rows, result.labels) == (rows, len(labels))


def test_an_auc_tells_apart_what_is_all_but_certain() -> None:
    """Probabilities next to 1, where float64 has no room between them; outputs of minus infinity are impossible."""
    sure = torch.arange(40.0, 80.0, 5.0, dtype=torch.float64)
    none = torch.zeros_like(sure)
    outputs = torch.stack([sure, none, none - 3], dim=1)
    outputs = torch.cat([outputs, torch.tensor([[0.0, 9.0, 1.0], [0.0, 1.0, 9.0]]).double()])
    labels = torch.tensor([1, 0, 0, 1, 0, 0, 0, 0, 1, 2])
    margins = outputs.numpy()[:, 0] - np.logaddexp(outputs.numpy()[:, 1], outputs.numpy()[:, 2])
    first = brute_auc(margins, labels.numpy() == 0)
    softmax = outputs.softmax(dim=1).numpy()
    others = [brute_auc(softmax[:, c], labels.numpy() == c) for c in (1, 2)]
    assert first == pytest.approx(22 / 24)
    assert auc(outputs, labels) == pytest.approx((first + sum(others)) / 3, rel=1e-12)
    outputs[-1, 0] = -torch.inf
    assert auc(outputs, labels) == pytest.approx((first + sum(others)) / 3, rel=1e-12)


def test_an_auc_without_one_of_the_classes_is_not_known() -> None:
    outputs = torch.randn(6, 3, dtype=torch.float64)
    assert auc(outputs, torch.tensor([0, 1, 0, 1, 1, 0])) is None
    assert auc(outputs[:, :2], torch.zeros(6, dtype=torch.long)) is None
    assert auc(torch.full((2, 2), torch.nan, dtype=torch.float64), torch.tensor([0, 1])) is None


def real_split(targets: int, rows: int, offset: float = 0.0) -> Split:
    """Labels of unequal rows' steps, some NaN, in inputs that are about these."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randn(rows, 4, targets, generator=generator) + offset
    said = labels + 0.3 * torch.randn(labels.shape, generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.3] = torch.nan
    lengths = torch.randint(1, 5, (rows,), generator=generator)
    labels[torch.arange(4) >= lengths[:, None]] = torch.nan
    labels[0, 0] = offset
    return Split(said, labels, lengths)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("offset", [0.0, 30_000.0])
def test_metrics_of_real_numbers(targets: int, offset: float) -> None:
    split = real_split(targets, 23, offset)
    spec = DataSpec(classes=0, length=4, features=targets, per_step=True, targets=targets)
    result = evaluate(Said(), split, 5, objective=Forecasting(spec=spec))
    said, labels = split.inputs.double().numpy(), split.labels.double().numpy()
    kept = ~np.isnan(labels)
    wrong = (said - labels)[kept]
    each = []
    for t in range(targets):
        y = labels[..., t][kept[..., t]]
        each.append(1 - ((said[..., t][kept[..., t]] - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())
    assert result.metrics["mse"] == pytest.approx(float((wrong**2).mean()), rel=1e-12)
    assert result.metrics["mae"] == pytest.approx(float(np.abs(wrong).mean()), rel=1e-12)
    assert result.metrics["r2"] == pytest.approx(float(np.mean(each)), rel=1e-9)
    assert result.loss == pytest.approx(float((wrong**2).mean()), rel=1e-5)
    assert result.labels == int(kept.sum())


@pytest.mark.parametrize("value", [0.1, -7e5, 0.0])
def test_r2_of_equal_labels_is_not_known(value: float) -> None:
    split = Split(torch.randn(9, 1, 1), torch.full((9, 1), value))
    metrics = evaluate(Said(per_step=False), split, 4, objective=Regression()).metrics
    assert metrics["r2"] is None
    assert metrics["mse"] is not None


def test_outputs_of_another_shape_than_the_labels_are_refused() -> None:
    split = Split(torch.randn(6, 1, 1), torch.randn(6, 3))
    with pytest.raises(ValueError, match=r"outputs \(6, 1\) for labels \(6, 3\)"):
        evaluate(Said(per_step=False), split, 6, objective=Regression())


def test_perplexity_and_bits_follow_from_the_loss() -> None:
    split = classes_split(4, 6)
    spec = DataSpec(classes=4, length=5, vocabulary=4, per_step=True)
    known = evaluate(Said(), split, 4, objective=Language(None, spec, TASKS["text_lm"]())).metrics
    outputs, labels = scored_pairs(split)
    nats = np.log(np.exp(outputs).sum(1)) - outputs[np.arange(len(labels)), labels]
    assert known["perplexity"] == pytest.approx(np.exp(nats.mean()), rel=1e-6)
    assert known["bits_per_byte"] == pytest.approx(nats.mean() / np.log(2), rel=1e-6)
    assert evaluate(Said(), split, 4, objective=Language(None, spec)).metrics["bits_per_byte"] is None
    assert evaluate(Said(), Split(1e4 * split.inputs, split.labels), 4, objective=Language(None, spec)).metrics[
        "perplexity"
    ] is None  # fmt: skip


# ---- several processes ---------------------------------------------------------------------------------


class Recorded:
    """What another process would give."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.values: list[Any] = []

    def sum(self, *tensors: Tensor) -> None:
        self.tensors += [t.clone() for t in tensors]

    def gather(self, value: Any) -> list[Any]:
        self.values.append(value)
        return [value]


class Together:
    """This process, and others whose part is known."""

    def __init__(self, others: list[Recorded]) -> None:
        self._others = others

    def sum(self, *tensors: Tensor) -> None:
        for i, tensor in enumerate(tensors):
            for other in self._others:
                tensor += other.tensors[i]

    def gather(self, value: Any) -> list[Any]:
        return [value, *(other.values[0] for other in self._others)]


def in_processes(objective: Objective, split: Split, count: int) -> Scores:
    """The scores of a split of which each process has seen its part, as the first one has them."""
    others: list[Recorded] = []
    for rank in reversed(range(count)):
        scores = objective.scores(split)
        rows = torch.arange(len(split)).tensor_split(count)[rank]
        for index in rows.split(2) if len(rows) else ():
            batch = split.rows(index)
            scores.update(batch.inputs, batch)
        found = Recorded()
        scores.reduce(found if rank else Together(others))
        others.append(found)
    return scores


@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_several_processes_come_to_the_metrics_of_one(count: int) -> None:
    classes, real = classes_split(3, 11), real_split(2, 11)
    spec = DataSpec(classes=3, length=5, features=3, per_step=True)
    numbers = DataSpec(classes=0, length=4, features=2, per_step=True, targets=2)
    for objective, split in ((Classification(ALL, spec), classes), (Forecasting(None, numbers), real)):
        found = in_processes(objective, split, count)
        alone = evaluate(Said(), split, 4, objective=objective)
        assert int(found.labels) == alone.labels
        assert found.mean_loss() == pytest.approx(alone.loss, rel=1e-6)
        assert found.metrics() == pytest.approx(alone.metrics, rel=1e-12)


# ---- direction, and what is never best -------------------------------------------------------------------

LOWER, HIGHER = Metric("a", "a"), Metric("b", "b", higher_is_better=True)


@pytest.mark.parametrize(
    ("metric", "value", "best", "better"),
    [
        (LOWER, 1.0, 2.0, True),
        (LOWER, 2.0, 1.0, False),
        (LOWER, 1.0, 1.0, False),
        (HIGHER, 2.0, 1.0, True),
        (HIGHER, 1.0, 1.0, False),
        (HIGHER, -5.0, None, True),
        (LOWER, None, None, False),
        (LOWER, float("nan"), None, False),
        (LOWER, float("-inf"), 3.0, False),
        (HIGHER, float("inf"), 3.0, False),
    ],
)
def test_the_best_goes_by_direction(metric: Metric, value: Any, best: Any, better: bool) -> None:
    assert metric.is_better(value, best) is better


@pytest.mark.parametrize(
    ("metric", "before", "after", "tolerance", "relative", "kept"),
    [
        (HIGHER, 0.95, 0.93, 0.02, False, True),
        (HIGHER, 0.95, 0.9299, 0.02, False, False),
        (HIGHER, 0.5, 0.9, 0.0, False, True),
        (LOWER, 12.0, 14.0, 2.0, False, True),
        (LOWER, 12.0, 14.1, 2.0, False, False),
        (LOWER, 12.0, 12.24, 0.02, True, True),
        (LOWER, 12.0, 12.25, 0.02, True, False),
        (LOWER, 1e-10, 1.03e-10, 0.02, True, False),
        (LOWER, 12.0, 3.0, 0.0, True, True),
        (HIGHER, -2.0, -2.04, 0.02, True, True),
        (HIGHER, -2.0, -2.05, 0.02, True, False),
        (LOWER, 1.0, None, 9.0, False, False),
        (LOWER, 1.0, float("nan"), 9.0, False, False),
        (HIGHER, 1.0, float("inf"), 9.0, False, False),
        (LOWER, None, 1.0, 0.0, False, True),
    ],
)
def test_a_cut_is_kept_within_the_tolerance(
    metric: Metric, before: Any, after: Any, tolerance: float, relative: bool, kept: bool
) -> None:
    assert metric.is_kept(before, after, tolerance, relative) is kept


def test_an_objective_without_its_primary_metric_is_told_so() -> None:
    class Odd(Classification):
        METRICS = (LOWER,)

    class Empty(Classification):
        def scores(self, split: Split) -> Any:
            return Scores(self, split.labels.device)

    with pytest.raises(ValueError, match=r"Odd\.METRICS has no 'accuracy'"):
        _ = Odd().primary
    with pytest.raises(ValueError, match=r"Scores\.metrics\(\) of Empty has no 'accuracy'"):
        evaluate(Said(), classes_split(3, 5), 3, objective=Empty())


# ---- what fits ------------------------------------------------------------------------------------------

CLASSES = DataSpec(classes=3, length=4, features=1)
TOKENS = DataSpec(classes=5, length=4, vocabulary=5, per_step=True)
NUMBERS = DataSpec(classes=0, length=4, features=1, targets=2)
NUMBERS_A_STEP = DataSpec(classes=0, length=4, features=1, targets=2, per_step=True)


@pytest.mark.parametrize(
    ("kind", "spec", "instead"),
    [
        ("classification", NUMBERS, "regression"),
        ("classification", NUMBERS_A_STEP, "forecasting"),
        ("language", CLASSES, "classification"),
        ("language", NUMBERS, "regression"),
        ("regression", CLASSES, "classification"),
        ("regression", NUMBERS_A_STEP, "forecasting"),
        ("forecasting", NUMBERS, "regression"),
        ("forecasting", TOKENS, "classification"),
    ],
)
def test_labels_that_an_objective_cannot_learn_are_refused(kind: str, spec: DataSpec, instead: str) -> None:
    with pytest.raises(BadInputError, match=f"objective: {kind} .*write kind: {instead}"):
        OBJECTIVES[kind](None, spec)
    OBJECTIVES[instead](None, spec)


# ---- distillation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_distillation_by_hand(reduction: Any) -> None:
    batch = classes_split(4, 5)
    torch.manual_seed(0)
    teacher, T, weight = nn.Linear(4, 4).double(), 3.0, 0.7

    class Teacher(nn.Module):
        def forward(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
            return teacher(inputs.double())

    outputs = batch.inputs.double().requires_grad_()
    objective = Distillation(Classification(), Teacher(), temperature=T, weight=weight)
    loss = objective.loss(outputs, batch, reduction)
    loss.backward()  # type: ignore[no-untyped-call]
    kept = (batch.labels != IGNORE).numpy()
    x, said = batch.inputs.double().numpy(), teacher(batch.inputs.double()).detach().numpy()

    def softmax(z: np.ndarray) -> np.ndarray:
        return np.exp(z) / np.exp(z).sum(-1, keepdims=True)

    p, q, hard = softmax(said / T), softmax(x / T), softmax(x)
    truth = np.eye(4)[np.where(kept, batch.labels.numpy(), 0)]
    soft = (p * np.log(p / q)).sum(-1)
    each = (1 - weight) * -np.log((hard * truth).sum(-1)) + weight * T**2 * soft
    gradient = (1 - weight) * (hard - truth) + weight * T * (q - p)
    count = kept.sum() if reduction == "mean" else 1
    assert loss.item() == pytest.approx(each[kept].sum() / count, rel=1e-5)
    np.testing.assert_allclose(
        outputs.grad, np.where(kept[..., None], gradient, 0.0) / count, rtol=1e-4, atol=1e-6
    )


def test_a_distilled_model_is_judged_by_the_labels() -> None:
    split, teacher = classes_split(3, 5), Said()
    inner = Classification()
    result = evaluate(Said(), split, 3, objective=Distillation(inner, teacher))
    assert result == evaluate(Said(), split, 3, objective=inner)
    with pytest.raises(ValueError, match="Regression has no classes"):
        Distillation(Regression(), teacher)
