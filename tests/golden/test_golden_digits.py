"""A tiny run whose losses and orders are known: what changes them unawares is found here.

``python tests/golden/test_golden_digits.py`` writes the file anew, after a change that was meant; its difference then
tells what the change did.
"""

import tempfile
from pathlib import Path

import pytest
import torch

from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.ops.forms import FORMS
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

GOLDEN = Path(__file__).with_name("digits_lru_hankel.txt")
TOLERANCE = 1e-4
"""Relative, of a loss. Machines add up float32 in different orders: with kernels for other processors this run's
losses differed by up to 3e-7; gentle settings keep such differences from growing. A change that matters is far above:
keeping Adam's moments by index, instead of none, moves a loss by 2e-3. No Hankel energy comes nearer to the threshold
than 3e-3, so orders do not flip either."""


def recipe(root: str, form: str = "recurrent") -> Recipe:
    return recipe_from_mapping(
        {
            "name": "golden",
            "device": "cpu",
            "data": {"task": "digits"},
            "model": {"layer": {"kind": "lru", "state_dim": 16}, "model_dim": 16, "depth": 2},
            "train": {
                "steps": 60,
                "batch_size": 64,
                "learning_rate": 1e-2,
                "log_every": 5,
                "eval_every": 20,
                "form": form,
            },
            "compression": {
                "method": "hankel",
                "energy_threshold": 0.93,
                "realization": "real",
                "gramian": "analytic",
                "horizon": "infinite",
                "moments": "reset",
                "schedule": {"kind": "listed", "at_steps": [15, 30]},
            },
            "output": {"root": root},
        },
        "golden",
    )


def lines_of(root: str, form: str = "recurrent") -> list[str]:
    """``step  training loss or 'validation' loss  orders``, one line a logged step or evaluation."""
    torch.set_num_threads(1)
    wanted = recipe(root, form)
    run: Run = experiment.start(wanted, 0, experiment.load_data(wanted), SilentView(), "golden")
    lines = []
    for metric in run.read_metrics():
        if "train_loss" in metric:
            orders = " ".join(map(str, metric["orders"].values()))
            lines.append(f"{metric['step']:>4}  train       {metric['train_loss']:.7f}  {orders}")
        else:
            kind = "after cut " if metric.get("after_cut") else "validation"
            lines.append(f"{metric['step']:>4}  {kind}  {metric['validation_loss']:.7f}")
    return lines


def parsed(lines: list[str]) -> list[tuple[str, str, float, str]]:
    return [(t[:4], t[6:16], float(t[18:27]), t[27:].strip()) for t in lines]


@pytest.mark.parametrize("form", FORMS)
def test_losses_and_orders_are_the_golden_ones_in_every_form(tmp_path: Path, form: str) -> None:
    found = parsed(lines_of(str(tmp_path), form))
    expected = parsed(GOLDEN.read_text(encoding="utf-8").splitlines())
    assert [(step, kind, orders) for step, kind, _, orders in found] == [
        (step, kind, orders) for step, kind, _, orders in expected
    ]
    losses = [loss for _, _, loss, _ in expected]
    assert [loss for _, _, loss, _ in found] == pytest.approx(losses, rel=TOLERANCE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        GOLDEN.write_text("\n".join(lines_of(folder)) + "\n", encoding="utf-8")
    print(GOLDEN)
