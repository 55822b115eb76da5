"""Checkpoints that earlier versions wrote are read, built and trained on."""

import shutil
from pathlib import Path

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.versions import FORMAT, migrated
from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import load_recipe
from compressm_cli.runs.folder import Run

STORED = Path(__file__).parent / "checkpoints"
LAYERS = ["blocks.0.layer", "blocks.1.layer"]


def test_a_checkpoint_of_format_2_is_read_and_written_anew(tmp_path: Path) -> None:
    old = Checkpoint.load(STORED / "format2" / "checkpoints" / "last-000000020.pt")
    assert old.orders == dict.fromkeys(LAYERS, 2)
    assert not old.parked
    assert old.training is not None
    assert old.training["trial"]["saved"]["sizes"] == {f"{name}:states": 4 for name in LAYERS}
    before = {"loss": 2.3311834547254775, "rows": 360, "labels": 360, "metrics": {"accuracy": 35 / 360}}
    assert old.training["trial"]["before"] == before
    assert old.training["evaluated"][1]["metrics"] == {"accuracy": 0.1}
    assert old.training["best"] == {"value": 35 / 360, "step": 10}
    old.save(tmp_path / "new.pt")
    assert torch.load(tmp_path / "new.pt", weights_only=True)["format"] == FORMAT
    new = Checkpoint.load(tmp_path / "new.pt")
    one, other = old.build_model().eval(), new.build_model().eval()
    inputs = torch.linspace(-1, 1, 128).view(2, 64, 1)
    assert torch.equal(one(inputs), other(inputs))


def test_an_accuracy_that_was_not_there_yet_is_none() -> None:
    training = {"best": {"accuracy": -1.0, "step": 0}, "evaluated": None, "trial": None}
    new = migrated({"format": 2, "orders": {}, "training": training})["training"]
    assert {key: new[key] for key in training} == {**training, "best": {"value": None, "step": 0}}
    for damaged in ({"best": 3, "evaluated": [1], "trial": 4}, None, 7):
        migrated({"format": 2, "orders": {}, "training": damaged})  # is told where it is read


def test_a_run_of_format_2_is_trained_to_its_end(tmp_path: Path) -> None:
    """From within a trial, as the version that began it would have done."""
    folder = tmp_path / "outputs" / "stored" / "v0001"
    shutil.copytree(STORED / "format2", folder)
    run = Run.open(folder)
    run = experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")
    summary = run.read_summary()
    assert summary["test"]["loss"] == pytest.approx(2.310026783413357, rel=1e-5)
    assert summary["orders"]["final"] == dict.fromkeys(LAYERS, 2)
    assert summary["checks"] == {"made": 1, "cut": 1, "rejected": 0}
    assert [line["accepted"] for line in run.read_compression()] == [True, True]
