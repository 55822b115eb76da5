"""``compressm sweep`` from its words to tables, files and exit codes, with quick processes that train nothing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from stand_ins import RECIPE, Behave

from compressm_cli.cli.main import run
from compressm_cli.sweeps import workers

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a recipe in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def sweep(*words: str) -> int:
    return run(["sweep", *words])


def plan_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "sweep.json").read_text())
    return found


def test_a_grid_with_seeds(folder: Path, stand_in: Behave, capsys: Capture) -> None:
    words = ["tiny.yaml", "train.learning_rate=0.01,0.02", "train.steps=20", "--seeds", "0..1"]
    assert sweep(*words) == 0
    shown = capsys.readouterr()
    home = folder / "outputs" / "sweeps" / "tiny" / "v0001"
    assert shown.out.splitlines()[-1] == str(home)
    # 0.5 + seed / 100 + learning rate, by the stand-in.
    assert "learning_rate=0.02 *" in shown.out
    assert "52.5 ± 6.4 %" in shown.out
    assert "42.5 ± 6.4 %" in shown.out
    assert "done: learning_rate=0.01, seed 0" in shown.err
    plan = plan_of(home)
    assert plan["points"][1] == {"name": "learning_rate=0.02", "changes": {"train.learning_rate": "0.02"}}
    assert (plan["seeds"], plan["settings"], plan["recipe"]) == ([0, 1], ["train.steps=20"], "tiny.yaml")
    assert [job["name"] for job in plan["jobs"]][:3] == [
        "learning_rate=0.01, seed 0",
        "learning_rate=0.02, seed 0",
        "learning_rate=0.01, seed 1",
    ]
    for job in plan["jobs"]:
        assert (home / job["recipe"]).is_file()
        assert len(list((home / job["folder"]).glob("v*/summary.json"))) == 2
    assert {"command", "versions", "git", "started"} <= set(plan)
    results = json.loads((home / "results.json").read_text())
    assert results["best"] == "learning_rate=0.02"
    assert results["points"][0]["trainings"][1]["validation"] == pytest.approx(0.52)
    # The same command goes on, and has nothing to do; so has --resume.
    for again in (words, ["--resume", str(home.parent)], [*words, "--resume", str(home)]):
        assert sweep(*again, "--json") == 0
        shown = capsys.readouterr()
        assert json.loads(shown.out) == results
        assert f"going on with {home}" in shown.err
    assert all(path.read_text() == "x" for path in home.glob("runs/*/v*/tries"))
    # Another plan is another sweep, or refused.
    assert sweep("tiny.yaml", "train.learning_rate=0.01,0.04", "--resume", str(home)) == 2
    told = capsys.readouterr().err
    assert "another sweep was begun here: is new: learning_rate=0.04, seed 0" in told
    assert (
        sweep(
            "tiny.yaml",
            "train.learning_rate=0.01,0.02",
            "train.warmup=0.2",
            "--seeds",
            "0..1",
            "--resume",
            str(home),
        )
        == 2
    )
    assert "train.warmup 0.1 -> 0.2" in capsys.readouterr().err
    assert sweep("tiny.yaml", "train.steps=10,20", "--quiet") == 0
    assert (home.parent / "latest").resolve() == home.parent / "v0002"
    # A damaged plan is told.
    damaged = {key: value for key, value in plan.items() if key != "jobs"}
    (home.parent / "v0002" / "sweep.json").write_text(json.dumps(damaged))
    assert sweep("--resume", str(home.parent)) == 2
    assert "jobs must be a list; the plan is damaged" in capsys.readouterr().err
    # What a forecast knows of a sweep that is done.
    capsys.readouterr()
    assert sweep(*words, "--dry-run", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert (cost["trainings"], cost["done"], cost["flops"]) == (4, 4, 0.0)
    assert cost["points"][0]["seconds"] == 2.0


def test_what_it_costs_is_what_train_says(folder: Path, capsys: Capture) -> None:
    assert sweep("tiny.yaml", "train.steps=10,20", "--seeds", "0..2", "--dry-run", "--json") == 0
    cost = json.loads(capsys.readouterr().out)
    assert run(["train", "tiny.yaml", "--dry-run", "train.steps=10"]) == 0
    shown = capsys.readouterr().out
    assert f" {cost['points'][0]['flops']:,.0f} " in shown
    assert cost["flops"] == 3 * sum(point["flops"] for point in cost["points"])
    assert cost["points"][0]["seconds"] is None
    assert "not known before a training" in cost["points"][0]["seconds_reason"]
    assert not (folder / "outputs").exists()
    assert sweep("tiny.yaml", "budget.flops=1e6,2e6", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "1.00 MFLOP" in shown
    assert "2 trainings to come: 3.00 MFLOP before cuts, seconds not known." in shown


def test_failures_are_told_and_tried_again(folder: Path, stand_in: Behave, capsys: Capture) -> None:
    stand_in(**{"learning_rate=0.01": "fails", "learning_rate=0.02": "is killed"})
    words = ["tiny.yaml", "train.learning_rate=0.01,0.02,0.04"]
    assert sweep(*words, "--jobs", "1") == 1
    shown = capsys.readouterr()
    assert "error: learning_rate=0.01, seed 0: learning_rate=0.01 went wrong" in shown.err
    assert "SIGKILL" not in shown.err
    assert "0 of 1 failed" in shown.out
    assert sweep(*words, "--keep-going", "--quiet") == 1
    shown = capsys.readouterr()
    assert shown.err.count("error: ") == 2
    assert "error: learning_rate=0.02, seed 0: was killed from outside by SIGKILL" in shown.err
    assert "learning_rate=0.04 *" in shown.out
    stand_in()
    assert sweep(*words) == 0
    assert "failed" not in capsys.readouterr().out


def test_points_that_are_equal_are_trained_once(folder: Path, stand_in: Behave, capsys: Capture) -> None:
    assert sweep("tiny.yaml", "train.learning_rate=0.01,1e-2,0.02", "--json") == 0
    shown = capsys.readouterr()
    assert "warning: point learning_rate=0.01-2 is equal to learning_rate=0.01, and trained once" in shown.err
    assert len(json.loads(shown.out)["points"]) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["tiny.yaml", "train.steps=10,x"], "error: point steps=x: override 'train.steps=x': train.steps: "),
        (["tiny.yaml", "train.stps=1,2"], "train.stps: unknown key; did you mean 'steps'?"),
        (["tiny.yaml", "train.steps=0,10", "train.batch_size=-1"], "2 errors in the recipe"),
        (
            ["tiny.yaml", "compression={method: hankel, target_order: [2, 2]},{method: none}"],
            "point compression=method-hankel",
        ),
        (["tiny.yaml", "--seeds", "x"], "--seeds: 'x' is no seed"),
        (["tiny.yaml", "--list", "none.csv"], "--list none.csv: cannot be read"),
        (["tiny.yaml", "--name", "a/b"], "--name 'a/b': write letters"),
        (["--resume", "nowhere"], "nowhere: no such folder"),
        (["--resume", "."], "not the folder of a sweep"),
        (["--resume", ".", "--seeds", "1"], "--resume takes the plan from its folder"),
        ([], "which recipe?"),
    ],
)
def test_nothing_is_trained_of_a_plan_with_a_mistake(
    folder: Path, stand_in: Behave, capsys: Capture, words: list[str], told: str
) -> None:
    assert sweep(*words) == 2
    assert told in capsys.readouterr().err
    assert not (folder / "outputs").exists()


@pytest.mark.slow
def test_trainings_of_a_killed_sweep_save_and_go_on(folder: Path) -> None:
    """The real thing: processes that train, whose parent is killed, and the same command again."""
    command = [
        sys.executable,
        "-m",
        "compressm_cli",
        "sweep",
        "tiny.yaml",
        "train.steps=100,100000",
        "--keep-going",
    ]
    settings = ["train.log_every=10", "train.checkpoint_every=100000", "--quiet"]
    killed = subprocess.Popen([*command, *settings], stderr=subprocess.DEVNULL)
    runs = folder / "outputs" / "sweeps" / "tiny" / "v0001" / "runs"
    short, long = (runs / f"steps={steps}" / "v0001" for steps in (100, 100000))
    _until(lambda: (short / "summary.json").exists() and (long / "metrics.jsonl").exists())
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    _until(lambda: json.loads((long / "run.json").read_text())["status"] == "interrupted")
    assert list(long.glob("checkpoints/last-*.pt"))
    again = subprocess.Popen([*command, *settings, "--json"], stdout=subprocess.PIPE)
    _until(lambda: len(json.loads((long / "run.json").read_text()).get("resumed", [])) == 1)
    again.send_signal(signal.SIGTERM)
    assert again.wait(300) == 143
    assert len(list(runs.glob("*/v*"))) == 2


def _until(condition: Any, seconds: float = 900) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.1)
