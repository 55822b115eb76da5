"""Hidden tokens: which, by what, and when; that a run of them resumes exactly and is evaluated the same each time."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import killed, recipe_in, rough_flops, trained, weights
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import IGNORE, DataSpec, Split
from compressm_cli.data.text_lm import TextLm
from compressm_cli.engine import experiment
from compressm_cli.engine.batches import Batches
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.view import SilentView
from compressm_cli.models import build_model
from compressm_cli.objectives import OBJECTIVES, objective_of
from compressm_cli.objectives.masked_language import MaskedLanguage
from compressm_cli.recipe import Recipe, RecipeError, recipe_from_mapping

__all__ = ["rough_flops"]

SPEC = DataSpec(classes=50, length=60, vocabulary=50, per_step=True, mask=0, separator=49)
ROWS = 500
ENCODER = {"kind": "encoder", "heads": 2, "model_dim": 8, "depth": 1}


def batch() -> Split:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(1, 49, (ROWS, 60), generator=generator)
    inputs[:, 1] = 49
    return Split(inputs, inputs, torch.randint(2, 61, (ROWS,), generator=generator))


def learned(given: Split, rows: Tensor | None = None, draw: Any = (0, 1), spec: DataSpec = SPEC) -> Split:
    rows = torch.arange(len(given)) if rows is None else rows
    return MaskedLanguage(None, spec).learned(given, rows, draw)


def test_of_each_row_a_share_is_to_be_told_and_most_of_it_is_hidden() -> None:
    given = batch()
    found = learned(given)
    told = found.scored
    assert given.lengths is not None
    candidates = given.lengths - 1  # all but the separator
    assert torch.equal(told.sum(dim=1), ((candidates * 15 + 50) // 100).clamp(min=1))
    assert torch.equal(found.labels[told], given.inputs[told])
    assert not bool(told[:, 1].any())
    assert not bool(told[torch.arange(60) >= given.lengths[:, None]].any())
    assert torch.equal(found.inputs[~told], given.inputs[~told])
    seen, count = found.inputs[told], int(told.sum())
    shares = [
        float((seen == 0).sum()) / count,
        float((seen == given.inputs[told]).sum()) / count,
    ]
    assert shares == pytest.approx([0.8, 0.1], abs=4 * math.sqrt(0.16 / count))
    others = seen[(seen != 0) & (seen != given.inputs[told])]
    assert set(others.tolist()) <= set(range(1, 49))
    assert len(set(others.tolist())) > 40


def test_what_is_hidden_is_a_function_of_seed_step_and_row() -> None:
    given, whole = batch(), learned(batch())
    some = torch.tensor([7, 3, 400])
    part = Split(given.inputs[some, :50], given.labels[some, :50], given.lengths[some].clamp(max=50))
    again = learned(part, some)
    alone = [
        learned(Split(part.inputs[[i]], part.labels[[i]], part.lengths[[i]]), some[[i]]) for i in range(3)
    ]
    assert torch.equal(torch.cat([one.inputs for one in alone]), again.inputs)
    short = given.lengths[some] <= 50
    assert torch.equal(again.inputs[short], whole.inputs[some][short, :50])
    for draw in ((0, 2), (1, 1), None):
        assert not torch.equal(learned(given, draw=draw).inputs, whole.inputs)
    assert torch.equal(learned(given, draw=None).inputs, learned(given, draw=None).inputs)


def test_a_batch_is_drawn_before_it_is_shared_out() -> None:
    split = TextLm(max_bytes=4000, length=16).load().train
    spec = TextLm(max_bytes=4000, length=16).spec()
    batches = Batches(split, 8, 3, MaskedLanguage(None, spec))
    whole = batches.share(2, 0, 1, 1).parts[0]
    halves = [batches.share(2, rank, 2, 1) for rank in range(2)]
    assert torch.equal(torch.cat([half.parts[0].inputs for half in halves]), whole.inputs)
    assert all(int(half.labels) == int(whole.scored.sum()) for half in halves)


def recipe(folder: Path, **parts: Any) -> Recipe:
    mapping = recipe_in(folder, steps=6, train={"checkpoint_every": 2, "eval_every": 3, "batch_size": 8})
    return recipe_from_mapping(
        {
            **mapping.model_dump(mode="json"),
            "data": {"task": "text_lm", "max_bytes": 4000, "length": 16},
            "model": ENCODER,
            "objective": {"kind": "masked_language"},
            **parts,
        },
        "test",
    )


@pytest.mark.usefixtures("rough_flops")
def test_a_run_resumes_to_the_same_bits_and_is_judged_the_same_again(tmp_path: Path) -> None:
    whole = trained(recipe(tmp_path / "whole"))
    cut = recipe(tmp_path / "cut")
    run = killed(cut, 3)
    experiment.resume(run, cut, SilentView(), "test")
    assert all(torch.equal(one, weights(run)[name]) for name, one in weights(whole).items())
    told = whole.read_summary()["test"]
    assert told["bits_per_token"] == pytest.approx(told["loss"] / math.log(2))
    assert told["perplexity"] == pytest.approx(math.exp(told["loss"]))
    assert told["labels"] == 2 * told["rows"]  # of 16 tokens each


def test_evaluations_compare(tmp_path: Path) -> None:
    of = recipe(tmp_path)
    dataset = experiment.load_data(of)
    model = build_model(of.model, dataset.spec)
    objective = objective_of(of, dataset.spec)
    one, other = (evaluate(model, dataset.test, rows, objective=objective) for rows in (3, 50))
    assert one.loss == pytest.approx(other.loss, rel=1e-6)
    assert one.metrics["accuracy"] == other.metrics["accuracy"]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"objective": None}, r"model\.kind: encoder looks at all steps, .*masked_language"),
        ({"objective": {"kind": "language"}}, r"model\.kind: encoder looks at all steps"),
        ({"model": {"kind": "decoder"}}, r"model\.kind: decoder looks at no step after .*kind: encoder"),
        ({"data": {"task": "digits"}}, "objective: masked_language takes rows of tokens alone"),
        (
            {"data": {"task": "tokens", "vocabulary": 9}},
            r"objective: .*write mask_token, a number from 0 to 8",
        ),
        (
            {
                "data": {"task": "tokens", "vocabulary": 9},
                "objective": {"kind": "masked_language", "mask_token": 9},
            },
            "mask_token is 9, and tokens are from 0 to 8",
        ),
    ],
)
def test_what_does_not_fit_together(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(tmp_path, **parts)


def test_models_of_ones_own_data_are_asked_as_well(tmp_path: Path) -> None:
    of = recipe(tmp_path).model_copy(update={"objective": OBJECTIVES["language"].Config()})
    with pytest.raises(BadInputError, match=r"model\.kind: encoder looks at all steps"):
        objective_of(of, of.data.spec())
    given = Split(torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3, dtype=torch.int64))
    assert bool((learned(given).labels == IGNORE).all())
