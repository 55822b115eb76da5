"""Translations judged: BLEU as sacrebleu says it of the whole, exact matches, smoothed labels, greedy decoding."""

import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.data.translation import Translation as Grammar
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.models import EncoderDecoder, build_model
from compressm_cli.models.decoder import DecoderConfig
from compressm_cli.models.encoder_decoder import EncoderDecoderConfig
from compressm_cli.objectives import OBJECTIVES, translation
from compressm_cli.objectives.greedy import greedy
from compressm_cli.objectives.translation import Translation, TranslationConfig

TASK = Grammar(train_rows=40, validation_rows=23, test_rows=4)
CONFIG = TranslationConfig(decoded_rows=10)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    return TASK.dataset()


class Halting(EncoderDecoder):
    """A model that knows the targets of a split, but for a word of every second row."""

    def learn(self, dataset: Dataset) -> "Halting":
        self.known = dataset.validation
        return self

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        rows = [self._row(one) for one in inputs]
        said = torch.stack([self.known.labels[row] for row in rows]).to(torch.int64).clamp(min=0)
        for place, row in enumerate(rows):
            said[place, self.steps + 2] = 5 if row % 2 else said[place, self.steps + 2]
        return functional.one_hot(said, self.head.out_features)[:, : inputs.shape[1]].double()

    def _row(self, inputs: Tensor) -> int:
        return int((self.known.inputs[:, : self.steps] == inputs[: self.steps]).all(dim=1).nonzero()[0])

    @property
    def step_obstacle(self) -> str | None:
        return "it is none"


def build(dataset: Dataset, kind: type[EncoderDecoder] = EncoderDecoder) -> Any:
    torch.manual_seed(0)
    config = EncoderDecoderConfig(model_dim=16, heads=2, depth=1, tie_embeddings=True)
    model = kind.build(config, dataset.spec).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    return model


def test_scores_are_sacrebleus_of_evenly_spaced_rows(dataset: Dataset) -> None:
    from sacrebleu.metrics import BLEU

    model = build(dataset, Halting).learn(dataset)
    objective = Translation(CONFIG, dataset.spec, TASK)
    found = evaluate(model, dataset.validation, 7, objective=objective)
    rows = [row * 23 // 10 for row in range(10)]
    inputs = TASK.encoding.inputs
    targets = [inputs.text(dataset.validation.inputs[row, inputs.source :].tolist()) for row in rows]
    words = [target.split() for target in targets]
    for row, said in zip(rows, words, strict=True):
        said[2] = inputs.tokens.names[4] if row % 2 else said[2]
    hypotheses = [" ".join(said) for said in words]
    exact = sum(one == two for one, two in zip(hypotheses, targets, strict=True)) / 10
    assert 0 < exact < 1
    assert found.metrics["exact_match"] == exact
    assert found.metrics["bleu"] == pytest.approx(BLEU().corpus_score(hypotheses, [targets]).score, rel=1e-12)
    assert objective.definitions()["bleu"].startswith("nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:")
    assert set(found.metrics) == {metric.name for metric in Translation.METRICS}


def test_counts_of_processes_add_up(dataset: Dataset) -> None:
    """What several processes find of their parts is what one finds of all."""
    model, split = build(dataset), dataset.validation
    objective = Translation(CONFIG, dataset.spec, TASK)
    whole, parts = objective.scores(split), [objective.scores(split) for _ in range(3)]
    with torch.no_grad():
        for scores, rows in [
            (whole, torch.arange(23)),
            *zip(parts, torch.arange(23).tensor_split(3), strict=True),
        ]:
            batch = split.rows(rows)
            scores.update(objective.forward(model, batch), batch)
            scores.ask(model, batch, rows)
    for mine, *theirs in zip(whole.sums(), *(part.sums() for part in parts), strict=True):
        torch.testing.assert_close(mine, sum(theirs), rtol=1e-6, atol=0)
    assert int(whole.sums()[-1]) == 10
    assert 0 <= whole.metrics()["bleu"] < 5


def test_greedy_is_the_most_probable_token_after_each(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, end = build(dataset).double(), dataset.spec.classes - 1
    source = dataset.spec.source
    beginnings = dataset.validation.rows(torch.arange(5)).inputs[:, : source + 1]
    said = greedy(model, beginnings, end, 12)
    whole = torch.cat([beginnings, said], dim=1)
    best = model(whole)[:, source:-1].argmax(dim=-1)
    over = (said == end).cumsum(dim=1) - (said == end).int() > 0
    assert torch.equal(best[~over], said[~over])
    assert bool((said[over] == end).all())
    monkeypatch.setattr(EncoderDecoder, "step_obstacle", "of a test")
    assert torch.equal(greedy(model, beginnings, end, 12), said)


def test_all_rows_end_early(dataset: Dataset) -> None:
    model = build(dataset)
    end = dataset.spec.classes - 1
    with torch.no_grad():
        model.norm.weight.zero_()
        model.head.weight = torch.nn.Parameter(torch.zeros_like(model.head.weight))
    # All scores are zero, and the first token wins: no end comes.
    beginnings = dataset.validation.rows(torch.arange(3)).inputs[:, : dataset.spec.source + 1]
    assert greedy(model, beginnings, end, 4).tolist() == [[0] * 4] * 3
    assert greedy(model, beginnings, 0, 4).tolist() == [[0]] * 3


def test_labels_are_smoothed_in_training_alone(dataset: Dataset) -> None:
    batch = dataset.train.rows(torch.arange(4))
    objective = Translation(TranslationConfig(label_smoothing=0.1), dataset.spec, TASK)
    logits = torch.randn(
        *batch.labels.shape, dataset.spec.classes, generator=torch.Generator().manual_seed(0)
    )
    right = logits.log_softmax(-1)[batch.scored]
    wanted = -(0.9 * right.gather(1, batch.labels[batch.scored][:, None]).mean() + 0.1 * right.mean())
    torch.testing.assert_close(objective.loss(logits, batch), wanted)
    torch.testing.assert_close(objective.loss(logits, batch, "sum"), wanted * batch.scored.sum())
    judge = objective.judge()
    torch.testing.assert_close(judge.loss(logits, batch), Translation(None, dataset.spec).loss(logits, batch))
    assert judge.judge() is judge


def test_a_decoder_translates_too(dataset: Dataset) -> None:
    """Rows are sequences as well, whose labels are those of the targets: of any model with a token a step."""
    torch.manual_seed(0)
    model = build_model(DecoderConfig(model_dim=16, depth=1), dataset.spec)
    found = evaluate(model, dataset.validation, 8, objective=Translation(CONFIG, dataset.spec, TASK))
    assert found.metrics["bleu"] is not None
    assert found.labels == int((dataset.validation.labels != -100).sum())


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (DataSpec(classes=9, length=4, vocabulary=9, per_step=True), "language"),
        (DataSpec(classes=3, length=4, vocabulary=9), "classification"),
        (DataSpec(classes=0, length=4, features=1, targets=2), "regression"),
    ],
)
def test_what_is_no_pair_is_told_what_to_write(spec: DataSpec, kind: str) -> None:
    with pytest.raises(BadInputError, match=rf"translation takes pairs .*; write kind: {kind}"):
        Translation(None, spec)
    assert OBJECTIVES["translation"] is Translation


def test_without_sacrebleu_it_is_told_before_anything_is_trained(
    dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    translation._bleu.cache_clear()
    with pytest.raises(BadInputError, match=r"pip install 'compressm\[translation\]'"):
        Translation(None, dataset.spec, TASK)
