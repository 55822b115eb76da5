"""A run that is trained longer than its recipe said, while it is trained or after its end."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_engine_resume import EVERY, LAYER, Interrupting, cuts, interrupted, lines, same_run

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine import experiment, validation
from compressm_cli.engine.view import SilentView, View
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.recipe.problems import RecipeError
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

pytestmark = pytest.mark.usefixtures("rough_flops")

CONSTANT = {**EVERY, "lr_schedule": "constant", "warmup": 0.0}


class Telling(SilentView):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def message(self, text: str) -> None:
        self.told.append(text)


def longer(run: Run, *overrides: str, view: View | None = None) -> Run:
    torch.manual_seed(99)  # a fresh process would not have the random state either
    return experiment.resume(
        run, load_recipe(run.recipe_path), view or SilentView(), "test longer", overrides=overrides
    )


@pytest.mark.parametrize("safety", [None, {"trial_steps": 12, "tolerance": 1.0}])
def test_a_run_made_longer_ends_like_one_that_was_as_long_from_the_start(
    tiny: Maker, train: Trainer, same_weights: Same, safety: dict[str, Any] | None
) -> None:
    """With dropout and cuts on both sides of the old end; a trial that ended with the run has had its verdict."""
    compression = cuts(safety, schedule={"kind": "listed", "at_steps": [3, 20]}, selection="random")
    whole = train(tiny(steps=30, compression=compression, train=CONSTANT))
    run = train(tiny(steps=15, compression=compression, train=CONSTANT))
    short = run.read_summary()
    longer(run, "train.steps=30")
    assert same_weights(whole, run)
    assert same_run(whole, run)
    assert Checkpoint.load(run.best_checkpoint).step == run.read_summary()["validation"]["best_step"]

    info = run.read_info()
    assert info["status"] == "done"
    (resumed,) = info["resumed"]
    assert (resumed["step"], resumed["changed"]) == (15, {"train.steps": {"from": 15, "to": 30}})
    assert load_recipe(run.recipe_path).train.steps == 30
    kept = Run(run.folder)._read("summary-000000015.json")
    assert kept == short
    assert Checkpoint.load(run.checkpoints / "final-000000015.pt").step == 15
    now = run.read_summary()
    assert now["seconds"]["total"] > short["seconds"]["total"]
    assert now["flops"]["training"] > short["flops"]["training"]
    assert [p.name for p in run.last_checkpoints()] == ["last-000000030.pt"]


@pytest.mark.parametrize("stop", [20, 25])
def test_an_unfinished_run_is_made_longer(tiny: Maker, train: Trainer, same_weights: Same, stop: int) -> None:
    compression = cuts(None)
    whole = train(tiny(steps=40, compression=compression, train=CONSTANT))
    run = interrupted(tiny(compression=compression, train=CONSTANT), train, stop)
    longer(run, "train.steps=40", "output.keep_last=2")
    assert same_weights(whole, run)
    assert same_run(whole, run)
    assert not list(run.folder.glob("summary-*"))
    assert run.read_info()["resumed"][0]["changed"] == {
        "train.steps": {"from": 30, "to": 40},
        "output.keep_last": {"from": 1, "to": 2},
    }
    assert len(run.last_checkpoints()) == 2


def test_a_run_can_be_made_longer_twice_and_interrupted_meanwhile(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    whole = train(tiny(steps=40, compression=cuts(None), train=CONSTANT))
    run = train(tiny(steps=10, compression=cuts(None), train=CONSTANT))
    for step in (15, 20):  # before the first checkpoint of the longer run, and after it
        with pytest.raises(KeyboardInterrupt):
            longer(run, "train.steps=25", view=Interrupting(step))
        assert run.read_info()["status"] == "interrupted"
    longer(run)  # what it is now is in its folder
    longer(run, "train.steps=40")
    assert same_weights(whole, run)
    assert same_run(whole, run)
    steps = {"from": 10, "to": 25}
    assert [(r["step"], r.get("changed", {}).get("train.steps")) for r in run.read_info()["resumed"]] == [
        (10, steps), (10, steps), (15, None), (25, {"from": 25, "to": 40}),
    ]  # fmt: skip
    assert sorted(p.name for p in run.folder.glob("summary*")) == [
        "summary-000000010.json", "summary-000000025.json", "summary.json",
    ]  # fmt: skip


def test_the_schedules_are_those_of_the_new_length(tiny: Maker, train: Trainer) -> None:
    """Of a cosine that had come to its end, and of checks at fractions of the run."""
    schedule = {"kind": "listed", "fractions": [0.2, 0.4, 0.6]}
    run = train(tiny(steps=10, compression=cuts(None, schedule=schedule), train={**EVERY, "log_every": 1}))
    view = Telling()
    longer(run, "train.steps=20", view=view)
    rates = {m["step"]: m["learning_rate"] for m in run.read_metrics() if "learning_rate" in m}
    assert rates[10] == 0.0
    for step in range(11, 21):
        assert rates[step] == pytest.approx(1e-2 * 0.5 * (1 + math.cos(math.pi * (step - 2) / 18)))
    assert [line["step"] for line in run.read_compression()] == [2, 4, 6, 12]
    told = next(text for text in view.told if text.startswith("train.steps"))
    assert told == (
        "train.steps 10 -> 20, from step 10 on: the learning rate is that of a run of 20 steps (0 at step 10, 0.005 at "
        "step 11); checks to come: 12"
    )


def test_a_trial_lasts_as_long_as_the_longer_run_lets_it(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    compression = cuts({"trial_steps": 12, "tolerance": 1.0}, schedule={"kind": "listed", "at_steps": [8]})
    whole = train(tiny(steps=30, compression=compression, train=CONSTANT))
    run = interrupted(tiny(steps=15, compression=compression, train=CONSTANT), train, 15)
    assert Checkpoint.load(run.last_checkpoints()[-1]).training["trial"]["until"] == 15  # type: ignore[index]
    longer(run, "train.steps=30")
    assert same_weights(whole, run)
    assert same_run(whole, run)


def test_the_best_model_stays_the_best(tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also that of steps which are trained again, by another schedule."""
    original = validation.evaluate
    run = Run(Path())

    def evaluate(model: Any, *args: Any) -> Any:
        found = next(frames)
        return replace(original(model, *args), metrics={"accuracy": found})

    monkeypatch.setattr(validation, "evaluate", evaluate)
    frames = iter([0.1, 0.2, 0.9, 0.3])
    run = interrupted(tiny(train={**EVERY, "checkpoint_every": 10}), train, 20)
    assert Checkpoint.load(run.best_checkpoint).step == 15
    assert [p.name for p in run.last_checkpoints()] == ["last-000000010.pt"]
    frames = iter([0.5] * 10)
    longer(run, "train.steps=40")
    assert Checkpoint.load(run.best_checkpoint).step == 15
    assert run.read_summary()["validation"]["best_step"] == 15
    assert run.read_summary()["validation"]["best_accuracy"] == 0.9


def test_a_cut_on_trial_is_not_taken_for_the_best_model(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        return replace(original(model, *args), metrics={"accuracy": next(frames)})

    monkeypatch.setattr(validation, "evaluate", evaluate)
    safety = {"trial_steps": 10, "tolerance": 1.0}
    schedule = {"kind": "listed", "at_steps": [15]}
    cut = {"method": "hankel", "keep_fraction": 0.5, "schedule": schedule, "safety": safety}
    frames = iter([0.1, 0.2, 0.5, 0.9, 0.3])
    run = interrupted(tiny(compression=cut, train={**EVERY, "checkpoint_every": 10}), train, 20)
    assert Checkpoint.load(run.best_checkpoint).step == 15
    assert [p.name for p in run.last_checkpoints()] == ["last-000000010.pt"]
    frames = iter([0.4, 0.4, 0.4] + [0.7] * 10)
    longer(run, "train.steps=40")
    assert run.read_summary()["validation"]["best_accuracy"] == 0.7
    assert Checkpoint.load(run.best_checkpoint).step > 15


def test_a_cut_that_was_judged_at_once_is_the_best_model(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the last step, before the last checkpoint of which the run is killed."""
    original, keep = validation.evaluate, validation.Validation.keep_if_best

    def evaluate(model: Any, *args: Any) -> Any:
        return replace(original(model, *args), metrics={"accuracy": next(frames)})

    def killed(self: Any, result: Any) -> None:
        keep(self, result)
        if result.metrics["accuracy"] == 0.9:
            raise KeyboardInterrupt

    monkeypatch.setattr(validation, "evaluate", evaluate)
    monkeypatch.setattr(validation.Validation, "keep_if_best", killed)
    schedule = {"kind": "listed", "at_steps": [20]}
    cut = cuts({"trial_steps": 10, "tolerance": 1.0}, schedule=schedule)
    frames = iter([0.1, 0.2, 0.3, 0.5, 0.9])
    recipe = tiny(steps=20, compression=cut, train={**EVERY, "checkpoint_every": 10})
    with pytest.raises(KeyboardInterrupt):
        train(recipe)
    run = Run.find(Path(recipe.output.root) / recipe.name)[-1]
    assert [p.name for p in run.last_checkpoints()] == ["last-000000010.pt"]
    best = Checkpoint.load(run.best_checkpoint)
    assert (best.step, best.orders == surgery.orders(best.build_model())) == (20, True)
    frames = iter([0.4] * 12)
    longer(run, "train.steps=40")
    found = run.read_summary()["validation"]
    assert (found["best_accuracy"], found["best_step"]) == (0.9, 20)
    assert Checkpoint.load(run.best_checkpoint).orders == best.orders


# ---- what is refused ---------------------------------------------------------------------------------------


def unchanged(run: Run, *overrides: str, match: str, error: type[Exception] = BadInputError) -> None:
    before = {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file() and p.name != "lock"}
    with pytest.raises(error, match=match):
        longer(run, *overrides)
    assert {p: p.read_bytes() for p in run.folder.rglob("*") if p.is_file() and p.name != "lock"} == before


@pytest.mark.parametrize(
    "change",
    ["train.learning_rate=0.1", "train.lr_schedule=constant", "train.batch_size=4", "model.dropout=0.0", "name=other",
     "seeds=[1]", "compression.keep_fraction=0.9", "output.root=elsewhere", "data.upsample=2", "train.precision=bf16"],
)  # fmt: skip
def test_what_a_run_has_learned_by_stays(tiny: Maker, train: Trainer, change: str) -> None:
    run = interrupted(tiny(compression=cuts(None), train=EVERY), train, 10)
    key = change.partition("=")[0]
    unchanged(
        run,
        change,
        match=f"^{key}: a run that has begun goes on with its own; of a run can be changed: train.steps, .*"
        f"begin a new run: compressm train {run.recipe_path} {key}=VALUE",
    )


def test_what_is_wrong_is_refused_before_anything_is_touched(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=10, train=EVERY))
    unchanged(run, "train.steps=many", match="train.steps", error=RecipeError)
    unchanged(run, "train.stepz=20", match="did you mean 'steps'", error=RecipeError)
    done = "this run is done; there is nothing to resume; to train it longer, add train.steps=N with an N above 10"
    for change in ("train.steps=10", "train.log_every=2"):
        unchanged(run, change, match=done)
    unchanged(run, "train.steps=5", match="train.steps=5: .* trained for 10 steps already; write more")
    part = interrupted(tiny(train=EVERY), train, 20)
    unchanged(part, "train.steps=15", match="has been trained for 15 steps already; write more")


def test_a_run_that_kept_no_state_of_its_end_says_what_to_do(tiny: Maker, train: Trainer) -> None:
    """As all that older versions have finished."""
    run = train(tiny(steps=10, train=EVERY, output={"keep_last": 2}))
    run.last_checkpoint(10).unlink()
    told = (
        "cannot be trained longer: that takes the state of training of its last step, 10, and the newest is of step 5 "
        f".*: compressm train {run.recipe_path} train.steps=20"
    )
    unchanged(run, "train.steps=20", match=told)
    run.last_checkpoint(5).unlink()
    unchanged(run, "train.steps=20", match="and none is left")


def test_a_run_that_was_killed_on_the_way_to_be_longer_is_whole(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two of the changes to its folder."""
    whole = train(tiny(steps=20, train=CONSTANT))

    def dying(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    for name in ("set_aside", "write_recipe", "write_info"):
        run = train(tiny(steps=10, train=CONSTANT))
        short = Checkpoint.load(run.final_checkpoint)
        with monkeypatch.context() as patch:
            if name == "set_aside":  # after its first part
                (run.folder / "summary.json").rename(run.folder / "summary-000000010.json")
            patch.setattr(Run, name, dying)
            with pytest.raises(KeyboardInterrupt):
                longer(run, "train.steps=20")
        if name == "write_info":
            longer(run)
        else:
            longer(run)  # to its old end once more
            assert load_recipe(run.recipe_path).train.steps == 10
            again = Checkpoint.load(run.final_checkpoint)
            assert all(torch.equal(again.weights[n], value) for n, value in short.weights.items())
            longer(run, "train.steps=20")
        assert same_weights(whole, run)
        assert lines(run) == lines(whole)
        assert run.read_info()["status"] == "done"
        assert run.read_info()["resumed"][-1]["changed"] == {"train.steps": {"from": 10, "to": 20}}


def test_it_is_told_from_where_a_run_goes_on(tiny: Maker, train: Trainer) -> None:
    fresh, again, later = Telling(), Telling(), Telling()
    train(tiny(steps=10, train=EVERY), view=fresh)
    assert not any("going on" in text for text in fresh.told)
    run = interrupted(tiny(train=EVERY), train, 20)
    longer(run, view=again)
    longer(run, "train.steps=1200", "train.steps=31", view=later)
    assert again.told[0] == "going on from step 15 of 30 (checkpoints/last-000000015.pt)"
    assert later.told[0] == "going on from step 30 of 31 (checkpoints/last-000000030.pt)"


# ---- the command -----------------------------------------------------------------------------------------------


def test_the_command(tiny: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(tiny(steps=10, train=EVERY)))
    assert main.run(["train", str(path), "--quiet"]) == 0
    folder = capsys.readouterr().out.strip()
    run = Run.open(Path(folder))
    plots = {p.name for p in run.plots.iterdir()}
    assert main.run(["train", "--resume", folder, "train.steps=15", "train.eval_every=3"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == folder
    assert "train.steps 10 -> 15, from step 10 on" in shown.err
    assert "going on from step 10 of 15 (checkpoints/last-000000010.pt)\n" in shown.err
    assert (
        {p.name for p in run.plots.iterdir()}
        == plots
        == {p.name for p in (run.folder / "plots-000000010").iterdir()}
    )
    assert [m["step"] for m in run.read_metrics() if "validation_loss" in m] == [5, 10, 12, 15]
    for wrong in (
        ["quickstart/baseline"],
        ["train.steps=20", "--seeds", "1"],
        ["train.steps=20", "--seeds", ""],
        ["train.steps=20", "--dry-run"],
    ):
        assert main.run(["train", "--resume", folder, *wrong]) == 2
        assert "--resume takes the recipe from the run folder" in capsys.readouterr().err
    assert main.run(["train", "quickstart/baseline", "--dry-run", "--seeds", ""]) == 2
    assert "--seeds: '' is no seed" in capsys.readouterr().err


def test_auto_resume_takes_a_run_for_what_it_is_now(
    tiny: Maker, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe_to_yaml(tiny(steps=4, train=EVERY)))
    given = ["train", str(path), "--auto-resume", "--quiet"]
    assert main.run(given) == 0
    run = Run.open(Path(capsys.readouterr().out.strip()))
    with pytest.raises(KeyboardInterrupt):
        longer(run, "train.steps=12", view=Interrupting(10))
    assert main.run([*given, "train.steps=12"]) == 0
    shown = capsys.readouterr()
    assert f"going on with {run.folder}" in shown.err
    assert main.run(given) == 0  # four steps: not what this run is any more
    assert Path(capsys.readouterr().out.strip()).name == "v0002"


def test_a_cut_layer_stays_cut(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=20, compression=cuts(None), train=EVERY))
    before = Checkpoint.load(run.final_checkpoint).orders
    assert before[LAYER] < 8
    longer(run, "train.steps=25")
    final = Checkpoint.load(run.final_checkpoint)
    assert final.orders == surgery.orders(final.build_model()) == before
