"""The memory that a dry run tells, against the tensors that are alive in a run."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from compressm_cli.cli import main
from compressm_cli.engine import experiment, loop, placement, saving, validation
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.forecast import MemoryForecast, forecast
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.memory import _LiveTensors
from compressm_cli.methods.config import SafetyConfig
from compressm_cli.recipe import Recipe, recipe_to_yaml

Maker = Callable[..., Recipe]

MOMENTS = {
    "step": (loop.Trainer, "_update"),
    "evaluation": (validation.Validation, "measure"),
    "check": (placement.Replicated, "plan"),
    "checkpoint": (saving.Saving, "save"),
}


@contextmanager
def peaks(monkeypatch: pytest.MonkeyPatch, known: list[torch.Tensor]) -> Iterator[dict[str, int]]:
    """The most bytes of tensors alive at once, by what the trainer was doing; ``known`` do not count."""
    found: dict[str, int] = {}
    with _LiveTensors(known) as live, monkeypatch.context() as patch:
        for name, (owner, method) in MOMENTS.items():
            original = getattr(owner, method)

            def watched(*args: Any, original: Any = original, name: str = name) -> Any:
                live.peak = live._now
                result = original(*args)
                found[name] = max(found.get(name, 0), live.peak)
                return result

            patch.setattr(owner, method, watched)
        yield found


def recipe(tiny: Maker, kind: str, accumulate: int, **train: Any) -> Recipe:
    return tiny(
        steps=3,
        model={"layer": {"kind": kind, "state_dim": 16}, "model_dim": 32, "dropout": 0.0, "norm": "layer"},
        train={
            "batch_size": 64,
            "accumulate": accumulate,
            "form": "recurrent",
            "eval_every": 3,
            "checkpoint_every": 1,
            **train,
        },
        compression={
            "method": "hankel",
            "keep_fraction": 0.5,
            "schedule": {"kind": "listed", "at_steps": [2]},
        },
    )


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("kind", ["lru", "s4d", "mamba", "mamba2", "gla"])
@pytest.mark.parametrize("accumulate", [1, 16])
def test_what_a_dry_run_tells_is_what_is_alive(
    tiny: Maker, monkeypatch: pytest.MonkeyPatch, kind: str, accumulate: int
) -> None:
    small = {"mamba2": {"head_dim": 8}, "gla": {"heads": 2}}.get(kind, {})
    made = recipe(tiny, kind, accumulate)
    layer = made.model.layer.model_copy(update=small)
    made = made.model_copy(update={"model": made.model.model_copy(update={"layer": layer})})
    told, data = forecast(made).memory, experiment.load_data(made)
    splits = (data.train, data.validation, data.test)
    with peaks(monkeypatch, [t for s in splits for t in (s.inputs, s.labels)]) as found:
        experiment.start(made, 0, data, SilentView(), "test")
    assert set(found) == set(MOMENTS)
    for moment, alive in found.items():
        # A check is told for the most that its layers' statistics may hold, which few rows do not fill.
        assert 0.75 * alive <= getattr(told, moment) <= (2.1 if moment == "check" else 1.05) * alive, moment


def of_processes(made: Recipe, processes: int) -> MemoryForecast:
    return forecast(made, Group(0, processes)).memory


def test_several_processes_share_the_rows(tiny: Maker) -> None:
    """Each has as many at once as one process with as many parts, and the buckets of the gradients beside them."""
    made, parts = recipe(tiny, "mamba", 1), recipe(tiny, "mamba", 4)
    alone, four, as_parts = of_processes(made, 1), of_processes(made, 4), of_processes(parts, 1)
    assert [(m.rows, m.processes) for m in (alone, four, as_parts)] == [(64, 1), (16, 4), (16, 1)]
    assert four.step < 0.35 * alone.step
    assert four.step == pytest.approx(as_parts.step, rel=0.1)
    assert four.check == as_parts.check < alone.check
    # With both the parts' gradients are kept apart from the buckets.
    both = of_processes(parts, 2)
    assert both.rows == 8
    assert both.step > of_processes(made, 8).step


def test_a_model_in_parts_takes_a_share_of_what_stays(tiny: Maker) -> None:
    changes = {"model_dim": 64, "depth": 8}
    wide = recipe(tiny, "lru", 1, parallel="fsdp")
    wide = wide.model_copy(update={"model": wide.model.model_copy(update=changes)})
    two, eight = of_processes(wide, 2), of_processes(wide, 8)
    assert (two.sharded, of_processes(wide, 1).sharded) == (True, False)
    assert eight.checkpoint < two.checkpoint
    copies = wide.model_copy(update={"train": wide.train.model_copy(update={"parallel": "ddp"})})
    assert of_processes(copies, 8).step > eight.step


def test_a_trial_keeps_what_it_may_go_back_to(tiny: Maker) -> None:
    made = recipe(tiny, "lru", 1)
    compression = made.compression.model_copy(update={"safety": SafetyConfig()})
    tried = made.model_copy(update={"compression": compression})
    kept = of_processes(tried, 1).step - of_processes(made, 1).step
    assert kept == 3 * 4 * forecast(made).parameters


def test_the_largest_is_told() -> None:
    told = MemoryForecast(step=1, evaluation=3, check=2, checkpoint=0, rows=1, processes=1, sharded=False)
    assert told.largest == (3, "in evaluations")


def test_a_dry_run_counts_the_rows_that_are_passed_at_once(
    tiny: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(recipe(tiny, "mamba", 1)))
    told = []
    for accumulate in (1, 16):
        assert main.run(["train", str(path), "--dry-run", f"train.accumulate={accumulate}"]) == 0
        row = re.search(r"^ *memory.*?([\d.,]+) (k|M|G)B", capsys.readouterr().out, re.MULTILINE)
        assert row is not None
        told.append(float(row[1].replace(",", "")) * {"k": 1e3, "M": 1e6, "G": 1e9}[row[2]])
    assert told[1] < 0.5 * told[0]
