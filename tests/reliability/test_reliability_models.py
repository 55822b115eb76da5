"""Every model in several processes: trained as in one, cut in the middle, gone on with after a kill, bit for bit.

A new model is tested here without a line added.
"""

import shutil
from pathlib import Path
from typing import Any

import processes
import pytest
import reliability
from model_examples import DATA, EXAMPLES, OBJECTIVE, TEXT

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.engine import experiment
from compressm_cli.engine.distributed.group import Group, joined
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, load_recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

STEPS, CUT, BEFORE, AFTER = 6, 3, 2, 4
"""A checkpoint every second step: one before the cut, one after it."""
PADDED = {"task": "listops", "train_rows": 64, "validation_rows": 20, "test_rows": 20}
PADDED |= {"min_length": 4, "max_length": 40}
ROWS = {"encoder": PADDED}
"""Data of models that the conformance tests show rows of equal length."""
KINDS = ["state", "head", "kv_group", "query", "neuron", "channel", "rank"]
HOW: dict[str, dict[str, Any]] = {
    "ddp in parts": {"accumulate": 2},
    "fsdp": {"parallel": "fsdp"},
    "fsdp bf16": {"precision": "bf16", "parallel": "fsdp"},
}
WAYS = [(name, list(HOW)[place % len(HOW)]) for place, name in enumerate(EXAMPLES)]
"""A model in one of them, for a case takes half a minute; all three have passed with each."""
TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}
"""Of losses: sums of gradients are taken in another order."""

pytestmark = pytest.mark.parametrize(("name", "how"), WAYS)


def recipe_of(name: str, how: str, root: Path) -> Recipe:
    # Each process draws dropout for itself.
    settings = {key: value for key, value in EXAMPLES[name].items() if key != "dropout"}
    return recipe_from_mapping(
        {
            "name": "kill",
            "device": "cpu",
            "data": ROWS.get(name, DATA.get(name, TEXT)),
            "model": {"kind": name.partition(":")[0], **settings},
            "objective": OBJECTIVE.get(name),
            "train": {
                "steps": STEPS,
                "batch_size": 10,
                "clip_norm": 1.0,
                "log_every": 1,
                "eval_every": 2,
                "checkpoint_every": 2,
                **HOW[how],
            },
            "compression": {
                "method": "magnitude",
                "kinds": KINDS,
                "keep_fraction": 0.6,
                "schedule": {"kind": "listed", "at_steps": [CUT]},
            },
            "output": {"root": str(root), "keep_last": STEPS},
        },
        "test",
    )


def killed_after(run: Run, step: int, folder: Path) -> Run:
    """A copy of a finished run as a kill some time after the checkpoint of a step leaves it."""
    copy = Run(Path(shutil.copytree(run.folder, folder / "kill" / "v0001")))
    for path in copy.last_checkpoints():
        if int(path.stem.removeprefix("last-")) > step:
            path.unlink()
    copy.final_checkpoint.unlink()
    (copy.folder / "summary.json").unlink()
    copy.write_info({**copy.read_info(), "status": "running"})
    return copy


def go_on(run: Run, group: Group) -> None:
    experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test", group)


def member(name: str, how: str, folder: Path) -> None:
    """What each process does: train, and go on from copies of the run."""
    with joined() as group:
        recipe = recipe_of(name, how, folder)
        run = experiment.start(
            recipe, 0, experiment.load_shared(recipe, group), SilentView(), "test", group=group
        )
        for step in (BEFORE, AFTER):
            go_on(group.from_main(lambda step=step: killed_after(run, step, folder / str(step))), group)


@pytest.mark.slow
def test_two_processes_do_what_one_does_and_go_on_bit_equal(
    name: str, how: str, tmp_path: Path, rough_flops: None
) -> None:
    if name.startswith("external"):
        pytest.importorskip("transformers")
    recipe = recipe_of(name, how, tmp_path / "one")
    one = experiment.start(recipe, 0, experiment.load_data(recipe), SilentView(), "test")
    assert processes.ended(processes.begun(2, member, name, how, tmp_path)) == [0, 0]
    two = Run(tmp_path / "kill" / "v0001")
    tolerance = TOLERANCE[recipe.train.precision]

    assert any(line["after"] < line["before"] for line in one.read_compression())
    assert processes.largest_difference(one, two) < tolerance
    tests = [run.read_summary()["test"] for run in (one, two)]
    assert tests[0]["labels"] == tests[1]["labels"]
    assert tests[1] == pytest.approx(tests[0], rel=tolerance, abs=1e-3)
    assert len(processes.checksums(two)) == 2  # at the start and at the cut

    for step in (BEFORE, AFTER):
        assert list(reliability.differences(two, Run(tmp_path / str(step) / "kill" / "v0001"))) == []
    alone = killed_after(two, AFTER, tmp_path / "alone")
    go_on(alone, Group())
    assert processes.largest_difference(one, alone) < tolerance
    assert Checkpoint.load(alone.final_checkpoint).sizes == Checkpoint.load(two.final_checkpoint).sizes
