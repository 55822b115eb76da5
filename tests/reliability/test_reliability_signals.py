"""A signal ends a run in good order, wherever it arrives, and the run goes on as if nothing had been."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import reliability
from tiny_runs import trained_once

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli import main
from compressm_cli.engine import checks, experiment, loop, saving, validation
from compressm_cli.engine.signals import EXIT_CODES, StoppedError, listening
from compressm_cli.engine.view import SilentView
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]

pytestmark = pytest.mark.usefixtures("rough_flops")
LOOSE = {"trial_steps": 12, "tolerance": 1.0}
STRICT = {"trial_steps": 12, "tolerance": 0.0, "on_rejection": "stop"}


def recipe(tiny: Maker, safety: dict[str, Any] | None = None) -> Recipe:
    """Intervals that no two have a common step, so that a stop falls within a logged window."""
    cuts = {"kind": "listed", "at_steps": [8, 21]}
    return tiny(
        compression={"method": "hankel", "keep_fraction": 0.6, "schedule": cuts, "safety": safety},
        train={"log_every": 7, "eval_every": 5, "checkpoint_every": 11, "form": "recurrent"},
    )


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


def during(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str, count: int, name: str) -> None:
    """Send a signal in the middle of the ``count``-th call of a method."""
    original, left = getattr(owner, method), [count]

    def call(*args: Any, **kwargs: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            send(name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, call)


def stopped(recipe: Recipe, train: Trainer, name: str) -> Run:
    with pytest.raises(StoppedError, match=f"stopped by {name} after step .*--resume") as error:
        train(recipe)
    assert error.value.exit_code == {"SIGTERM": 143, "SIGUSR1": 138, "SIGINT": 130}[name]
    run = Run.find(Path(recipe.output.root) / recipe.name)[-1]
    info = run.read_info()
    assert (info["status"], info["signal"]) == ("interrupted", name)
    assert (run.folder / "lock").read_text() == ""
    return run


MOMENTS = [
    (loop.Trainer, "_update", 1),
    (loop.Trainer, "_update", 13),  # a trial is on
    (loop.Trainer, "_update", 30),
    (validation, "evaluate", 1),
    (validation, "evaluate", 4),  # right after the cut
    (checks.Checks, "_context", 1),  # a check
    (surgery, "apply_plan", 1),
    (Checkpoint, "save", 1),
    (saving, "verify", 1),
    (loop.Trainer, "_verdict", 1),
]


@pytest.mark.parametrize(("owner", "method", "count"), MOMENTS)
@pytest.mark.parametrize("safety", [None, LOOSE, STRICT], ids=["applied", "accepted", "strict"])
def test_a_stopped_run_goes_on_exactly(
    tiny: Maker, train: Trainer, owner: Any, method: str, count: int, safety: dict[str, Any] | None
) -> None:
    if method == "_verdict" and safety is None:
        pytest.skip("no trial has no verdict")
    made = recipe(tiny, safety)
    whole = trained_once(made)
    with pytest.MonkeyPatch.context() as patch:
        during(patch, owner, method, count, "SIGTERM")
        part = stopped(made, train, "SIGTERM")
    assert Checkpoint.load(part.last_checkpoints()[-1]).training is not None
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert list(reliability.differences(whole, part)) == []
    assert part.read_info()["signal"] is None


@pytest.mark.parametrize("name", EXIT_CODES)
def test_each_signal_has_its_exit_code(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    during(monkeypatch, loop.Trainer, "_update", 6, name)
    run = stopped(tiny(), train, name)
    assert Checkpoint.load(run.last_checkpoints()[-1]).step == 6


def test_the_command_ends_with_the_code(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(tiny()))
    during(monkeypatch, loop.Trainer, "_update", 6, "SIGUSR1")
    assert main.run(["train", str(path), "--quiet"]) == 138
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "stopped by SIGUSR1 after step 6; go on with: compressm train --resume" in shown.err


def test_the_command_that_is_told_can_be_typed(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(tiny()))
    with monkeypatch.context() as patch:
        during(patch, loop.Trainer, "_update", 6, "SIGUSR1")
        assert main.run(["train", str(path), "--quiet", f"output.root={tmp_path}/it's my $HOME"]) == 138
    told = capsys.readouterr().err.partition("go on with: ")[2]
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {told}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert words[:3] == ["compressm", "train", "--resume"]
    assert main.run([*words[1:], "--quiet"]) == 0
    assert capsys.readouterr().out == f"{words[3]}\n"


def test_a_run_is_resumed_by_any_of_its_names(
    tiny: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny()
    path = tmp_path / "r.yaml"
    path.write_text(recipe_to_yaml(made))
    runs = Path(made.output.root) / made.name
    for number, name in enumerate(("v0001", "latest", ""), start=1):
        with monkeypatch.context() as patch:
            during(patch, loop.Trainer, "_update", 6, "SIGUSR1")
            assert main.run(["train", str(path), "--quiet"]) == 138
        capsys.readouterr()
        assert main.run(["train", "--quiet", "--resume", str(runs / name)]) == 0
        newest = runs / f"v{number:04d}"
        assert capsys.readouterr().out == f"{newest.resolve()}\n"
        assert Run.open(newest).is_done
    # The newest is what is meant, not the newest that is not done.
    assert main.run(["train", "--quiet", "--resume", str(runs)]) == 2
    assert f"{runs / 'v0003'}: this run is done" in capsys.readouterr().err


def test_a_second_interrupt_stops_at_once(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*_: Any) -> None:
        send("SIGINT")
        send("SIGTERM")  # asks for what is under way
        send("SIGINT")

    monkeypatch.setattr(loop.Trainer, "_update", twice)
    made = tiny()
    with pytest.raises(KeyboardInterrupt):
        train(made)
    (run,) = Run.find(Path(made.output.root) / made.name)
    assert run.read_info()["status"] == "interrupted"
    assert run.last_checkpoints() == []


def test_a_signal_after_the_last_moment_finds_the_run_done(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    during(monkeypatch, Run, "write_summary", 1, "SIGTERM")
    made = tiny(steps=3)
    with pytest.raises(StoppedError, match="when the run was done") as error:
        train(made)
    assert error.value.exit_code == 143
    (run,) = Run.find(Path(made.output.root) / made.name)
    assert run.read_info()["status"] == "done"


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(getattr(signal, name)) for name in EXIT_CODES]
    with pytest.raises(KeyError), listening():
        raise KeyError
    assert [signal.getsignal(getattr(signal, name)) for name in EXIT_CODES] == before
