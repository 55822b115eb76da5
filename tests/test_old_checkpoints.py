"""Checkpoints that earlier versions wrote are read, built and trained on."""

import shutil
from pathlib import Path

import pytest
import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.checkpoint.versions import FORMAT, migrated
from compressm_cli.engine import experiment
from compressm_cli.engine.trial import Trial
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
    require_same_anew(old, tmp_path / "new.pt")


def test_a_checkpoint_of_format_3_is_read_and_written_anew(tmp_path: Path) -> None:
    """A trial of then goes back to what the method remembers now: it kept no copy."""
    path = STORED / "format3" / "checkpoints" / "last-000000025.pt"
    assert torch.load(path, weights_only=True)["format"] == 3
    old = Checkpoint.load(path)
    assert old.orders == dict.fromkeys(LAYERS, 2)
    assert old.encoding is None
    assert old.training is not None
    back = old.training["trial"]["saved"]
    assert (back["step"], back["method"]) == (12, old.training["method"])
    assert back["method"] is not old.training["method"]
    assert torch.equal(back["generator"], old.training["generator"])
    require_same_anew(old, tmp_path / "new.pt")


def require_same_anew(old: Checkpoint, path: Path) -> None:
    """Written by this version, it is of this version's format, and its model the same."""
    old.save(path)
    assert torch.load(path, weights_only=True)["format"] == FORMAT
    new = Checkpoint.load(path)
    one, other = old.build_model().eval(), new.build_model().eval()
    inputs = torch.linspace(-1, 1, 128).view(2, 64, 1)
    assert torch.equal(one(inputs), other(inputs))


def test_an_accuracy_that_was_not_there_yet_is_none() -> None:
    training = {"best": {"accuracy": -1.0, "step": 0}, "evaluated": None, "trial": None}
    new = migrated({"format": 2, "orders": {}, "training": training})["training"]
    assert {key: new[key] for key in training} == {**training, "best": {"value": None, "step": 0}}
    for damaged in ({"best": 3, "evaluated": [1], "trial": 4}, None, 7):
        migrated({"format": 2, "orders": {}, "training": damaged})  # is told where it is read


def test_a_trial_that_is_damaged_is_told_where_it_is_read() -> None:
    for training in (None, 7, {"trial": None}, {"trial": 4}, {"trial": {"saved": 5}}):
        assert migrated({"format": 3, "training": training})["training"] == training
    assert "training" not in migrated({"format": 3})
    assert migrated({"format": 3, "training": {"trial": {"saved": {}}}})["training"] == {
        "trial": {"saved": {}}
    }


def gone_on_with(stored: str, tmp_path: Path) -> Run:
    """A stored run, trained to its end in a copy of its folder."""
    folder = tmp_path / "outputs" / "stored" / "v0001"
    shutil.copytree(STORED / stored, folder)
    run = Run.open(folder)
    return experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")


@pytest.mark.parametrize("stored", ["format2", "format3"])
def test_a_run_of_an_earlier_format_is_trained_to_its_end(tmp_path: Path, stored: str) -> None:
    """From within a trial, as the version that began it would have done."""
    run = gone_on_with(stored, tmp_path)
    summary = run.read_summary()
    assert summary["test"]["loss"] == pytest.approx(2.310026783413357, rel=1e-5)
    assert summary["orders"]["final"] == dict.fromkeys(LAYERS, 2)
    assert summary["checks"] == {"made": 1, "cut": 1, "rejected": 0}
    assert [line["accepted"] for line in run.read_compression()] == [True, True]


def test_a_trial_of_format_3_is_undone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "verdict", lambda *_: (False, "as the test wants"))
    run = gone_on_with("format3", tmp_path)
    summary = run.read_summary()
    assert summary["orders"]["final"] == dict.fromkeys(LAYERS, 4)
    assert summary["checks"] == {"made": 1, "cut": 1, "rejected": 1}
    training = Checkpoint.load(run.last_checkpoints()[-1]).training
    assert training is not None
    assert training["method"]["rejections"] == 1
