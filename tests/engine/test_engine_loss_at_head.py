"""A head with many tokens computes the loss itself: the training is the same, and the scores are never there."""

import json
from typing import Any

import pytest
import torch
from tiny_runs import Maker, trained

from compressm_cli.data.interface import IGNORE, DataSpec, Split
from compressm_cli.models import build_model
from compressm_cli.models.decoder import DecoderConfig
from compressm_cli.objectives import classification
from compressm_cli.objectives import linear_cross_entropy as module
from compressm_cli.objectives.classification import Classification, ClassificationConfig

SPEC = DataSpec(classes=11, length=9, vocabulary=11, per_step=True)
DECODER: dict[str, Any] = {"kind": "decoder", "layers": [{"kind": "attention", "heads": 2}], "model_dim": 8}


@pytest.fixture
def at_head(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let any loss be computed at the head, a few scores at a time; tells of each by the number of its rows."""
    seen: list[int] = []
    inner = module.linear_cross_entropy

    def watched(x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(x.shape[:-1].numel())
        return inner(x, *rest)

    monkeypatch.setattr(classification, "SCORES_AT_ONCE", 0)
    monkeypatch.setattr(classification, "linear_cross_entropy", watched)
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 200)
    return seen


def batch(padded: bool) -> Split:
    torch.manual_seed(1)
    tokens = torch.randint(1, 11, (4, 10))
    labels = tokens[:, 1:].clone()
    labels[0, 2:] = IGNORE
    return Split(tokens[:, :-1], labels, torch.tensor([9, 3, 5, 1]) if padded else None)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_loss_and_gradients_are_those_of_the_scores(
    padded: bool, reduction: Any, at_head: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = build_model(DecoderConfig(**DECODER, depth=1, tie_embeddings=True), SPEC).double()
    objective, rows = Classification(), batch(padded)
    loss = objective.training_loss(model, rows, reduction)
    found = torch.autograd.grad(loss, list(model.parameters()))
    assert at_head == [36]
    monkeypatch.setattr(classification, "SCORES_AT_ONCE", 1 << 24)
    expected = objective.training_loss(model, rows, reduction)
    assert at_head == [36]
    # That of scores is in float32 always.
    torch.testing.assert_close(loss.float(), expected.float(), rtol=2e-6, atol=0)
    for a, e in zip(found, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-6 * float(e.abs().max()))


class Doubled(Classification):
    """With a loss of its own."""

    def loss(self, *arguments: Any) -> torch.Tensor:
        return 2 * super().loss(*arguments)


@pytest.mark.parametrize("why", ["hook on the head", "loss of its own", "compiled", "a class a row"])
def test_what_needs_the_scores_has_them(why: str, at_head: list[int]) -> None:
    spec = SPEC if why != "a class a row" else DataSpec(classes=3, length=9, vocabulary=11)
    model: Any = build_model(DecoderConfig(**DECODER, depth=1), spec)
    rows, objective = batch(False), Classification()
    if why == "hook on the head":
        model.head.register_forward_hook(lambda module, args, output: 0 * output)
    elif why == "loss of its own":
        objective = Doubled(ClassificationConfig())
    elif why == "compiled":
        model._orig_mod = model.encoder  # as of what torch.compile gives back
    else:
        rows = Split(rows.inputs, torch.tensor([0, 1, 2, 0]))
    loss = objective.training_loss(model, rows)
    assert at_head == []
    expected = objective.loss(model(rows.inputs, None), rows)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_a_run_is_the_same_but_for_rounding(
    tiny: Maker, at_head: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny(
        steps=4,
        data={"task": "text_lm", "max_bytes": 4000, "length": 16},
        model={"dropout": 0.0, "norm": "layer"},
        train={"batch_size": 8, "accumulate": 2},
    )

    def losses() -> list[float]:
        lines = (trained(recipe).folder / "metrics.jsonl").read_text().splitlines()
        return [row["train_loss"] for row in map(json.loads, lines) if "train_loss" in row]

    found = losses()
    assert at_head.count(4 * 16) >= 8
    monkeypatch.setattr(classification, "SCORES_AT_ONCE", 1 << 24)
    assert found == pytest.approx(losses(), rel=1e-5)
    assert len(found) == 4


def test_evaluation_goes_through_many_scores_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = torch.randn(3, 20, 11), torch.randint(0, 11, (3, 20))
    labels[:, ::4] = IGNORE
    whole = [classification.cross_entropy(scores, labels, r) for r in ("mean", "sum")]
    monkeypatch.setattr(classification, "SCORES_AT_ONCE", 50)
    parts = [classification.cross_entropy(scores, labels, r) for r in ("mean", "sum")]
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=0)


@pytest.mark.parametrize("many", [False, True])
def test_without_values_it_has_a_shape(many: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """FLOPs and memory are planned so."""
    monkeypatch.setattr(classification, "SCORES_AT_ONCE", 0 if many else 1 << 24)
    with torch.device("meta"):
        model = build_model(DecoderConfig(**DECODER, depth=1), SPEC)
    loss = Classification().training_loss(model, batch(False).to(torch.device("meta")))
    loss.backward()
    assert loss.shape == ()
    assert all(p.grad is not None for p in model.parameters())
