"""Records of any units: a trial of whatever a method does is saved, resumed and concluded as if nothing had been."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import instead_of_none
from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import RunFailedError
from compressm_cli.engine import experiment
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.view import SilentView
from compressm_cli.layers.interface import state_axis
from compressm_cli.methods import METHODS
from compressm_cli.methods.method import CheckContext, Method, StepContext
from compressm_cli.methods.none import NoCompression, NoCompressionConfig
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure.edits import Keep, MaskEntries, Park, Train
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.plan import Plan, UnitRecord, line_of_today
from compressm_cli.structure.store import parked

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]
STATES = [state_axis(f"blocks.{i}.layer") for i in range(2)]
BLOCK = "blocks.0:sublayer"
HALF = torch.arange(8)[None, :] % 2 > 0


def plans() -> dict[str, Plan]:
    """What is tried, with records that are not one a layer."""
    entries = UnitRecord("head.weight", "entries", 80, 40, "every other one", details={"why": [1, None, "x"]})
    both = UnitRecord("blocks.*.layer:states", "state", 16, 12, "four of all", scores=[0.5, 0.25])
    frozen = UnitRecord("encoder", "tensors", 2, 0, "frozen")
    return {
        "none at all": Plan([MaskEntries("head.weight", HALF)]),
        "entries": Plan([MaskEntries("head.weight", HALF)], [entries]),
        "one for two axes": Plan([Keep(STATES[0], range(6)), Keep(STATES[1], range(6))], [both]),
        "parked": Plan([Park(STATES[0], [1, 5]), Train(["encoder.*"], active=False)], [both, frozen]),
        "a block parked": Plan([Park(BLOCK, [0])], [UnitRecord(BLOCK, "sublayer", 1, 0, "asleep")]),
        "a block gone": Plan([Keep(BLOCK, [])], [UnitRecord(BLOCK, "sublayer", 1, 0, "gone")]),
        "a block more": Plan([Insert("blocks", 1)], [UnitRecord("blocks", "sublayer", 2, 3, "grown")]),
    }


class Trying(Method):
    """Makes its plan at step 10, and remembers what it was told of it."""

    Config = NoCompressionConfig
    case: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.told: list[Any] = []

    def check_steps(self, total: int) -> list[int]:
        return [10, 13]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return plans()[self.case]

    def accepted(self, records: list[UnitRecord]) -> None:
        self.told.append(["accepted", [record.line() for record in records]])

    def rejected(self, records: list[UnitRecord]) -> None:
        self.told.append(["rejected", [record.line() for record in records]])

    def state_dict(self) -> dict[str, Any]:
        return {"told": self.told}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.told = state["told"]


def with_method(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setattr(Trying, "case", case, raising=False)
    monkeypatch.setattr(METHODS, "_entries", instead_of_none(Trying))


def tried(tiny: Maker) -> Recipe:
    """Of some steps, with a trial of each plan and a checkpoint after every fourth step."""
    compression = {"method": "none", "safety": {"trial_steps": 5, "tolerance": 0.0}}
    return tiny(steps=20, compression=compression, model={"depth": 2}, train={"checkpoint_every": 4})


class Died(BaseException):
    """Stands for a kill."""


def told(run: Run) -> Any:
    training = Checkpoint.load(run.last_checkpoints()[-1]).training
    assert training is not None
    return training["method"]["told"]


def without_times(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if "seconds" not in k} for line in lines]


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize(
    ("case", "kept"),
    [
        ("none at all", True),
        ("entries", False),
        ("one for two axes", True),
        ("parked", True),
        ("parked", False),
        ("a block parked", False),
        ("a block gone", False),
        ("a block more", False),
        ("a block more", True),
    ],
)
def test_a_trial_goes_on_after_a_kill_as_without(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch, case: str, kept: bool
) -> None:
    """The method hears the same, the logs say the same, and the weights are bit-equal."""
    with_method(monkeypatch, case)
    monkeypatch.setattr(Trial, "verdict", lambda *_: (kept, "as the test wants"))
    made = tried(tiny)
    whole = train(made)
    assert [how for how, _ in told(whole)] == (["accepted"] if kept else ["rejected", "rejected"])

    class Dying(SilentView):
        def step(self, step: int, *_: Any) -> None:
            if step == 13:
                raise Died

    with pytest.raises(Died):
        experiment.start(made, 0, experiment.load_data(made), Dying(), "test")
    (part,) = [run for run in Run.find(whole.folder.parent) if run.folder != whole.folder]
    saved = Checkpoint.load(part.last_checkpoints()[-1])
    assert saved.training is not None
    assert len(saved.training["trial"]["records"]) == len(plans()[case].records)
    asleep = {"parked": {STATES[0]: (1, 5)}, "a block parked": {BLOCK: (0,)}}
    assert parked(saved.build_model()) == asleep.get(case, {})
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert same_weights(whole, part)
    assert told(whole) == told(part)
    for log in (Run.read_metrics, Run.read_compression):
        assert without_times(log(whole)) == without_times(log(part))
    assert {line["step"] for line in whole.read_compression()} == (
        set() if case == "none at all" else {10, 13}
    )


@pytest.mark.usefixtures("rough_flops")
def test_a_record_that_a_checkpoint_could_not_hold_ends_the_run_at_its_check(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_method(monkeypatch, "entries")
    for details, why in [
        ({"why": torch.ones(1)}, "details"),
        ({"why": math.nan}, "details: not plain data of finite numbers"),
        ({"reason": "mine"}, "details: 'reason' is a key of every record"),
    ]:
        record = UnitRecord("head.weight", "entries", 80, 40, "every other one", details=details)
        monkeypatch.setattr(
            Trying, "plan", lambda *_, r=record: Plan([MaskEntries("head.weight", HALF)], [r])
        )
        with pytest.raises(RunFailedError, match=f"none: its record of head.weight: {why}"):
            train(tried(tiny))


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize(
    ("field", "value"), [("scores", [math.nan]), ("scores", 3), ("before", 1.5), ("kind", 7)]
)
def test_a_record_that_is_none_ends_the_run_at_its_check(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, field: str, value: Any
) -> None:
    with_method(monkeypatch, "entries")
    record = UnitRecord(**{"unit": "it", "kind": "x", "before": 8, "after": 8, "reason": "", field: value})
    monkeypatch.setattr(Trying, "plan", lambda *_: Plan([], [record]))
    with pytest.raises(RunFailedError, match=f"none: its record of it: {field} must be "):
        train(tried(tiny))


class Forgetting(NoCompression):
    """From step 15 on there is something that no checkpoint may have."""

    case: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.step = 0

    def after_backward(self, step: StepContext) -> None:
        self.step = step.step

    def state_dict(self) -> Any:
        wrong: dict[str, Any] = {"text": "text", "refused": {"x": 1}}
        return wrong.get(self.case, {}) if self.step >= 15 else {}

    def validate(self, state: dict[str, Any], model: nn.Module) -> None:
        if "x" in state:
            raise ValueError("x: not allowed")


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize(
    ("case", "why"),
    [
        ("text", "state_dict: returned the text 'text'; it must be a mapping"),
        (
            "refused",
            "what there is after step 20 could not be read again from a checkpoint: training.method.x: not allowed",
        ),
    ],
)
def test_what_could_not_be_read_again_is_not_written(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, case: str, why: str
) -> None:
    """The run fails, and goes on from the last good checkpoint once the method is mended."""
    Forgetting.case = case
    monkeypatch.setattr(METHODS, "_entries", instead_of_none(Forgetting))
    recipe = tiny(train={"checkpoint_every": 10})
    with pytest.raises(RunFailedError, match=f"none: {why}"):
        train(recipe)
    run = Run.open(Path(recipe.output.root) / recipe.name / "v0001")
    assert [path.name for path in run.checkpoints.glob("last-*")] == ["last-000000010.pt"]
    Forgetting.case = "mended"
    resumed = experiment.resume(run, load_recipe(run.recipe_path), SilentView(), "test")
    assert resumed.read_summary()["steps"] == 30


@pytest.mark.usefixtures("rough_flops")
def test_a_plan_that_is_refused_leaves_its_records_without_a_change(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_method(monkeypatch, "entries")
    record = UnitRecord("blocks.*", "state", 16, 12, "some", scores=[0.5])
    monkeypatch.setattr(Trying, "plan", lambda *_: Plan([Keep(STATES[0], range(9))], [replace(record)]))
    run = train(tried(tiny))
    assert told(run) == []
    for line in run.read_compression():
        assert (line["before"], line["after"], line["accepted"], line["scores"]) == (16, 16, None, [0.5])
        assert line["reason"].startswith("nothing cut: refused: ")


def test_lines_of_earlier_versions_are_read_as_those_of_today() -> None:
    now = UnitRecord(STATES[0], "state", 8, 5, "cut", details={"hsv": [2.0, 1.0]}).line()
    new = {"unit", "kind", "before", "after"}
    earlier = {key: value for key, value in now.items() if key not in new}
    assert line_of_today(now) == now
    assert line_of_today(earlier) == now
    assert earlier["layer"] == "blocks.0.layer"
    assert set(UnitRecord("a", "head", 8, 5, "cut").line()) == {*new, "reason", "seconds"}
