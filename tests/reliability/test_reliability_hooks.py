"""What a method does at each step is the same in all processes: penalties, and units that are parked and woken."""

import os
import signal
from pathlib import Path
from typing import Any

import processes
import pytest
import reliability
import torch
from tiny_runs import instead_of_none
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.layers.interface import state_axis
from compressm_cli.methods import METHODS
from compressm_cli.methods.method import CheckContext, SetupContext, StepContext
from compressm_cli.methods.none import NoCompression
from compressm_cli.recipe import recipe_from_mapping, recipe_to_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.structure.edits import Park, Wake
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.plan import Plan

STATES = state_axis("blocks.0.layer")


class Pausing(NoCompression):
    """Has a gate for each number that the first two blocks put out, and a price on these and on the head.

    Two states sleep from step 6 to 14, and the second of the others from 10 on. At step 4 the model grows by a block,
    and from step 10 to 14 another one sleeps. The price is another one from step 8 on, which the main process decides.
    """

    price = 0.1
    killed: int | None = None
    """The step in which one of the processes is lost."""

    def setup(self, model: nn.Module, structure: StructureMap, context: SetupContext) -> None:
        self.gates = nn.Parameter(1 + 0.1 * torch.randn(8, generator=context.generator))

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        # The last one sleeps for a while, and comes back as another module.
        blocks = [block for name, block in model.named_modules() if name in ("blocks.0", "blocks.1")]
        return [
            block.register_forward_hook(lambda _, inputs, output: output * self.gates) for block in blocks
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gates], "factor": 2.0}]

    def check_steps(self, total: int) -> list[int]:
        return [7]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        self.price = 0.2 + 0.1 * float(torch.rand(1, generator=context.generator))
        return Plan()

    def state_dict(self) -> dict[str, Any]:
        return {"price": self.price}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.price = state["price"]

    def penalty(self, step: StepContext) -> Tensor:
        if step.step == self.killed and os.environ.get("RANK") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return (
            0.05 * step.model.get_parameter("head.weight").square().sum()
            + self.price * self.gates.abs().sum()
        )

    def after_step(self, step: StepContext) -> Plan | None:
        edits: dict[int, list[Any]] = {
            4: [Insert("blocks", 2)],
            6: [Park(STATES, [0, 3])],
            10: [Park(STATES, [1]), Park("blocks.1:sublayer", [0])],
            14: [Wake(STATES, [0, 3]), Wake("blocks.1:sublayer", [0])],
        }
        return Plan(edits=edits.get(step.step, []))


def member(killed: int | None, *arguments: str) -> None:
    Pausing.killed = killed
    METHODS.restore(instead_of_none(Pausing))
    raise SystemExit(main.run(arguments))


def gates(run: Run) -> Tensor:
    training = Checkpoint.load(run.last_checkpoints()[-1]).training
    assert training is not None
    (found,) = training["parameters"]
    assert isinstance(found, Tensor)
    return found


def train(
    folder: Path, count: int, parallel: str = "ddp", killed: int | None = None
) -> tuple[list[int], Path]:
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
                "checkpoint_every": 11,
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
    codes = processes.ended(processes.begun(count, member, killed, "train", str(path), "--quiet"))
    return codes, folder / "pausing" / "v0001"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Run]:
    """Undisturbed ones, by the number of their processes."""
    found = {}
    for count in (1, 2, 3):
        codes, folder = train(tmp_path_factory.mktemp("whole"), count)
        assert codes == [0] * count
        found[count] = Run.open(folder)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_several_processes_park_as_one_does(runs: dict[int, Run], count: int) -> None:
    one, run = runs[1], runs[count]
    alone, several = (Checkpoint.load(each.final_checkpoint) for each in (one, run))
    # After the start and after each of four edits all processes had the same.
    assert [m["step"] for m in run.read_metrics() if "checksum" in m] == [0, 4, 6, 10, 14]
    assert several.orders == alone.orders == {"blocks.0.layer": 5, "blocks.1.layer": 6, "blocks.2.layer": 6}
    assert several.parked.axes[STATES].units == alone.parked.axes[STATES].units == (2,)
    for name, weight in alone.weights.items():
        torch.testing.assert_close(several.weights[name], weight, rtol=1e-5, atol=2e-6)
    shadows = alone.parked.shadows
    assert shadows.keys() == several.parked.shadows.keys()
    for name, shadow in shadows.items():
        torch.testing.assert_close(several.parked.shadows[name].value, shadow.value, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(gates(run), gates(one), rtol=0, atol=1e-6)
    assert float((gates(run) - 1).abs().max()) > 0.1
    losses = [[m["train_loss"] for m in r.read_metrics() if "train_loss" in m] for r in (one, run)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("killed", [8, 12])
def test_the_loss_of_a_process_between_a_cut_and_its_checkpoint_changes_nothing(
    tmp_path: Path, runs: dict[int, Run], killed: int
) -> None:
    """With units parked since the last checkpoint, or in it, as the block is whose hook must come back with it."""
    codes, folder = train(tmp_path, 2, killed=killed)
    assert all(codes)
    run = Run.open(folder)
    assert [Checkpoint.load(path).step for path in run.last_checkpoints()] == ([] if killed == 8 else [11])
    resumed = processes.begun(2, member, None, "train", "--resume", str(folder), "--quiet")
    assert processes.ended(resumed) == [0, 0]
    assert list(reliability.differences(runs[2], run)) == []
    assert torch.equal(gates(run), gates(runs[2]))
    assert Checkpoint.load(run.final_checkpoint).parked.axes[STATES].units == (2,)


def test_a_model_in_parts_cannot_be_changed_at_each_step(tmp_path: Path) -> None:
    codes, folder = train(tmp_path, 2, "fsdp")
    assert codes == [2, 2]
    told = Run.open(folder).read_info()["error"]
    assert (
        "acts after each step, or has hooks or parameters of its own, which a model in parts cannot" in told
    )
