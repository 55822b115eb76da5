"""A run that was interrupted and resumed ends like one that was not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import trained_once

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine import experiment, validation
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

pytestmark = pytest.mark.usefixtures("rough_flops")

LAYER = "blocks.0.layer"
EVERY = {"checkpoint_every": 5, "log_every": 5, "eval_every": 5}


class Interrupting(SilentView):
    """Presses Ctrl-C when the loop tells of its n-th checkpoint-worthy moment."""

    def __init__(self, step: int, occurrence: int = 1) -> None:
        self.at, self.left = step, occurrence

    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        if step == self.at:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt


def interrupted(recipe: Recipe, train: Trainer, step: int, occurrence: int = 1) -> Run:
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting(step, occurrence))
    return Run.find(Path(recipe.output.root) / recipe.name)[-1]


def resumed(run: Run) -> Run:
    torch.manual_seed(99)  # a fresh process would not have the random state either
    return experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test resume")


def lines(run: Run) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    kept = ({k: v for k, v in m.items() if k not in ("step_seconds", "seconds")} for m in run.read_metrics())
    cuts = ({k: v for k, v in c.items() if k != "seconds"} for c in run.read_compression())
    return list(kept), list(cuts)


def same_run(one: Run, other: Run) -> bool:
    a, b = one.read_summary(), other.read_summary()
    timed = ("seconds", "step_seconds", "joules", "peak_memory", "checkpoint_bytes")
    return lines(one) == lines(other) and all(a[key] == b[key] for key in a if key not in timed)


def cuts(safety: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
    schedule = {"kind": "listed", "at_steps": [8, 16]}
    return {"method": "hankel", "keep_fraction": 0.6, "schedule": schedule, "safety": safety, **changes}


@pytest.mark.parametrize("step", [10, 15, 20, 25])
def test_a_resumed_run_ends_bit_equal(tiny: Maker, train: Trainer, same_weights: Same, step: int) -> None:
    """Interrupted while it evaluates: up to four steps of the log are newer than the checkpoint."""
    recipe = tiny(compression=cuts(None, selection="random"), train=EVERY)
    whole, part = trained_once(recipe), interrupted(recipe, train, step)
    assert Checkpoint.load(part.last_checkpoints()[-1]).step == step - 5
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)
    info = part.read_info()
    assert info["status"] == "done"
    assert [r["step"] for r in info["resumed"]] == [step - 5]


@pytest.mark.parametrize(
    ("verdict", "step", "occurrence"),
    [
        *(("accepted", step, 1) for step in (15, 20, 25)),
        *(("rejected", step, 1) for step in (15, 20, 25)),
        ("rejected", 20, 2),
    ],
)
def test_a_run_resumed_within_a_trial_ends_bit_equal(
    tiny: Maker,
    train: Trainer,
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
    verdict: str,
    step: int,
    occurrence: int,
) -> None:
    """The trial of the cut of step 8 lasts until step 20: it is resumed, or its end is, or what followed."""
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        result = original(model, *args)
        cut_accuracy = 0.0 if verdict == "rejected" else 1.0
        return replace(
            result, metrics={"accuracy": cut_accuracy if surgery.orders(model)[LAYER] < 8 else 0.5}
        )

    monkeypatch.setattr(validation, "evaluate", evaluate)
    safety = {"trial_steps": 12, "tolerance": 0.1, "on_rejection": "stop"}
    recipe = tiny(compression=cuts(safety), train=EVERY)
    whole = train(recipe)
    assert [line["accepted"] for line in whole.read_compression() if line["step"] == 8] == [
        verdict == "accepted"
    ]
    part = interrupted(recipe, train, step, occurrence)
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)


def test_checkpoints_of_an_undone_trial_are_gone(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They bear later steps than what is saved after the cut was undone."""
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        return replace(
            original(model, *args), metrics={"accuracy": 0.0 if surgery.orders(model)[LAYER] < 8 else 0.5}
        )

    monkeypatch.setattr(validation, "evaluate", evaluate)
    safety = {"trial_steps": 12, "on_rejection": "stop"}
    recipe = tiny(compression=cuts(safety), train=EVERY, output={"keep_last": 2})
    whole, part = train(recipe), interrupted(recipe, train, 10, occurrence=2)
    (checkpoint,) = [Checkpoint.load(path) for path in part.last_checkpoints()]
    assert checkpoint.step == 8
    assert checkpoint.training is not None
    assert checkpoint.training["trial"] is None
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)


def test_a_run_killed_after_a_verdict_repeats_the_trial_without_telling_it_twice(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    """The newest checkpoint is of the trial, while the log holds the verdict already."""
    recipe = tiny(compression=cuts({"trial_steps": 4, "tolerance": 1.0}), train={**EVERY, "log_every": 1})
    whole = trained_once(recipe)
    part = interrupted(recipe, train, 15)
    assert [line["step"] for line in part.read_compression()] == [8]
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)


def test_a_torn_last_line_is_forgotten(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    recipe = tiny(compression=cuts(None), train=EVERY)
    whole, part = trained_once(recipe), interrupted(recipe, train, 15)
    for name in ("metrics.jsonl", "compression.jsonl"):
        with (part.folder / name).open("a") as file:
            file.write('{"step": 14, "tra')
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)


def test_entries_of_its_beginnings_may_be_null(tiny: Maker, train: Trainer) -> None:
    part = interrupted(tiny(train=EVERY), train, 15)
    part.write_info({**part.read_info(), "resumed": None, "device": None})
    resumed(part)
    assert [entry["step"] for entry in part.read_info()["resumed"]] == [10]
    assert part.read_info()["device"] == {"threads": torch.get_num_threads()}


def test_a_run_without_a_checkpoint_starts_again(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    recipe = tiny(train=EVERY)
    whole, part = trained_once(recipe), interrupted(recipe, train, 5)
    assert part.last_checkpoints() == []
    # As several processes do before the first step.
    part.append_metrics({"step": 0, "processes": 2, "checksum": "0" * 32})
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)


def test_a_run_can_be_interrupted_and_resumed_twice(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    recipe = tiny(compression=cuts(None), train=EVERY)
    whole, part = trained_once(recipe), interrupted(recipe, train, 10)
    with pytest.raises(KeyboardInterrupt):
        experiment.resume(part, load_recipe(part.recipe_path), Interrupting(25), "test resume")
    resumed(part)
    assert same_weights(whole, part)
    assert same_run(whole, part)
    assert [r["step"] for r in part.read_info()["resumed"]] == [5, 20]


def test_seconds_of_the_parts_add_up(tiny: Maker, train: Trainer) -> None:
    part = interrupted(tiny(train=EVERY), train, 20)
    saved = Checkpoint.load(part.last_checkpoints()[-1]).training
    assert saved is not None
    resumed(part)
    assert part.read_summary()["seconds"]["total"] > saved["clock"]["total"]
    assert part.read_summary()["seconds"]["evaluation"] > saved["clock"]["evaluation"]


def test_a_finished_run_is_not_resumed(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=2))
    with pytest.raises(BadInputError, match="this run is done; there is nothing to resume"):
        resumed(run)


def test_a_checkpoint_without_the_state_of_training_is_bad_input(tiny: Maker, train: Trainer) -> None:
    run = interrupted(tiny(train=EVERY), train, 10)
    (path,) = run.last_checkpoints()
    checkpoint = Checkpoint.load(path)
    checkpoint.training = None
    checkpoint.save(path)
    with pytest.raises(BadInputError, match="has no state of training"):
        resumed(run)
