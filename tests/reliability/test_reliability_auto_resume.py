"""``compressm train RECIPE --auto-resume``: what a job that is started again does."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.cli import main
from compressm_cli.engine import loop
from compressm_cli.recipe import Recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run

Maker = Callable[..., Recipe]

pytestmark = pytest.mark.usefixtures("rough_flops")


@pytest.fixture
def path(tiny: Maker, tmp_path: Path) -> Path:
    file = tmp_path / "r.yaml"
    file.write_text(recipe_to_yaml(tiny(steps=6, train={"checkpoint_every": 2})))
    return file


@pytest.fixture
def auto(path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, list[str], str]]:
    """Runs the command; its exit code, the versions on standard output, and standard error."""

    def call(*more: str) -> tuple[int, list[str], str]:
        code = main.run(["train", str(path), "--auto-resume", "--quiet", *more])
        shown = capsys.readouterr()
        return code, [Path(line).name for line in shown.out.split()], shown.err

    return call


def dying(step: int) -> Any:
    """Training that ends like a killed process after some steps of all runs together."""
    original, left = loop.Trainer._update, [step]

    def update(trainer: loop.Trainer) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        original(trainer)

    return update


Auto = Callable[..., tuple[int, list[str], str]]


def test_a_run_is_begun_gone_on_with_and_left_when_done(auto: Auto, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(5))
        code, printed, told = auto()
    assert (code, printed) == (130, [])
    assert "seed 0: starting a new run" in told
    code, printed, told = auto()
    assert (code, printed) == (0, ["v0001"])
    assert "seed 0: going on with" in told
    run = Run.open(tmp_path / "outputs" / "tiny" / "v0001")
    assert [r["step"] for r in run.read_info()["resumed"]] == [4]
    assert any(run.plots.iterdir())
    code, printed, told = auto()
    assert (code, printed) == (0, ["v0001"])
    assert "v0001 is done" in told


def test_each_seed_on_its_own(auto: Auto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(6 + 3))  # seed 0 ends, seed 1 does not
        assert auto("--seeds", "0,1,2")[:2] == (130, ["v0001"])
    code, printed, told = auto("--seeds", "0,1,2")
    assert (code, printed) == (0, ["v0001", "v0002", "v0003"])
    assert [line.split(":")[1].split()[0] for line in told.splitlines() if line.startswith("seed")][1:] == [
        "going",
        "starting",
    ]


def test_another_recipe_is_another_run(auto: Auto) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(3))
        auto()
    assert auto("train.learning_rate=0.02")[1] == ["v0002"]
    assert auto("output.keep_last=3")[1] == ["v0001"]


def test_a_live_or_a_broken_run_is_passed_over(auto: Auto, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(3))
        auto()
    run = Run.open(tmp_path / "outputs" / "tiny" / "v0001")
    with run.lock():
        code, printed, told = auto()
    assert (code, printed) == (0, ["v0002"])
    assert "passed over" in told
    assert "this run is live" in told
    for checkpoint in run.last_checkpoints():
        checkpoint.write_bytes(b"")
    assert auto("--seeds", "0")[1] == ["v0002"]  # done is done, whatever is older


def test_a_run_without_a_readable_checkpoint_is_passed_over(auto: Auto, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(3))
        auto()
    for checkpoint in Run.open(tmp_path / "outputs" / "tiny" / "v0001").last_checkpoints():
        checkpoint.write_bytes(b"")
    code, printed, told = auto()
    assert (code, printed) == (0, ["v0002"])
    assert "not a readable checkpoint" in told


@pytest.mark.parametrize("file", ["run.json", "recipe.yaml"])
def test_a_run_that_does_not_say_whose_it_is_is_told(auto: Auto, tmp_path: Path, file: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(3))
        auto()
    path = tmp_path / "outputs" / "tiny" / "v0001" / file
    path.write_bytes(path.read_bytes()[:30])
    code, printed, told = auto()
    assert (code, printed) == (0, ["v0002"])
    assert re.search(rf"seed 0: passed over: \S+v0001: \S+{file}", told)


def test_folders_of_a_run_that_are_gone_are_made_again(auto: Auto, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.Trainer, "_update", dying(3))
        auto()
    run = Run.open(tmp_path / "outputs" / "tiny" / "v0001")
    shutil.rmtree(run.checkpoints)
    shutil.rmtree(run.plots)
    code, printed, _ = auto()
    assert (code, printed) == (0, ["v0001"])
    assert run.final_checkpoint.is_file()
    assert list(run.plots.iterdir())


def test_it_goes_with_a_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.run(["train", "--resume", str(tmp_path), "--auto-resume"]) == 2
    assert "--auto-resume" in capsys.readouterr().err
