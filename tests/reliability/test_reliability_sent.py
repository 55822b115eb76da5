"""What processes send one another of a model and its optimizer: tensors, one at a time, to those that hold them."""

import functools
import os
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import torch.distributed as dist

from compressm_cli.engine import experiment
from compressm_cli.engine.distributed.group import joined
from compressm_cli.engine.divergence import DivergedError
from compressm_cli.engine.loop import Trainer
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

MEGABYTE = 1_000_000
VOCABULARY, WIDTH = 40_000, 128
STATE = 3 * 2 * 4 * VOCABULARY * WIDTH
"""Bytes of parameters and moments: of the embedding and the head, beside which nothing counts."""


def recipe_of(root: Path, parallel: str) -> Recipe:
    """Of a model with 41 MB of parameters."""
    return recipe_from_mapping(
        {
            "name": "sent",
            "device": "cpu",
            "data": {"task": "tokens", "vocabulary": VOCABULARY, "rows": 8, "length": 8},
            "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": WIDTH, "depth": 1},
            "train": {
                "steps": 4,
                "batch_size": 2,
                "form": "recurrent",
                "parallel": parallel,
                "threads": 1,
                "on_divergence": {"action": "roll_back"},
            },
            "compression": {"method": "none"},
            "output": {"root": str(root), "keep_last": 1},
        },
        "recipe",
    )


class Pickled:
    """The bytes that went from the main process as pickled objects since it was made."""

    def __init__(self) -> None:
        self.bytes = 0
        self._send = dist.broadcast_object_list
        dist.broadcast_object_list = functools.partial(self.send)

    def send(self, objects: list[Any], *arguments: Any, **named: Any) -> None:
        self._send(objects, *arguments, **named)
        self.bytes += sum(len(o) for o in objects if isinstance(o, bytes))


def megabytes(name: str) -> int:
    """Memory of this process: VmRSS now, or VmHWM at most since ``clear_peak``."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) // 1000 for line in lines if line.startswith(f"{name}:"))


def checksum(trainer: Trainer, when: str) -> str:
    """Of the model and its optimizer's state, which all processes have."""
    state = trainer.state
    return state.placement.confirm(state.model, state.optimizer, when)


def begin(root: Path, parallel: str) -> None:
    """Train a step, write a checkpoint, and end in the middle of the run."""

    def train(trainer: Trainer) -> None:
        trainer.ledger.begin()
        trainer.state.step = 1
        trainer._train_step()
        trainer.saving.save()

    Trainer.train = train  # type: ignore[assignment, method-assign]
    with joined() as group:
        recipe = recipe_of(root, parallel)
        experiment.start(recipe, 0, experiment.load_data(recipe), SilentView(), "test", group=group)
    (root / "sent" / "v0001" / "summary.json").unlink(missing_ok=True)


def go_on(root: Path, parallel: str) -> None:
    """Resume, go back once more as after a divergence, and write down what was sent, and what memory it took."""
    found: dict[str, Any] = {}

    def train(trainer: Trainer) -> None:
        found["resumed"] = (pickled.bytes, megabytes("VmHWM") - before)
        found["checksum"] = checksum(trainer, "resumed")
        trainer.ledger.begin()
        trainer.state.step = 2
        trainer._train_step()
        found["trained"] = checksum(trainer, "trained")
        sent = pickled.bytes
        trainer._roll_back(DivergedError("a test"))
        found["rolled back"] = pickled.bytes - sent
        found["again"] = checksum(trainer, "rolled back")
        found["moments"] = sum(len(state) for state in trainer.state.optimizer.state.values())
        found["own random state"] = torch.get_rng_state()

    Trainer.train = train  # type: ignore[assignment, method-assign]
    import compressm_cli.engine.sharded  # noqa: F401  # what it imports is not what is measured

    with joined() as group:
        pickled, before = Pickled(), megabytes("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        run = Run.open(root / "sent" / "v0001")
        experiment.resume(run, recipe_of(root, parallel), SilentView(), "test", group)
        torch.save(found, root / f"{group.rank}.pt")


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="memory is read as Linux tells it")
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_checkpoint_goes_to_the_others_as_tensors(parallel: str, tmp_path: Path) -> None:
    for work in (begin, go_on):
        assert processes.ended(processes.begun(2, work, tmp_path, parallel)) == [0, 0]
    main, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=False) for rank in range(2))
    pickled, memory = other["resumed"]
    assert pickled < 0.1 * MEGABYTE
    assert other["rolled back"] < 0.1 * MEGABYTE
    # What it holds itself, a copy or a part, and room for the tensor at hand; no second copy of the checkpoint.
    assert memory * MEGABYTE < 2.5 * STATE
    assert main["checksum"] == other["checksum"] == main["again"] == other["again"] != main["trained"]
    assert main["moments"] == other["moments"] > 0
    assert not torch.equal(main["own random state"], other["own random state"])
