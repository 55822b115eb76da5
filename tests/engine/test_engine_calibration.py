"""Calibration within a run: what memory it takes, and that padding is not looked at."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from compressm_cli.data.interface import Dataset, Split
from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.memory import _LiveTensors
from compressm_cli.methods.hankel.method import Hankel
from compressm_cli.methods.hankel.selective import moments
from compressm_cli.methods.method import CheckContext
from compressm_cli.recipe import Recipe
from compressm_cli.structure.plan import Plan

Maker = Callable[..., Recipe]

CASES = {"lru": 128, "mamba": 8}
"""States."""
ROWS, PARTS = 512, 32


def most_of_a_cut(monkeypatch: pytest.MonkeyPatch, recipe: Recipe) -> int:
    """Bytes of tensors alive at once while the run decides on its cut, beside the data, the model and what is kept."""
    found: list[int] = []
    dataset = experiment.load_data(recipe)
    plan = Hankel.plan

    def watched(method: Hankel, model: nn.Module, context: CheckContext) -> Plan:
        with _LiveTensors([*model.parameters(), dataset.train.inputs]) as live:
            result = plan(method, model, context)
        found.append(live.peak)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(Hankel, "plan", watched)
        patch.setattr(moments, "_PIECE_ENTRIES", 2**18)  # some 64 MiB otherwise, whatever the batch
        run = experiment.start(recipe, 0, dataset, SilentView(), "test")
    assert all(line["order_after"] < line["order_before"] for line in run.read_compression())
    (most,) = found
    return most


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kind", CASES)
def test_a_cut_passes_no_more_rows_at_once_than_training(
    tiny: Maker, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A batch in parts takes at a cut what as many batches of one part's rows take, and its own inputs."""

    def made(batch_size: int, accumulate: int, calibration_batches: int) -> Recipe:
        return tiny(
            steps=2,
            model={
                "layer": {"kind": kind, "state_dim": CASES[kind]},
                "model_dim": 64,
                "depth": 4,
                "dropout": 0.0,
                "norm": "layer",
            },
            train={
                "batch_size": batch_size,
                "accumulate": accumulate,
                "form": "recurrent",
                "eval_every": 2,
            },
            compression={
                "method": "hankel",
                "keep_fraction": 0.5,
                "schedule": {"kind": "listed", "at_steps": [1]},
                "calibration_batches": calibration_batches,
            },
        )

    few = most_of_a_cut(monkeypatch, made(ROWS // PARTS, 1, PARTS))
    many = most_of_a_cut(monkeypatch, made(ROWS, PARTS, 1))
    one_tensor = ROWS * 64 * 64 * 4
    assert many - few < one_tensor / 8


def with_padding_of(split: Split, token: int) -> Split:
    assert split.lengths is not None
    inside = torch.arange(split.inputs.shape[1]) < split.lengths[:, None]
    return replace(split, inputs=split.inputs.where(inside, torch.full_like(split.inputs, token)))


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kind", ["lru", "mamba"])
def test_what_stands_in_the_padding_changes_no_cut(tiny: Maker, kind: str) -> None:
    recipe = tiny(
        steps=3,
        data={
            "task": "listops",
            "train_rows": 64,
            "validation_rows": 8,
            "test_rows": 8,
            "min_length": 5,
            "max_length": 40,
        },
        model={"layer": {"kind": kind, "state_dim": 8}, "norm": "layer", "dropout": 0.0},
        compression={
            "method": "hankel",
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [2]},
        },
    )
    dataset = experiment.load_data(recipe)
    assert dataset.train.lengths is not None
    assert int(dataset.train.lengths.min()) < int(dataset.train.lengths.max())
    lines: list[list[dict[str, Any]]] = []
    for token in (0, 9):
        splits = (with_padding_of(s, token) for s in (dataset.train, dataset.validation, dataset.test))
        changed = Dataset(dataset.spec, *splits)
        lines.append(experiment.start(recipe, 0, changed, SilentView(), "test").read_compression())
    for one, other in zip(*lines, strict=True):
        assert one["order_after"] == other["order_after"] < 8
        assert one["hsv"] == pytest.approx(other["hsv"], rel=1e-4)
        assert one["measured_error"] == pytest.approx(other["measured_error"], rel=1e-3)
