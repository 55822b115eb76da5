"""Runs small enough to be trained many times over."""

from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import train as cli_train
from compressm_cli.core.registry import Entry
from compressm_cli.engine import experiment, workload
from compressm_cli.engine.view import SilentView, View
from compressm_cli.methods import METHODS
from compressm_cli.methods.method import Method
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]


def recipe_in(
    folder: Path, steps: int = 30, compression: dict[str, Any] | None = None, **parts: dict[str, Any]
) -> Recipe:
    """A recipe for some 30 steps on the digits, whose runs lie in ``folder/outputs``."""
    mapping: dict[str, Any] = {
        "name": "tiny",
        "device": "cpu",
        "data": {"task": "digits"},
        "model": {
            "layer": {"kind": "lru", "state_dim": 8},
            "model_dim": 8,
            "dropout": 0.1,
            "norm": "batch",
        },
        "train": {
            "steps": steps,
            "batch_size": 16,
            "learning_rate": 1e-2,
            "log_every": 1,
            "eval_every": 10,
            # Less often than by default: to write a checkpoint takes longer than those three steps.
            "checkpoint_every": 10,
        },
        "compression": compression or {"method": "none"},
        "output": {"root": str(folder / "outputs")},
    }
    for part, changes in parts.items():
        mapping[part] = {**mapping.get(part, {}), **changes}
    return recipe_from_mapping(mapping, "test")


def trained(recipe: Recipe, seed: int = 0, view: View | None = None) -> Run:
    """The run of a recipe, finished."""
    return experiment.start(recipe, seed, experiment.load_data(recipe), view or SilentView(), "test")


_KNOWN: dict[Hashable, Run] = {}


def trained_once(recipe: Recipe) -> Run:
    """A finished run of a recipe, for tests that only read it: those that ask for the same share it."""
    methods = tuple(entry.value for entry in METHODS.entries().values())
    key = (recipe.model_dump_json(exclude={"output": {"root"}}), methods, workload.training_step_flops)
    if key not in _KNOWN:
        _KNOWN[key] = trained(recipe)
    return _KNOWN[key]


@pytest.fixture
def tiny(tmp_path: Path) -> Maker:
    """``recipe_in`` of a folder of the test's own; arguments replace or extend the recipe's parts."""
    return partial(recipe_in, tmp_path)


@pytest.fixture
def train() -> Trainer:
    """Train a recipe; returns its run."""
    return trained


def weights(run: Run) -> dict[str, Tensor]:
    return Checkpoint.load(run.final_checkpoint).weights


@pytest.fixture
def same_weights() -> Callable[[Run, Run], bool]:
    """Whether two finished runs ended with bit-equal models."""

    def compare(one: Run, other: Run) -> bool:
        a, b = weights(one), weights(other)
        return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

    return compare


def instead_of_none(method: type[Method]) -> dict[str, Entry[Method]]:
    """The methods, with one of the test's by the name of the one that does nothing."""
    return {**METHODS.entries(), "none": Entry(method, method.Config)}


def with_method(monkeypatch: pytest.MonkeyPatch, method: type[Method]) -> None:
    """Recipes without compression have this method."""
    monkeypatch.setattr(METHODS, "_entries", instead_of_none(method))


class Died(BaseException):
    """Stands for a kill."""


class Dying(SilentView):
    """Kills the run when it tells of a step."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, step: int, *_: Any) -> None:
        if step == self.at:
            raise Died


def killed(recipe: Recipe, step: int) -> Run:
    """A run of a recipe that was killed at a step."""
    with pytest.raises(Died):
        experiment.start(recipe, 0, experiment.load_data(recipe), Dying(step), "test")
    return Run.find(Path(recipe.output.root) / recipe.name)[-1]


def parameters(model: torch.nn.Module, *_: Any) -> int:
    return sum(p.numel() for p in model.parameters())


def count_roughly(patch: pytest.MonkeyPatch) -> None:
    """Counting FLOPs takes longer than training such a model; here any number that goes with the shapes will do."""
    patch.setattr(workload, "training_step_flops", parameters)
    patch.setattr(workload, "inference_flops", parameters)


@pytest.fixture
def rough_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    """``count_roughly`` for a test."""
    count_roughly(monkeypatch)


def lightly() -> None:
    """In a process of its own: FLOPs are counted roughly, and nothing is drawn."""
    count_roughly(pytest.MonkeyPatch())
    cli_train.draw_plots = lambda run: None
