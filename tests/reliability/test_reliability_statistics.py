"""Batch normalization in several processes: trained as in one, the same statistics everywhere, and evaluated as saved.

Each process writes down its statistics and the summary, and the tests compare them.
"""

from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from tiny_runs import count_roughly

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.interface import Dataset, DataSpec, Split
from compressm_cli.engine.distributed.group import Group, joined
from compressm_cli.engine.evaluation import evaluate
from compressm_cli.engine.experiment import load_data
from compressm_cli.engine.loop import Trainer
from compressm_cli.engine.silent_run import SilentRun
from compressm_cli.engine.view import SilentView
from compressm_cli.engine.workload import Workload
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.runs.folder import Run

STEPS = 12
PADDED = {"task": "listops", "train_rows": 64, "validation_rows": 20, "test_rows": 20}
PADDED |= {"min_length": 4, "max_length": 40}
CASES: dict[str, dict[str, Any]] = {
    "equal lengths": {},
    "unequal lengths": {"data": PADDED},
    "in parts": {"data": PADDED, "train": {"accumulate": 2}},
    "fsdp": {"data": PADDED, "train": {"parallel": "fsdp"}},
}
MORE = ["equal lengths", "unequal lengths"]
"""What three processes do."""


def recipe_of(case: str, root: Path) -> Recipe:
    changes = CASES[case]
    mapping: dict[str, Any] = {
        "name": "statistics",
        "device": "cpu",
        "data": changes.get("data", {"task": "digits"}),
        "model": {
            "layer": {"kind": "lru", "state_dim": 4},
            "model_dim": 6,
            "depth": 2,
            "norm": "batch",
        },
        "train": {"steps": STEPS, "batch_size": 14, "learning_rate": 1e-2, "log_every": 1, "eval_every": 6},
        "compression": {
            "method": "hankel",
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [7]},
        },
        "output": {"root": str(root / case.replace(" ", "-"))},
    }
    mapping["train"] |= {"form": "recurrent", **changes.get("train", {})}
    return recipe_from_mapping(mapping, "recipe")


@cache
def data_of(case: str) -> Dataset:
    return load_data(recipe_of(case, Path()))


def train(case: str, root: Path, group: Group) -> dict[str, Any]:
    """A run, and what this process has come to at its end."""
    recipe = recipe_of(case, root)
    run = group.from_main(lambda: Run.create(Path(recipe.output.root), recipe.name))
    own = run if group.is_main else SilentRun(run.folder)
    trainer = Trainer(recipe, 0, data_of(case), own, SilentView(), group=group)
    summary = trainer.train()
    return {
        "folder": run.folder,
        "summary": summary,
        "buffers": {name: buffer.clone() for name, buffer in trainer.state.model.named_buffers()},
    }


def member(folder: Path, cases: list[str]) -> None:
    """What each process does."""
    with joined() as group:
        found = {case: train(case, folder, group) for case in cases}
        torch.save(found, folder / f"{group.rank}.pt")


# ---- the tests ---------------------------------------------------------------------------------------------


def trained(count: int, cases: list[str], folder: Path) -> list[dict[str, Any]]:
    """What each of ``count`` processes has come to, by case."""
    for case in cases:
        data_of(case)  # generated once, then in the cache
    assert processes.ended(processes.begun(count, member, folder, cases)) == [0] * count
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return trained(2, list(CASES), tmp_path_factory.mktemp("two"))


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return trained(3, MORE, tmp_path_factory.mktemp("three"))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What one process comes to, by case."""
    with pytest.MonkeyPatch.context() as patch:
        count_roughly(patch)
        return {case: train(case, tmp_path_factory.mktemp("alone"), Group()) for case in CASES}


@pytest.fixture(params=[(2, case) for case in CASES] + [(3, case) for case in MORE], ids=str)
def found(request: pytest.FixtureRequest) -> tuple[str, list[dict[str, Any]]]:
    """A case, and what each process has come to in it."""
    count, case = request.param
    several = request.getfixturevalue({2: "two", 3: "three"}[count])
    return case, [process[case] for process in several]


def test_all_processes_have_the_same_statistics(found: tuple[str, list[dict[str, Any]]]) -> None:
    _, members = found
    for other in members[1:]:
        assert list(other["buffers"]) == list(members[0]["buffers"])
        for name, buffer in other["buffers"].items():
            assert torch.equal(buffer, members[0]["buffers"][name]), name


def test_what_was_evaluated_is_what_was_saved(found: tuple[str, list[dict[str, Any]]]) -> None:
    case, members = found
    saved = Checkpoint.load(Run(members[0]["folder"]).final_checkpoint)
    for name, buffer in members[0]["buffers"].items():
        assert torch.equal(saved.weights[name], buffer), name
    again = evaluate(saved.build_model(), data_of(case).test, 64)
    told = members[0]["summary"]["test"]
    assert again.loss == pytest.approx(told["loss"], rel=1e-6)
    assert (again.metrics["accuracy"], again.labels) == (told["accuracy"], told["labels"])


def test_training_is_that_of_one_process(
    found: tuple[str, list[dict[str, Any]]], alone: dict[str, dict[str, Any]]
) -> None:
    case, members = found
    runs = [Run(each["folder"]) for each in (alone[case], members[0])]
    assert processes.largest_difference(*runs) < 1e-4
    for name, buffer in alone[case]["buffers"].items():
        torch.testing.assert_close(members[0]["buffers"][name], buffer, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("batch_size", "accumulate", "lengths", "refused"),
    [
        (1, 1, [5, 1], True),
        (1, 1, [5, 2], False),
        (2, 2, [5, 1], True),
        (3, 2, [1, 1], True),
        (2, 1, [1, 1], False),
    ],
)
def test_a_pass_of_a_single_step_is_refused(
    batch_size: int, accumulate: int, lengths: list[int], refused: bool
) -> None:
    config = TrainConfig(steps=1, accumulate=accumulate)
    work = Workload(config, DataSpec(classes=2, length=5, features=1), batch_size, Group())
    split = Split(torch.zeros(2, 5, 1), torch.zeros(2, dtype=torch.int64), torch.tensor(lengths))
    told = r"model.norm: batch needs two steps or more at once; train.batch_size: \d with"
    with pytest.raises(BadInputError, match=told) if refused else nullcontext():
        work.require_statistics(split)
