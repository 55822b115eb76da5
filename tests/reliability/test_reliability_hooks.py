"""What a method does at each step is the same in all processes: penalties, and units that are parked and woken."""

from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from tiny_runs import instead_of_none
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.layers.interface import state_axis
from compressm_cli.methods import METHODS
from compressm_cli.methods.method import StepContext
from compressm_cli.methods.none import NoCompression
from compressm_cli.recipe import recipe_from_mapping, recipe_to_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.structure.edits import Park, Wake
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.plan import Plan

STATES = state_axis("blocks.0.layer")


class Pausing(NoCompression):
    """A penalty on the head; two states sleep from step 6 to 14, and the second of the others from 10 on.

    At step 4 the model grows by a block, and from step 10 to 14 another one sleeps.
    """

    def penalty(self, step: StepContext) -> Tensor | None:
        return 0.05 * step.model.get_parameter("head.weight").square().sum()

    def after_step(self, step: StepContext) -> Plan | None:
        edits: dict[int, list[Any]] = {
            4: [Insert("blocks", 2)],
            6: [Park(STATES, [0, 3])],
            10: [Park(STATES, [1]), Park("blocks.1:sublayer", [0])],
            14: [Wake(STATES, [0, 3]), Wake("blocks.1:sublayer", [0])],
        }
        return Plan(edits=edits.get(step.step, []))


def member(*arguments: str) -> None:
    METHODS.restore(instead_of_none(Pausing))
    raise SystemExit(main.run(arguments))


def train(folder: Path, count: int, parallel: str = "ddp") -> tuple[list[int], Path]:
    recipe = recipe_from_mapping(
        {
            "name": "pausing",
            "device": "cpu",
            "data": {"task": "digits"},
            "model": {"layer": {"kind": "lru", "state_dim": 6}, "model_dim": 8, "depth": 2},
            "train": {
                "steps": 20,
                "batch_size": 24,
                "learning_rate": 1e-2,
                "log_every": 5,
                "form": "recurrent",
                "threads": 1,
                "parallel": parallel,
            },
            "compression": {"method": "none"},
            "output": {"root": str(folder)},
        },
        "recipe",
    )
    path = folder / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe))
    codes = processes.ended(processes.begun(count, member, "train", str(path), "--quiet"))
    return codes, folder / "pausing" / "v0001"


@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_park_as_one_does(tmp_path: Path, count: int) -> None:
    found = []
    for name, processes_of_it in (("one", 1), ("several", count)):
        (tmp_path / name).mkdir()
        codes, folder = train(tmp_path / name, processes_of_it)
        assert codes == [0] * processes_of_it
        found.append((Run.open(folder), Checkpoint.load(folder / "checkpoints" / "final.pt")))
    (one, alone), (run, several) = found
    # After the start and after each of four edits all processes had the same.
    assert [m["step"] for m in run.read_metrics() if "checksum" in m] == [0, 4, 6, 10, 14]
    assert several.orders == alone.orders == {"blocks.0.layer": 5, "blocks.1.layer": 6, "blocks.2.layer": 6}
    assert several.parked.axes[STATES].units == alone.parked.axes[STATES].units == (2,)
    for name, weight in alone.weights.items():
        torch.testing.assert_close(several.weights[name], weight, rtol=1e-3, atol=1e-5)
    shadows = alone.parked.shadows
    assert shadows.keys() == several.parked.shadows.keys()
    for name, shadow in shadows.items():
        torch.testing.assert_close(several.parked.shadows[name].value, shadow.value, rtol=1e-3, atol=1e-5)
    losses = [[m["train_loss"] for m in r.read_metrics() if "train_loss" in m] for r in (one, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_a_model_in_parts_cannot_be_changed_at_each_step(tmp_path: Path) -> None:
    codes, folder = train(tmp_path, 2, "fsdp")
    assert codes == [2, 2]
    told = Run.open(folder).read_info()["error"]
    assert "acts after each step, which a model in parts cannot; write train.parallel: ddp" in told
