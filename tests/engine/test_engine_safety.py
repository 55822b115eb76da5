"""The way back: a rejected cut leaves no trace in training, an accepted one stays."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_runs import killed, with_method
from torch import Tensor, nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.engine import experiment, loop, validation
from compressm_cli.engine.view import SilentView
from compressm_cli.layers.interface import state_axis
from compressm_cli.methods.method import CheckContext, StepContext
from compressm_cli.methods.none import NoCompression
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.plan import Plan, UnitRecord

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

pytestmark = pytest.mark.usefixtures("rough_flops")

LAYER = "blocks.0.layer"
UNCUT = 8


def cuts(*steps: int, **changes: Any) -> dict[str, Any]:
    safety = {"trial_steps": 5, "tolerance": 0.0, **changes.pop("safety", {})}
    schedule = {"kind": "listed", "at_steps": list(steps)}
    return {"method": "hankel", "target_order": 2, "schedule": schedule, "safety": safety, **changes}


@pytest.fixture
def cuts_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was cut evaluates as if it had forgotten everything."""
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        result = original(model, *args)
        whole = surgery.orders(model)[LAYER] == UNCUT
        return replace(result, metrics={"accuracy": 0.5 + result.metrics["accuracy"] / 2 if whole else 0.0})

    monkeypatch.setattr(validation, "evaluate", evaluate)


@pytest.fixture
def cuts_help(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that was cut evaluates as perfect."""
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        result = original(model, *args)
        return replace(
            result,
            metrics={
                "accuracy": result.metrics["accuracy"] / 2 if surgery.orders(model)[LAYER] == UNCUT else 1.0
            },
        )

    monkeypatch.setattr(validation, "evaluate", evaluate)


def tensors(value: Any, path: str = "") -> dict[str, Tensor]:
    """All tensors in nested containers, by path."""
    if isinstance(value, Tensor):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return {name: t for key, inner in items for name, t in tensors(inner, f"{path}/{key}").items()}


SPENT = ("step_seconds", "seconds", "flops")
"""What steps that are undone cost, too."""


def metrics(run: Run) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in SPENT} for line in run.read_metrics()]


@pytest.mark.usefixtures("cuts_hurt")
@pytest.mark.parametrize("moments", ["reset", "transport"])
def test_a_rejected_cut_leaves_no_trace(
    tiny: Maker, train: Trainer, same_weights: Same, moments: str
) -> None:
    """Weights, optimizer, random state and position in the data are bit by bit those of a run without cuts."""
    rhythm = {"checkpoint_every": 12}  # a checkpoint within the trial of steps 11 to 15
    keep = {"keep_last": 2}
    compression = cuts(10, safety={"on_rejection": "stop"}, moments=moments)
    tried = train(tiny(compression=compression, train=rhythm, output=keep))
    uncut = train(tiny(train=rhythm, output=keep))
    assert same_weights(tried, uncut)
    one, other = (Checkpoint.load(run.last_checkpoints()[0]) for run in (tried, uncut))
    assert one.step == other.step == 24
    assert one.training is not None
    assert other.training is not None
    for part in (lambda t: t["optimizer"], lambda t: t["processes"][0]["random"]):
        a, b = tensors(part(one.training)), tensors(part(other.training))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)
    after_cut = [line for line in metrics(tried) if line.get("after_cut")]
    assert [line["step"] for line in after_cut] == [10]
    left = [line for line in metrics(tried) if line not in after_cut]
    # The cut begins a new window of logging and an evaluation of its own, at a step that has one anyway.
    assert left == metrics(uncut)
    assert tried.read_summary()["validation"] == uncut.read_summary()["validation"]
    assert tried.read_summary()["test"] == uncut.read_summary()["test"]


@pytest.mark.usefixtures("cuts_hurt")
def test_a_rejected_cut_is_told(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(compression=cuts(10, 13, 20, safety={"on_rejection": "stop"})))
    lines = run.read_compression()
    assert [(line["step"], line["accepted"]) for line in lines] == [(10, False), (13, None), (20, None)]
    assert lines[0]["order_after"] < lines[0]["order_before"] == UNCUT
    assert "validation accuracy" in lines[0]["reason"]
    assert "after 5 further steps" in lines[0]["reason"]
    assert {line["reason"] for line in lines[1:]} == {
        "nothing cut: an earlier cut was rejected; no further cuts"
    }
    summary = run.read_summary()
    assert summary["checks"] == {"made": 3, "cut": 1, "rejected": 1}
    assert summary["orders"]["final"] == {LAYER: UNCUT}
    assert summary["flops"]["training"] > 30 * summary["flops"]["training_final_per_step"]
    assert summary["step_seconds"]["final"] > 0


@pytest.mark.usefixtures("cuts_hurt")
def test_later_cuts_are_gentler(tiny: Maker, train: Trainer) -> None:
    run = train(
        tiny(compression=cuts(5, 15, 25, realization="complex", target_order=None, keep_fraction=0.5))
    )
    lines = run.read_compression()
    assert [(line["step"], line["order_after"], line["accepted"]) for line in lines] == [
        (5, 4, False),
        (15, 6, False),
        (25, 7, False),
    ]
    assert run.read_summary()["checks"] == {"made": 3, "cut": 3, "rejected": 3}


@pytest.mark.usefixtures("cuts_help")
def test_an_accepted_cut_stays(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    run = train(tiny(compression=cuts(10)))
    (line,) = run.read_compression()
    assert line["accepted"] is True
    assert "after 5 further steps" in line["reason"]
    trained_with = [m["orders"][LAYER] for m in run.read_metrics() if "orders" in m]
    assert trained_with == [UNCUT] * 10 + [line["order_after"]] * 20
    assert run.read_summary()["checks"] == {"made": 1, "cut": 1, "rejected": 0}
    unguarded = {**cuts(10), "safety": None}
    assert same_weights(run, train(tiny(compression=unguarded)))


@pytest.mark.usefixtures("cuts_help")
def test_a_check_within_a_trial_waits_and_one_at_its_end_does_not(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(compression=cuts(10, 12, 15, target_order=None, keep_fraction=0.5, min_reduction=0.0)))
    lines = sorted(run.read_compression(), key=lambda line: line["step"])
    assert [(line["step"], line["accepted"]) for line in lines] == [(10, True), (12, None), (15, True)]
    assert "still on trial" in lines[1]["reason"]
    assert run.read_summary()["checks"] == {"made": 2, "cut": 2, "rejected": 0}


@pytest.mark.usefixtures("cuts_help")
def test_the_best_checkpoint_is_never_one_on_trial(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(compression=cuts(10), train={"eval_every": 2}))
    assert Checkpoint.load(run.best_checkpoint).step == 15
    assert run.read_summary()["validation"]["best_step"] == 15


@pytest.mark.usefixtures("cuts_hurt")
def test_a_cut_that_is_undone_never_was_the_best(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(compression=cuts(10, safety={"trial_steps": 8}), train={"eval_every": 3}))
    assert Checkpoint.load(run.best_checkpoint).orders == {LAYER: UNCUT}


@pytest.mark.parametrize("trial_steps", [1, 100])
@pytest.mark.usefixtures("cuts_hurt")
def test_a_trial_ends_with_the_run(tiny: Maker, train: Trainer, same_weights: Same, trial_steps: int) -> None:
    """Also a cut at the very last step is judged."""
    run = train(
        tiny(steps=12, compression=cuts(12, safety={"trial_steps": trial_steps, "on_rejection": "stop"}))
    )
    assert [line["accepted"] for line in run.read_compression()] == [False]
    assert same_weights(run, train(tiny(steps=12)))
    assert sum(line["step"] == 12 and "validation_loss" in line for line in run.read_metrics()) == 2


@pytest.mark.usefixtures("cuts_hurt")
def test_a_trial_longer_than_the_rest_of_the_run_is_repeated_without_the_cut(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    run = train(tiny(steps=12, compression=cuts(9, safety={"trial_steps": 100, "on_rejection": "stop"})))
    assert "after 3 further steps" in run.read_compression()[0]["reason"]
    assert same_weights(run, train(tiny(steps=12)))
    steps = [line["step"] for line in run.read_metrics() if "train_loss" in line]
    assert steps == list(range(1, 13))


def test_a_cut_that_diverges_on_trial_is_undone(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(self: loop.Trainer) -> None:
        original(self)
        if surgery.orders(self.state.model)[LAYER] < UNCUT:
            self.running_loss.loss += torch.nan

    uncut = train(tiny())
    original = loop.Trainer._update
    monkeypatch.setattr(loop.Trainer, "_update", explode)
    run = train(tiny(compression=cuts(10, safety={"on_rejection": "stop", "tolerance": 1.0})))
    (line,) = run.read_compression()
    assert line["accepted"] is False
    assert "the training loss became nan" in line["reason"]
    assert same_weights(run, uncut)


def test_a_fall_of_exactly_the_tolerance_is_accepted(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        return replace(
            original(model, *args),
            metrics={"accuracy": 0.97 if surgery.orders(model)[LAYER] == UNCUT else 0.95},
        )

    monkeypatch.setattr(validation, "evaluate", evaluate)
    run = train(tiny(compression=cuts(10, safety={"tolerance": 0.02})))
    assert [line["accepted"] for line in run.read_compression()] == [True]
    run = train(tiny(compression=cuts(10, safety={"tolerance": 0.0199, "on_rejection": "stop"})))
    assert [line["accepted"] for line in run.read_compression()] == [False]


class Counting(NoCompression):
    """Remembers each step that it saw, and draws at each; keeps half of the states at step 10, once."""

    cuts = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.seen: list[int] = []
        self.planned = self.rejections = 0

    def check_steps(self, total: int) -> list[int]:
        return [10]

    def after_backward(self, step: StepContext) -> None:
        self.seen.append(step.step)
        float(torch.rand(1, generator=step.generator))

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        self.planned += 1
        float(torch.rand(1, generator=context.generator))
        return Plan([Keep(state_axis(LAYER), [0, 1, 2, 3])]) if self.cuts else Plan()

    def rejected(self, records: list[UnitRecord]) -> None:
        self.rejections += 1

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen, "planned": self.planned, "rejections": self.rejections}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seen, self.planned, self.rejections = state["seen"], state["planned"], state["rejections"]


class Leaving(Counting):
    """The same without a cut."""

    cuts = False


def known(run: Run) -> tuple[dict[str, Any], Tensor]:
    """What the method remembers at the end of a run, and its generator."""
    training = Checkpoint.load(run.last_checkpoints()[-1]).training
    assert training is not None
    return training["method"], training["generator"]


@pytest.mark.usefixtures("cuts_hurt")
def test_of_a_rejected_trial_the_method_remembers_its_plan_and_that_it_was_rejected(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of its steps, which are trained once more; so too where the run is resumed within the trial."""
    safety = {"trial_steps": 5, "tolerance": 0.0}
    made = tiny(steps=20, compression={"method": "none", "safety": safety}, train={"checkpoint_every": 12})
    with_method(monkeypatch, Leaving)
    uncut, generator = known(train(made))
    assert uncut == {"seen": list(range(1, 21)), "planned": 1, "rejections": 0}
    with_method(monkeypatch, Counting)
    whole = train(made)
    assert known(whole)[0] == {**uncut, "rejections": 1}
    assert torch.equal(known(whole)[1], generator)
    part = killed(made, 14)
    assert Checkpoint.load(part.last_checkpoints()[-1]).step == 12
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert known(part)[0] == {**uncut, "rejections": 1}
    assert torch.equal(known(part)[1], generator)
