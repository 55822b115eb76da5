"""The budget of a run: arithmetic by hand, runs that reinvest or save, and runs that are interrupted."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_longer import Telling, longer
from test_engine_resume import LAYER, cuts, interrupted, lines, resumed, same_run

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine import budget, divergence, experiment, loop, saving, train_state, validation
from compressm_cli.engine.course import Course
from compressm_cli.engine.optimizer import learning_rate
from compressm_cli.measure import joules
from compressm_cli.measure.clock import Stopwatch
from compressm_cli.measure.joules import JouleMeter
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.recipe.budget import BudgetConfig
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

pytestmark = pytest.mark.usefixtures("rough_flops")

EVERY = {"checkpoint_every": 4, "log_every": 2, "eval_every": 4, "steps": 20}


def course(steps: int, uncut: float | None, **budget: Any) -> Course:
    return Course(steps, BudgetConfig(**budget), uncut)


# ---- arithmetic ----------------------------------------------------------------------------------------


def test_a_share_of_the_recipe_without_compression_by_hand() -> None:
    known = course(600, 7, flops="0.65x")
    assert known.limit == 2730  # 0.65 * 600 * 7
    assert known.total == known.planned == 390
    assert not known.is_over(389, 389 * 7)
    assert known.is_over(390, 390 * 7)
    # A quarter at the full price, three quarters at 2 FLOPs a step: 97.5 and 1,023.75 steps.
    assert known.at(98 + 100, 98 * 7 + 100 * 2) == pytest.approx((98 * 7 + 200) / 2730 * 390)
    assert known.left(98, 98 * 7, 2) == math.ceil((2730 - 98 * 7) / 2)


@pytest.mark.parametrize("uncut", [1, 7, 123_456_789, 4_611_686_018_427_387_903])
@pytest.mark.parametrize("reinvest", [True, False])
def test_where_nothing_is_saved_a_position_is_a_step_to_the_bit(uncut: int, reinvest: bool) -> None:
    train = TrainConfig(steps=997, warmup=0.1)
    known = course(997, uncut, flops="1x", reinvest=reinvest)
    for step in range(1, 998):
        position = known.at(step, step * uncut)
        assert position == step
        assert learning_rate(train, position, known.total) == learning_rate(train, step)
        assert known.is_over(step, step * uncut) == (step == 997)


def test_a_number_of_flops_is_so_many_steps_of_the_uncut_model() -> None:
    known = course(600, 7, flops=1000.0)
    assert known.planned == Fraction(1000, 7)
    assert known.total == 143
    assert known.at(0, 0) == 0
    assert known.at(143, 1001) == 143
    assert (known.is_over(142, 994), known.is_over(143, 1001)) == (False, True)


def test_what_is_saved_is_left_without_reinvesting() -> None:
    known = course(100, 10, flops="0.5x", reinvest=False)
    assert (known.total, known.limit) == (100, 500)
    assert known.at(20, 200) == 40.0  # by what was spent, as long as that is more than its steps
    assert known.at(90, 400) == 90.0
    assert known.is_over(50, 500)
    assert known.is_over(100, 450)
    assert known.left(90, 400, 5) == 10
    assert known.left(10, 400, 50) == 2


@pytest.mark.parametrize(("flops", "told"), [(6.0, "less than a step"), (1e6, "more than 100 times")])
def test_a_budget_of_another_magnitude_is_refused(tiny: Maker, flops: float, told: str) -> None:
    recipe = tiny(steps=600).model_copy(update={"budget": BudgetConfig(flops=flops)})
    with pytest.raises(BadInputError, match=f"budget.flops: .*{told}.*600 steps.*such as 0.65x"):
        Course.of(recipe, 7)
    Course.of(recipe, flops / 10)


def test_a_share_of_less_than_a_step_is_refused(tiny: Maker) -> None:
    recipe = tiny(steps=600)
    told = r"0.001x of the recipe without .* less than a step of its 600 .*write a share of 1 / 600 or more"
    with pytest.raises(BadInputError, match=f"budget.flops: {told}"):
        Course.of(with_budget(recipe, flops="0.001x"), None)
    Course.of(with_budget(recipe, flops="0.002x"), None)


@pytest.mark.parametrize(
    ("unit", "amount"),
    [("seconds", 1e-300), ("seconds", 1e300), ("joules", 1e-9), ("joules", 1e300), ("flops", 1e300)],
)
def test_an_amount_of_no_run_is_refused(unit: str, amount: float) -> None:
    with pytest.raises(ValueError, match=rf"is out of range; write from .* to .* {unit}"):
        BudgetConfig.model_validate({unit: amount})


# ---- runs ----------------------------------------------------------------------------------------------


def with_budget(recipe: Recipe, **budget: Any) -> Recipe:
    return recipe.model_copy(update={"budget": BudgetConfig(**budget)})


def metrics(run: Run) -> list[dict[str, Any]]:
    """Without the progress, which a run without a budget does not tell."""
    return [{k: v for k, v in line.items() if k != "progress"} for line in lines(run)[0]]


def losses(run: Run) -> list[dict[str, Any]]:
    return [line for line in lines(run)[0] if "train_loss" in line]


def test_a_budget_that_nothing_is_saved_of_changes_nothing(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    recipe = tiny(train=EVERY)
    plain, whole = train(recipe), train(with_budget(recipe, flops="1x"))
    assert same_weights(plain, whole)
    assert metrics(plain) == metrics(whole)
    assert "progress" not in plain.read_metrics()[0]
    assert [m["progress"] for m in whole.read_metrics() if "train_loss" in m] == [
        n / 20 for n in range(2, 21, 2)
    ]
    assert "budget" not in plain.read_summary()

    half = train(with_budget(recipe, flops="0.5x"))
    short = train(tiny(train={**EVERY, "steps": 10}))
    assert same_weights(half, short)
    assert metrics(half) == metrics(short)
    assert half.read_summary()["steps"] == 10


def cut_early(**changes: Any) -> dict[str, Any]:
    schedule = {"kind": "listed", "fractions": [0.25, 0.5]}
    return cuts(None, keep_fraction=0.5, schedule=schedule, **changes)


def test_what_a_cut_saves_becomes_more_steps(tiny: Maker, train: Trainer) -> None:
    every = {**EVERY, "log_every": 1}
    run = train(with_budget(tiny(compression=cut_early(), train=every), flops="1x"))
    summary, found = run.read_summary(), run.read_summary()["budget"]
    start, last = (summary["flops"][f"training_{when}_per_step"] for when in ("start", "final"))
    assert found["limit"] == 20 * start
    assert found["limit"] <= found["spent"] < found["limit"] + last
    assert summary["flops"]["training"] == found["spent"]
    assert found["steps"] == {"planned": 20, "done": summary["steps"]}
    checks = [line["step"] for line in run.read_compression()]
    # The first after a quarter of the way, five steps; then steps cost less until half of it is spent.
    assert checks[0] == 5
    price = {m["step"]: m["progress"] for m in losses(run)}
    assert checks == [5, checks[1]]
    assert checks[1] > 10
    middle = round((price[8] - price[6]) / 2 * 20 * start)  # of a step after the first cut
    assert middle < start
    assert checks[1] == 5 + math.ceil(5 * start / middle)
    spent = 5 * start + (checks[1] - 5) * middle
    assert summary["steps"] == checks[1] + math.ceil((20 * start - spent) / last) > 20
    assert Checkpoint.load(run.final_checkpoint).step == summary["steps"]
    end = losses(run)[-1]
    assert (end["step"], end["learning_rate"], end["progress"]) == (summary["steps"], 0.0, 1.0)


def test_without_reinvesting_the_steps_stay(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    recipe = tiny(compression=cut_early(), train=EVERY)
    plain, run = train(recipe), train(with_budget(recipe, flops="1x", reinvest=False))
    assert same_weights(plain, run)
    assert metrics(plain) == metrics(run)
    found = run.read_summary()["budget"]
    assert found["steps"] == {"planned": 20, "done": 20}
    assert found["share"] == found["spent"] / found["limit"] < 1
    capped = train(with_budget(recipe, flops="0.3x", reinvest=False)).read_summary()
    assert capped["steps"] < 20
    assert capped["budget"]["spent"] >= capped["budget"]["limit"]


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Sets what the accuracy of a model that was cut is."""
    original, told = validation.evaluate, {"cut": 1.0}

    def evaluate(model: Any, *args: Any) -> Any:
        result = original(model, *args)
        accuracy = told["cut"] if surgery.orders(model)[LAYER] < 8 else 0.5
        return replace(result, metrics={"accuracy": accuracy})

    monkeypatch.setattr(validation, "evaluate", evaluate)
    return told


@pytest.mark.parametrize(("accuracy", "reinvest"), [(1.0, True), (1.0, False), (0.0, True)])
def test_a_resumed_run_ends_bit_equal(
    tiny: Maker,
    train: Trainer,
    same_weights: Same,
    verdicts: dict[str, float],
    reinvest: bool,
    accuracy: float,
) -> None:
    """Interrupted within the trial of the cut of step 5, and past what were to be the steps, or at the end of them."""
    verdicts["cut"] = accuracy
    safety = {"trial_steps": 4, "tolerance": 0.1, "on_rejection": "gentler"}
    compression = {**cut_early(selection="random"), "safety": safety}
    recipe = with_budget(tiny(compression=compression, train=EVERY), flops="1x", reinvest=reinvest)
    whole = train(recipe)
    steps = whole.read_summary()["steps"]
    verdict = {line["accepted"] for line in whole.read_compression() if line["step"] == 5}
    assert (accuracy == 1.0) in verdict
    for step in (8, 4 * (steps // 4)):
        part = interrupted(recipe, train, step)
        resumed(part)
        assert same_weights(whole, part), step
        assert same_run(whole, part), step


def test_a_rejected_cut_is_paid_for(tiny: Maker, train: Trainer, verdicts: dict[str, float]) -> None:
    verdicts["cut"] = 0.0
    safety = {"trial_steps": 4, "tolerance": 0.1, "on_rejection": "stop"}
    schedule = {"kind": "listed", "at_steps": [5]}
    recipe = tiny(compression=cuts(safety, schedule=schedule), train=EVERY)
    run = train(with_budget(recipe, flops="1x"))
    summary, found = run.read_summary(), run.read_summary()["budget"]
    assert [(line["step"], line["accepted"]) for line in run.read_compression()] == [(5, False)]
    assert found["spent"] >= found["limit"]
    assert found["spent"] - found["limit"] < summary["flops"]["training_start_per_step"]
    assert 20 - 4 <= summary["steps"] < 20


def test_a_cut_that_is_undone_with_all_spent_is_told(
    tiny: Maker, train: Trainer, verdicts: dict[str, float]
) -> None:
    verdicts["cut"] = 0.0
    for at, warned in ((5, False), (18, True)):
        safety = {"trial_steps": 4, "tolerance": 0.1, "on_rejection": "stop"}
        schedule = {"kind": "listed", "at_steps": [at]}
        view = Telling()
        train(
            with_budget(tiny(compression=cuts(safety, schedule=schedule), train=EVERY), flops="1x"), view=view
        )
        told = (
            f"the cut of step {at} was undone with nothing left of the budget: the run ends with the weights"
        )
        assert any(told in line for line in view.told) == warned


def test_a_rollback_with_nothing_left_of_the_budget_fails_the_run(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end with the model of the checkpoint, trained little or not at all."""
    original = divergence.require_finite

    def once(model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        if step == 20:
            raise divergence.DivergedError("a weight is not finite after step 20")
        original(model, optimizer, step)

    monkeypatch.setattr(train_state, "require_finite", once)
    back = {"action": "roll_back", "lr_factor": 0.5, "max_rollbacks": 3}
    recipe = tiny(train={**EVERY, "checkpoint_every": 1000, "on_divergence": back})
    with pytest.raises(
        RunFailedError,
        match=r"step 20; the last good .* of step 0, and nothing of the budget is left .* write",
    ):
        train(with_budget(recipe, flops="1x"))
    run = Run.open(Path(recipe.output.root) / recipe.name / "v0001")
    assert run.read_info()["status"] == "failed"
    assert not (run.folder / "summary.json").exists()


# ---- going on ------------------------------------------------------------------------------------------


def test_a_run_goes_on_with_a_larger_budget(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    constant = {**EVERY, "lr_schedule": "constant", "warmup": 0.0}
    schedule = {"kind": "listed", "at_steps": [5]}
    recipe = tiny(compression=cuts(None, schedule=schedule), train=constant)
    whole = train(with_budget(recipe, flops="1x"))
    run, view = train(with_budget(recipe, flops="0.5x")), Telling()
    done = run.read_summary()["steps"]
    with pytest.raises(BadInputError, match=r"run is done.*a larger budget.flops=X"):
        longer(run)
    with pytest.raises(BadInputError, match=r"run is done.*a larger budget.flops=X"):
        longer(run, "budget.flops=0.25x")
    longer(run, "budget.flops=1x", view=view)
    assert same_weights(whole, run)
    assert metrics(whole)[-1] == metrics(run)[-1]
    trained = [[line["train_loss"] for line in losses(one)] for one in (whole, run)]
    assert trained[0] == trained[1]
    assert lines(whole)[1] == lines(run)[1]
    assert run.read_summary()["budget"] == whole.read_summary()["budget"]
    assert (run.folder / f"summary-{done:09}.json").is_file()
    change = next(text for text in view.told if text.startswith("budget 0.5x flops -> 1x flops, from step"))
    assert re.search(rf"step {done} on, where 5\d(\.\d)? % of the budget is spent: .* by that share", change)
    assert "train.steps" not in change
    assert any(text.startswith(f"going on from step {done} of about") for text in view.told)


def test_an_unfinished_run_takes_another_budget_unless_it_is_spent(tiny: Maker, train: Trainer) -> None:
    recipe = with_budget(tiny(train=EVERY), flops="1x")
    run = interrupted(recipe, train, 12)
    with pytest.raises(BadInputError, match=r"budget.flops=0.25x: .* 8 steps already, and has spent as much"):
        longer(run, "budget.flops=0.25x")
    longer(run, "budget.flops=0.8x")
    assert run.read_summary()["steps"] == 16
    assert run.read_info()["resumed"][-1]["changed"] == {"budget.flops": {"from": "1x", "to": "0.8x"}}


def test_a_run_without_a_budget_takes_one(tiny: Maker, train: Trainer, tmp_path: Path) -> None:
    run = interrupted(tiny(train=EVERY), train, 12)
    longer(run, "budget={flops: 0.8x}")
    assert run.read_summary()["steps"] == 16
    assert run.read_summary()["budget"]["asked"] == "0.8x"
    view = Telling()
    longer(run, "budget.seconds=600", "train.steps=17", "budget.reinvest=false", view=view)
    assert run.read_summary()["budget"]["asked"] == 600.0
    assert any(
        "budget 0.8x flops -> 600 seconds, not reinvested, from step 16 on" in text for text in view.told
    )
    summary = run.read_summary()
    run.write_summary({**summary, "flops": {}})
    with pytest.raises(BadInputError, match=r"summary.json: does not say what the run has spent"):
        longer(run, "budget.flops=2x")


def test_an_override_of_another_unit_takes_the_place_of_the_budget(tiny: Maker, tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_to_yaml(with_budget(tiny(train=EVERY), flops="0.65x", reinvest=False)))
    changed = load_recipe(path, ["budget.seconds=10"])
    assert changed.budget == BudgetConfig(seconds=10.0, reinvest=False)
    assert load_recipe(path, ["budget.seconds=null"]).budget == BudgetConfig(flops="0.65x", reinvest=False)
    with pytest.raises(BadInputError, match="budget: found seconds and joules; give exactly one"):
        load_recipe(path, ["budget.seconds=10", "budget.joules=10"])


def test_a_dry_run_tells_the_budget(tiny: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_to_yaml(with_budget(tiny(compression=cut_early(), train=EVERY), flops="0.65x")))
    assert main.run(["train", str(path), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"budget +[0-9.]+ kFLOP: 13.0 steps without a cut", told)
    assert re.search(r"compression checks after steps +3, 6", told)  # of 13 steps
    assert main.run(["train", str(path), "--dry-run", "budget={seconds: 5}"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"budget +5.0 seconds", told)
    assert re.search(r"compression checks +at 25, 50 % of the budget", told)
    assert main.run(["train", str(path), "--dry-run", "budget.flops=2"]) == 2  # known only once it is counted
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("flops", ["0.65x", "0.33x", "1x", "1.5x"])
@pytest.mark.parametrize("reinvest", [True, False])
def test_where_nothing_is_cut_checks_are_after_the_steps_that_a_dry_run_tells(
    flops: str, reinvest: bool
) -> None:
    known = course(201, 7, flops=flops, reinvest=reinvest)
    for mark in (1, 2, 60, known.total - 1, known.total):
        step = known.uncut_step(mark)
        assert known.at(step - 1, (step - 1) * 7) < mark <= known.at(step, step * 7)


def test_a_dry_run_tells_the_checks_of_a_run_that_does_not_reinvest(
    tiny: Maker, train: Trainer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    schedule = {"kind": "listed", "fractions": [0.3]}
    recipe = with_budget(
        tiny(compression=cuts(None, schedule=schedule), train=EVERY), flops="0.65x", reinvest=False
    )
    path = tmp_path / "tiny.yaml"
    path.write_text(recipe_to_yaml(recipe))
    assert main.run(["train", str(path), "--dry-run"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "compression checks after steps 4 without a cut: at 30 % of the budget, or of train.steps" in told
    assert {line["step"] for line in train(recipe).read_compression()} == {4}


# ---- seconds and joules --------------------------------------------------------------------------------


class Meter:
    """A clock, or a counter of joules, that only what is done moves on."""

    STEP, CUT_STEP, EVALUATION, CHECKPOINT, START = 1.0, 0.25, 1.0, 2.0, 7.0

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = self.START
        for where, name, cost in (
            (loop, "training_step", self.step),
            (validation, "evaluate", lambda _: self.EVALUATION),
            (saving.Saving, "save", lambda _: self.CHECKPOINT),
        ):
            monkeypatch.setattr(where, name, self._counted(getattr(where, name), cost))
        monkeypatch.setattr(Stopwatch, "total", lambda _: self.now)
        monkeypatch.setattr(JouleMeter, "so_far", lambda _: self.now)
        monkeypatch.setattr(JouleMeter, "sources", ["a counter"])
        monkeypatch.setattr(budget, "unmeasured", lambda _: None)
        monkeypatch.setattr(budget, "SHORTEST_WINDOW", 0.0)

    def step(self, model: Any) -> float:
        return self.CUT_STEP if surgery.orders(model)[LAYER] < 8 else self.STEP

    def _counted(self, call: Callable[..., Any], cost: Callable[[Any], float]) -> Callable[..., Any]:
        def counted(what: Any, *args: Any, **kwargs: Any) -> Any:
            self.now += cost(what)
            return call(what, *args, **kwargs)

        return counted


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(monkeypatch)


LONG = {"steps": 60, "eval_every": 10, "checkpoint_every": 20, "log_every": 1}
WHOLE = 7 + 60 + 6 + 3 * 2  # start, steps, evaluations and checkpoints of the recipe without compression


@pytest.mark.parametrize("unit", ["seconds", "joules"])
def test_a_share_of_what_is_measured(tiny: Maker, train: Trainer, meter: Meter, unit: str) -> None:
    """Step 25 is the last that is measured; the checks before it, at 6 and 12, are one check then."""
    schedule = {"kind": "listed", "fractions": [0.1, 0.2, 0.75]}
    view = Telling()
    recipe = with_budget(tiny(compression=cuts(None, schedule=schedule), train=LONG), **{unit: "0.8x"})
    run = train(recipe, view=view)
    found = run.read_summary()["budget"]
    assert found["uncut_per_step"] == pytest.approx(WHOLE / 60)
    assert found["limit"] == pytest.approx(0.8 * WHOLE)
    assert 0 <= found["spent"] - found["limit"] <= meter.CUT_STEP + meter.EVALUATION + 1e-6
    assert run.read_info()["budget"] == found
    checks = sorted({line["step"] for line in run.read_compression()})
    assert checks[0] == 25
    assert len(checks) == 2
    assert found["steps"]["planned"] == 48 < found["steps"]["done"] == losses(run)[-1]["step"]
    progress = [line["progress"] for line in losses(run)]
    assert progress[:24] == pytest.approx([step / 48 for step in range(1, 25)])
    after = next(line for line in losses(run) if line["step"] == checks[1])
    before = next(line for line in losses(run) if line["step"] == checks[1] - 1)
    assert before["progress"] < 0.75 <= after["progress"]
    # 7 to start with, 25 steps and 2 evaluations and 1 checkpoint of the run, then one of each that is measured.
    left = math.ceil(0.8 * WHOLE - (7 + 25 + 2 + 2 + 1 + 2))
    assert any(text.endswith(f"are spent after step 25, about {left} steps are left") for text in view.told)
    assert next(text for text in view.told if text.startswith("budget:")).startswith(
        f"budget: 0.8x of the {unit} without compression, which are measured over at least 20 steps after step 5"
    )


def test_a_machine_that_becomes_busier_while_a_share_is_measured(
    tiny: Maker, train: Trainer, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The evaluation that is measured takes longer than all steps and evaluations before it together."""
    as_usual, calls = validation.evaluate, []

    def evaluate(*args: Any) -> Any:
        calls.append(1)
        meter.EVALUATION = 30.0 if len(calls) == 3 else 1.0  # type: ignore[misc]
        return as_usual(*args)

    monkeypatch.setattr(validation, "evaluate", evaluate)
    found = train(with_budget(tiny(train=LONG), seconds="0.8x")).read_summary()["budget"]
    # 20 steps, 2 evaluations and a checkpoint are 1.2 a step; 36 were spent after the 25 steps; then 30 and 2.
    assert found["uncut_per_step"] == pytest.approx((36 - 25 * 1.2 + 60 * 1.2 + 32) / 60)
    assert found["spent"] >= found["limit"]


def test_a_share_that_the_start_has_used_up_ends_the_run(tiny: Maker, train: Trainer, meter: Meter) -> None:
    meter.now = 1000.0
    with pytest.raises(
        RunFailedError, match=r"budget.seconds: 0.5x .*step 25, .* beside steps: about 0 steps are left"
    ):
        train(with_budget(tiny(train=LONG), seconds="0.5x"))


def test_a_number_of_seconds(tiny: Maker, train: Trainer, meter: Meter) -> None:
    view = Telling()
    run = train(with_budget(tiny(train=LONG), seconds=40.0), view=view)
    assert "warning: 7.00 s of the budget of 40.0 s are spent before the first step, for" in " ".join(
        view.told
    )
    found = run.read_summary()["budget"]
    # 7 to start with, 29 steps, two evaluations and a checkpoint.
    assert found["steps"] == {"planned": 60, "done": 29}
    assert (found["spent"], found["uncut_per_step"]) == (40.0, None)
    assert losses(run)[-1]["progress"] == 1.0
    meter.now, view = meter.START, Telling()
    kept = train(with_budget(tiny(train=LONG), seconds=1000.0, reinvest=False), view=view).read_summary()
    assert not any(text.startswith("warning") for text in view.told)
    assert kept["steps"] == 60
    assert kept["budget"]["share"] < 0.2


@pytest.mark.parametrize("unit", ["seconds", "joules"])
def test_what_was_spent_and_measured_is_known_to_a_resumed_run(
    tiny: Maker, train: Trainer, meter: Meter, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    schedule = {"kind": "listed", "fractions": [0.1, 0.2, 0.7]}
    recipe = with_budget(tiny(compression=cuts(None, schedule=schedule), train=LONG), **{unit: "0.8x"})
    run = interrupted(recipe, train, 30)
    saved = Checkpoint.load(run.last_checkpoints()[-1])
    assert saved.training is not None
    assert saved.step == 25
    state = saved.training["budget"]
    assert state["uncut"] == pytest.approx(WHOLE / 60)
    if unit == "joules":  # a new process counts from zero
        meter.now = 0.0
    resumed(run)
    summary, found = run.read_summary(), run.read_summary()["budget"]
    assert found["uncut_per_step"] == state["uncut"]
    assert 0 <= found["spent"] - found["limit"] <= meter.CUT_STEP + meter.EVALUATION + 1e-6
    checks = sorted({line["step"] for line in run.read_compression()})
    assert len(checks) == 2  # that at step 25 is not done again
    assert checks[0] == 25
    monkeypatch.setattr(JouleMeter, "sources", ["another counter"])
    if unit == "joules":
        with pytest.raises(BadInputError, match="were counted by a counter, and here by another counter"):
            longer(run, "budget.joules=100x")
    assert summary["steps"] > 48


def test_a_counter_that_fails_ends_the_run(
    tiny: Maker, train: Trainer, meter: Meter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: JouleMeter) -> float:
        if meter.now > 20:
            raise OSError("RAPL 0: failed while measuring: gone")
        return meter.now

    monkeypatch.setattr(JouleMeter, "so_far", fails)
    with pytest.raises(
        RunFailedError, match=r"budget.joules: .* not known any more: RAPL 0: failed.* --resume"
    ):
        train(with_budget(tiny(train=LONG), joules=100.0))


def test_joules_that_cannot_be_measured_are_refused(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "unmeasured", lambda device: joules.unmeasured(device, tmp_path))
    with pytest.raises(
        BadInputError, match=r"budget.joules: .* \(RAPL: no energy counter .*write budget.seconds or"
    ):
        experiment.load_data(with_budget(tiny(train=LONG), joules=5.0))


def test_a_share_that_cannot_be_measured_is_refused(tiny: Maker, train: Trainer, meter: Meter) -> None:
    with pytest.raises(
        BadInputError, match=r"budget.seconds: 0.4x is measured over steps 6 to 25, .* have 24"
    ):
        train(with_budget(tiny(train=LONG), seconds="0.4x"))
    run = interrupted(tiny(train=LONG), train, 30)
    with pytest.raises(BadInputError, match=r"budget.seconds: 0.8x is measured where a run begins"):
        longer(run, "budget={seconds: 0.8x}")
