"""Calibration within a run: what memory it takes, and that padding is not looked at."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.data.interface import Dataset, Split
from compressm_cli.recipe import Recipe, recipe_to_yaml
from compressm_cli.run import Run
from compressm_cli.training import experiment
from compressm_cli.training.view import SilentView

Maker = Callable[..., Recipe]

LIMITED = """
import resource, sys
from pathlib import Path
import torch
from compressm_cli.cli import main, train as command
from compressm_cli.compression.selective import moments
from compressm_cli.training import loop, workload

def limited(trainer):
    # What is loaded and compiled at the first step and the first check takes memory for itself.
    trainer.step = 1
    trainer._update()
    trainer.step = 0
    whole, trainer.batches.batch_size = trainer.batches.batch_size, 4
    trainer.method.plan(trainer.model, trainer._context())
    trainer.batches.batch_size = whole
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + int(sys.argv[2])
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
    return train(trainer)

torch.set_num_threads(1)
workload.training_step_flops = workload.inference_flops = lambda *_: 1
moments._PIECE_ENTRIES = 2**18  # some 64 MiB otherwise, whatever the batch
command.draw_plots = lambda run: None
train, loop.Trainer.train = loop.Trainer.train, limited
sys.exit(main.run(["train", sys.argv[1], "--quiet"]))
"""
"""A process of its own: this one may have memory left over from other tests."""

CASES: dict[str, tuple[int, dict[str, int], int]] = {
    "lru": (128, {"batch_size": 512, "accumulate": 32}, 48),
    "mamba": (8, {"batch_size": 1024, "accumulate": 64}, 96),
}
"""States, rows, and what a cut may take in MiB."""


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the size of a process is read from /proc")
@pytest.mark.parametrize("kind", CASES)
def test_a_cut_passes_no_more_rows_at_once_than_training(tiny: Maker, tmp_path: Path, kind: str) -> None:
    """All rows of a batch at once are 8 MiB or more in each tensor, the rows that training takes a quarter of one."""
    states, rows, limit = CASES[kind]
    recipe = tiny(
        steps=2,
        model={
            "layer": {"kind": kind, "state_dim": states},
            "model_dim": 64,
            "depth": 4,
            "dropout": 0.0,
            "norm": "layer",
        },
        train={**rows, "form": "recurrent", "eval_every": 2},
        compression={
            "method": "hankel",
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [1]},
            "calibration_batches": 1,
        },
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe))
    command = [sys.executable, "-c", LIMITED, str(path), str(limit * 2**20)]
    # Large tensors are given back to the system, and asked for again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    (run,) = Run.find(Path(recipe.output.root) / recipe.name)
    assert all(line["order_after"] < states for line in run.read_compression())


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
