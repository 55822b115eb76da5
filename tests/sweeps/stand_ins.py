"""Processes that do what trainings do to the files of a run, in a twentieth of a second."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.sweeps import cluster, process
from compressm_cli.sweeps.job import Job

SCRIPT = Path(__file__).with_name("stand_in.py")
MakeJobs = Callable[..., list[Job]]
Behave = Callable[..., None]
RECIPE = """\
name: tiny
device: cpu
data: {task: digits}
model:
  layer: {kind: lru, state_dim: 4}
  model_dim: 4
train: {steps: 20, batch_size: 16, learning_rate: 0.01}
"""
"""Of the smallest run, as a file."""


def recipe(root: Path, name: str = "tiny", **changes: Any) -> Recipe:
    """Of the smallest run."""
    mapping = {
        "name": name,
        "device": "cpu",
        "data": {"task": "digits"},
        "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 4},
        "train": {"steps": 20, "batch_size": 16, "learning_rate": 1e-2, **changes},
        "output": {"root": str(root)},
    }
    return recipe_from_mapping(mapping, "test")


@pytest.fixture
def make_jobs(tmp_path: Path) -> MakeJobs:
    """Jobs by name, whose runs go below ``tmp_path/runs``."""

    def make(*names: str) -> list[Job]:
        return [Job(recipe(tmp_path / "runs", name)) for name in names]

    return make


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Behave:
    """Has jobs done by stand_in.py; called with what those do, by name, that do not succeed: ``a="fails"``."""

    def command(path: Path) -> list[str]:
        return [sys.executable, str(SCRIPT), str(path)]

    def behave(**behaviour: str) -> None:
        monkeypatch.setenv("STAND_IN", json.dumps(behaviour))

    for module in (process, cluster):
        monkeypatch.setattr(module, "training_command", command)
    behave()
    return behave
