"""Trackers are told what is logged, each step once; one that fails costs a warning and nothing else."""

import builtins
import importlib.util
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import reliability
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import trained_once
from torch.utils.tensorboard import SummaryWriter

from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine import experiment, loop, trackers
from compressm_cli.engine.trackers import TRACKERS, Tracker
from compressm_cli.engine.view import SilentView, View
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.recipe.schema import OutputConfig
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("rough_flops")
LAYER = "blocks.0.layer"


class Told(SilentView):
    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)

    @property
    def warnings(self) -> list[str]:
        return [text for text in self.messages if text.startswith("warning: the tracker")]


def recipe(tiny: Maker, *names: str, tolerance: float = 1.0, **train: Any) -> Recipe:
    cuts = {"kind": "listed", "at_steps": [8]}
    safety = {"trial_steps": 6, "tolerance": tolerance, "on_rejection": "stop"}
    return tiny(
        steps=20,
        compression={"method": "hankel", "target_order": 3, "schedule": cuts, "safety": safety},
        train={"log_every": 2, "eval_every": 5, "checkpoint_every": 6, "form": "recurrent", **train},
        output={"trackers": list(names)},
    )


@pytest.fixture
def cuts_hurt(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial is always failed."""
    monkeypatch.setattr(
        loop.Trainer, "_verdict", lambda trainer: trainer._reject("as the test says") or False
    )


class Recorder(Tracker):
    """Stands in for a tracker; ``fails`` names the call that raises."""

    package = "pytest"
    fails: tuple[str, int] | None = None
    calls: list[tuple[str, Any]]

    def __init__(self, run: Run, recipe: Recipe, seed: int, step: int) -> None:
        self._note("start", step)

    def _note(self, name: str, *values: Any) -> None:
        type(self).calls.append((name, *values))  # type: ignore[arg-type]
        if type(self).fails is not None:
            wanted, count = type(self).fails
            if name == wanted and sum(call[0] == name for call in type(self).calls) == count:
                raise ConnectionError("https://tracker.example: unreachable\nand more")

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._note("scalars", step, values)

    def text(self, step: int, name: str, text: str) -> None:
        self._note("text", step, name, text)

    def rewind(self, step: int) -> None:
        self._note("rewind", step)

    def finish(self, step: int, summary: dict[str, Any]) -> None:
        self._note("finish", step, summary)

    def close(self, done: bool) -> None:
        self._note("close", done)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    fresh: type[Recorder] = type("Fresh", (Recorder,), {"calls": [], "fails": None})
    monkeypatch.setitem(TRACKERS, "wandb", fresh)
    return fresh


def test_a_recipe_knows_exactly_the_trackers_that_there_are() -> None:
    (names,) = (OutputConfig.model_json_schema()["properties"]["trackers"]["items"]["enum"],)
    assert set(names) == set(TRACKERS)


def test_a_tracker_is_told_what_is_logged(tiny: Maker, train: Trainer, recorder: type[Recorder]) -> None:
    run = train(recipe(tiny, "wandb"))
    calls = recorder.calls
    assert [call[0] for call in calls[:1] + calls[-2:]] == ["start", "finish", "close"]
    assert calls[-1] == ("close", True)
    assert calls[-2][1:] == (20, run.read_summary())
    scalars = [call[1:] for call in calls if call[0] == "scalars"]
    for line in run.read_metrics():
        if "train_loss" in line:
            (told,) = [v for step, v in scalars if step == line["step"] and "train_loss" in v]
            assert told["train_loss"] == line["train_loss"]
            assert told["learning_rate"] == line["learning_rate"]
            assert told[f"orders/{LAYER}"] == line["orders"][LAYER]
        else:
            after = "_after_cut" if line.get("after_cut") else ""
            key = f"validation_accuracy{after}"
            (told,) = [v for step, v in scalars if step == line["step"] and key in v]
            assert told[key] == line["validation_accuracy"]
    (cut,) = [call for call in calls if call[0] == "text"]
    assert cut[1:3] == (8, f"compression/{LAYER}")
    assert cut[3].startswith("accepted: 8 -> 3: cut from 8 to 3")
    assert (8, {f"orders/{LAYER}": 3.0}) in scalars


@pytest.mark.usefixtures("cuts_hurt")
def test_a_tracker_is_told_that_training_went_back(
    tiny: Maker, train: Trainer, recorder: type[Recorder]
) -> None:
    train(recipe(tiny, "wandb"))
    names = [call[0] for call in recorder.calls]
    place = names.index("rewind")
    assert recorder.calls[place] == ("rewind", 8)
    later = [call[1] for call in recorder.calls[place:] if call[0] == "scalars" and "train_loss" in call[2]]
    assert later == [10, 12, 14, 16, 18, 20]
    (told,) = [call[3] for call in recorder.calls if call[0] == "text"]
    assert told.startswith("rejected: 8 -> 3")
    assert (8, {f"orders/{LAYER}": 8.0}) in [call[1:] for call in recorder.calls if call[0] == "scalars"]


FAILURES = [
    ("start", 1),
    ("scalars", 1),
    ("scalars", 9),
    ("text", 1),
    ("rewind", 1),
    ("finish", 1),
    ("close", 1),
]


@pytest.mark.usefixtures("cuts_hurt")
@pytest.mark.parametrize("fails", FAILURES, ids=str)
def test_a_tracker_that_fails_is_dropped_with_one_warning(
    tiny: Maker, train: Trainer, recorder: type[Recorder], fails: tuple[str, int]
) -> None:
    whole = trained_once(recipe(tiny))
    recorder.fails = fails
    view = Told()
    run = train(recipe(tiny, "wandb"), view=view)
    assert view.warnings == [
        "warning: the tracker wandb failed and is told no more: https://tracker.example: unreachable; "
        "the run is not affected"
    ]
    assert recorder.calls[-1][0] == fails[0]  # it is told nothing more
    assert list(reliability.differences(whole, run)) == []


def test_one_that_fails_leaves_the_other(
    tiny: Maker, train: Trainer, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    bad: type[Recorder] = type("Bad", (Recorder,), {"calls": [], "fails": ("scalars", 2)})
    monkeypatch.setitem(TRACKERS, "tensorboard", bad)
    view = Told()
    train(recipe(tiny, "tensorboard", "wandb"), view=view)
    assert len(view.warnings) == 1
    assert recorder.calls[-1] == ("close", True)


def test_a_tracker_of_a_run_that_fails_is_closed(
    tiny: Maker, train: Trainer, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: Any) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(loop.Trainer, "_check", fails)
    with pytest.raises(KeyError):
        train(recipe(tiny, "wandb"))
    assert recorder.calls[-1] == ("close", False)


def test_a_tracker_of_a_run_that_cannot_begin_is_closed(
    tiny: Maker, train: Trainer, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(loop, "Checks", fails)
    with pytest.raises(RunFailedError, match="out of memory"):
        train(recipe(tiny, "wandb"))
    assert recorder.calls == [("start", 0), ("close", False)]


def test_a_tracker_that_does_not_end_is_left_alone(
    tiny: Maker, train: Trainer, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    forever = threading.Event()
    monkeypatch.setattr(trackers, "CLOSE_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "close", lambda *_: forever.wait(60))
    view = Told()
    train(recipe(tiny, "wandb"), view=view)
    forever.set()
    assert "it did not end within 0 s" in view.warnings[0]


def test_the_command_ends_with_0(
    tiny: Maker, tmp_path: Path, recorder: type[Recorder], capsys: pytest.CaptureFixture[str]
) -> None:
    recorder.fails = ("start", 1)
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(recipe(tiny, "wandb")))
    assert main.run(["train", str(path)]) == 0
    assert "warning: the tracker wandb failed" in capsys.readouterr().err


@pytest.mark.parametrize("name", TRACKERS)
def test_one_that_is_not_installed_is_refused_before_training(
    tiny: Maker,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    find = importlib.util.find_spec
    package = TRACKERS[name].package
    monkeypatch.setattr(trackers, "find_spec", lambda p: None if p == package else find(p))
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(recipe(tiny, name)))
    assert main.run(["train", str(path)]) == 2
    told = capsys.readouterr().err
    assert (
        f"output.trackers: {name} cannot be imported; install with: pip install 'compressm[tracking]'" in told
    )
    assert not (tmp_path / "outputs").exists()


def test_no_tracker_is_imported_unasked(tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    imports = builtins.__import__

    def watched(name: str, *args: Any) -> Any:
        assert name.partition(".")[0] not in ("wandb", "tensorboard")
        assert name != "torch.utils.tensorboard"
        return imports(name, *args)

    monkeypatch.setattr(builtins, "__import__", watched)
    train(recipe(tiny))


def test_repeated_trackers_are_refused(tiny: Maker) -> None:
    with pytest.raises(BadInputError, match="trackers repeat"):
        recipe(tiny, "wandb", "wandb")


# ---- wandb, without its package ------------------------------------------------------------------------


class FakeWandb:
    """What is used of wandb: it takes no step below the last one, also of the process before."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.inits: list[dict[str, Any]] = []
        self.ignored = 0

    @staticmethod
    def Settings(**settings: Any) -> dict[str, Any]:
        return settings

    def init(self, **given: Any) -> Any:
        self.inits.append(given)
        known = self.runs.setdefault(given["id"], {"history": {}, "summary": {}, "ended": []})

        def log(values: dict[str, Any], step: int) -> None:
            if known["history"] and step < max(known["history"]):
                self.ignored += 1
                return
            known["history"].setdefault(step, {}).update(values)

        return SimpleNamespace(
            step=max(known["history"], default=-1) + 1,
            log=log,
            summary=known["summary"],
            finish=lambda exit_code: known["ended"].append(exit_code),
        )


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)  # type: ignore[arg-type]
    monkeypatch.setattr(trackers, "find_spec", lambda _: True)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return fake


def interrupted_and_resumed(train: Trainer, made: Recipe, view: View) -> Run:
    """A run that ends in step 17, and then goes on to its end."""
    with pytest.MonkeyPatch.context() as patch:
        update = loop.Trainer._update

        def dies(trainer: loop.Trainer) -> None:
            if trainer.state.step == 17:
                raise KeyboardInterrupt
            update(trainer)

        patch.setattr(loop.Trainer, "_update", dies)
        with pytest.raises(KeyboardInterrupt):
            train(made, view=view)
    run = Run.find(Path(made.output.root) / made.name)[-1]
    return experiment.resume(run, load_recipe(run.recipe_path), view, "test")


def test_a_resumed_run_is_the_same_run_of_wandb(tiny: Maker, train: Trainer, wandb: FakeWandb) -> None:
    made = recipe(tiny, "wandb", tolerance=1.0)
    run = interrupted_and_resumed(train, made, SilentView())
    one, other = wandb.inits
    assert one["id"] == other["id"]
    assert one["resume"] == "allow"
    assert (one["project"], one["name"], one["dir"]) == ("compressm", "tiny/v0001", str(run.folder))
    assert one["config"]["train"]["steps"] == 20
    (known,) = wandb.runs.values()
    logged = [step for step, values in known["history"].items() if "train_loss" in values]
    assert logged == list(range(2, 21, 2))
    assert wandb.ignored == 0
    assert known["ended"] == [1, 0]
    summary = run.read_summary()
    assert known["summary"]["test/accuracy"] == summary["test"]["accuracy"]
    assert known["summary"]["flops/training"] == summary["flops"]["training"]
    assert None not in known["summary"].values()


@pytest.mark.usefixtures("cuts_hurt")
def test_wandb_is_told_no_earlier_step_but_each_verdict(
    tiny: Maker, train: Trainer, wandb: FakeWandb
) -> None:
    train(recipe(tiny, "wandb"))
    (known,) = wandb.runs.values()
    assert wandb.ignored == 0
    told = [
        values[f"compression/{LAYER}"]
        for values in known["history"].values()
        if len(values) and f"compression/{LAYER}" in values
    ]
    assert [text.split(":")[0] for text in told] == ["rejected"]


def test_two_runs_are_two_of_wandb(tiny: Maker, train: Trainer, wandb: FakeWandb) -> None:
    for _ in range(2):
        train(recipe(tiny, "wandb"))
    assert len(wandb.runs) == 2


# ---- TensorBoard itself --------------------------------------------------------------------------------


def shown(run: Run, name: str) -> list[tuple[int, float]]:
    """Steps and values that TensorBoard shows of a scalar."""
    read = EventAccumulator(str(run.tensorboard), size_guidance={"scalars": 0})
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


@pytest.mark.parametrize("hurt", [False, True])
def test_tensorboard_shows_each_step_once(
    tiny: Maker, train: Trainer, request: pytest.FixtureRequest, hurt: bool
) -> None:
    """Also after a cut that was undone, and after a run was interrupted and resumed."""
    if hurt:
        request.getfixturevalue("cuts_hurt")
    made = recipe(tiny, "tensorboard")
    view = Told()
    run = interrupted_and_resumed(train, made, view)
    assert view.warnings == []
    logged = [(m["step"], m["train_loss"]) for m in run.read_metrics() if "train_loss" in m]
    assert shown(run, "train_loss") == [(step, pytest.approx(loss)) for step, loss in logged]
    assert dict(shown(run, f"orders/{LAYER}"))[20] == (8 if hurt else 3)


def test_tensorboard_is_told_the_verdict_and_the_summary(tiny: Maker, train: Trainer) -> None:
    run = train(recipe(tiny, "tensorboard"))
    read = EventAccumulator(str(run.tensorboard))
    read.Reload()

    def text(name: str) -> list[str]:
        return [event.tensor_proto.string_val[0].decode() for event in read.Tensors(f"{name}/text_summary")]

    assert [t.split(":")[0] for t in text(f"compression/{LAYER}")] == ["accepted"]
    (summary,) = text("summary")
    assert json.loads(summary.strip("`\n")) == run.read_summary()


def test_tensorboard_on_a_full_disk_costs_a_warning(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(SummaryWriter, "add_scalar", full)
    view = Told()
    run = train(recipe(tiny, "tensorboard"), view=view)
    assert run.read_info()["status"] == "done"
    assert len(view.warnings) == 1
    assert "No space left on device" in view.warnings[0]
