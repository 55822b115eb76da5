"""Searches: what may be tried, which trials are given up, and how a search goes on."""

import json
from pathlib import Path

import pytest
from stand_ins import RECIPE, Behave

from compressm_cli.cli.main import run
from compressm_cli.core.errors import BadInputError
from compressm_cli.sweeps import search as search_module
from compressm_cli.sweeps import workers
from compressm_cli.sweeps.grid import Axis
from compressm_cli.sweeps.search import between
from compressm_cli.sweeps.space import Range, ends, read_space, require_no_range

WORDS = [
    "tiny.yaml",
    "train.learning_rate=1e-4..1e-1:log",
    "model.layer.state_dim=2..8",
    "model.norm=layer,rms",
]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(workers, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(workers, "LOOK_SECONDS", 0.02)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


def test_words_are_ranges_and_choices() -> None:
    space, fixed = read_space(["a=1..4", "b=1e-4..1e-2:log", "c=x,[1, 2]", "d=3", "e=.5..1.5"])
    assert space == [
        Range("a", "1", "4", False),
        Range("b", "1e-4", "1e-2", True),
        Range("e", ".5", "1.5", False),
        Axis("c", ("x", "[1, 2]")),
    ]
    assert [parameter.is_whole for parameter in space if isinstance(parameter, Range)] == [True, False, False]
    assert fixed == ["d=3"]
    assert [dict(point.changes)["a"] for point in ends(space)] == ["1", "4", "1", "1", "1"]
    assert [dict(point.changes)["c"] for point in ends(space)] == ["x", "x", "x", "x", "[1, 2]"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["a=1"], "nothing to search; write key=LOW..HIGH"),
        (["a=4..1"], "the first number must be the smaller one"),
        (["a=1..1"], "the first number must be the smaller one"),
        (["a=0..1:log"], "logarithms need numbers above 0"),
        (["a=1..2", "a=3"], "a is given 2 times"),
        (["a=1e..2"], "1e is no number"),
        (["seeds=0..4"], "nothing to sweep over: write --seeds"),
    ],
)
def test_words_that_make_no_search(words: list[str], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        read_space(words)


def test_a_grid_has_no_ranges() -> None:
    require_no_range(["a=1,2", "data.path=../x..y"])
    with pytest.raises(BadInputError, match="ranges are searched with --optuna N"):
        require_no_range(["a=1..2"])


def test_runs_are_compared_where_as_much_was_spent() -> None:
    judged = [(0.1, 0.2), (0.3, 0.4), (0.3, 0.6), (0.5, 0.6)]
    assert between(judged, 0.2) == pytest.approx(0.3)
    assert between(judged, 0.3) == pytest.approx(0.4)
    assert between(judged, 0.4) == pytest.approx(0.6)
    assert between(judged, 0.05) is None
    assert between(judged, 0.55) is None


def test_a_search_goes_on_to_more_trials(folder: Path, stand_in: Behave, capsys: Capture) -> None:
    pytest.importorskip("optuna")
    assert run(["sweep", *WORDS, "--optuna", "3", "--seeds", "0..1"]) == 0
    shown = capsys.readouterr()
    home = folder / "outputs" / "sweeps" / "tiny" / "v0001"
    assert shown.out.splitlines()[-1] == str(home)
    results = json.loads((home / "results.json").read_text())
    assert len(results["points"]) == 3
    # The stand-in's value is larger with a larger learning rate; the best trial has the largest of them.
    rates = {p["name"]: float(p["changes"]["train.learning_rate"]) for p in results["points"]}
    assert results["best"] == max(rates, key=rates.__getitem__)
    assert all(1e-4 <= rate <= 1e-1 for rate in rates.values())
    assert all(p["changes"]["model.layer.state_dim"] in "2345678" for p in results["points"])
    assert [t["seed"] for t in results["points"][0]["trainings"]] == [0, 1]
    # From the folder alone, and from the command: the trials that were done stay.
    assert run(["sweep", "--resume", str(home), "--optuna", "4", "--json"]) == 0
    more = json.loads(capsys.readouterr().out)
    assert more["points"][:3] == results["points"]
    assert len(more["points"]) == 4
    assert run(["sweep", *WORDS, "--optuna", "4", "--seeds", "0..1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == more
    assert all(path.read_text() == "x" for path in home.glob("runs/*/v*/tries"))
    assert run(["sweep", *WORDS, "train.steps=10", "--optuna", "4", "--resume", str(home)]) == 2
    assert "another search" in capsys.readouterr().err


def test_failed_trials_are_tried_again(folder: Path, stand_in: Behave, capsys: Capture) -> None:
    pytest.importorskip("optuna")
    stand_in(**{"*": "fails"})
    words = ["sweep", "tiny.yaml", "train.learning_rate=1e-4..1e-1:log", "--optuna", "2", "--jobs", "1"]
    assert run(words) == 1
    assert capsys.readouterr().err.count("error: trial000") == 1
    stand_in()
    assert run([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["points"]
    assert [point["name"][:8] for point in found] == ["trial000", "trial002"]
    home = folder / "outputs" / "sweeps" / "tiny" / "v0001"
    assert sorted(len(path.read_text()) for path in home.glob("runs/*/v*/tries")) == [1, 2]


def test_what_is_worse_than_the_others_is_given_up(
    folder: Path, stand_in: Behave, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    optuna = pytest.importorskip("optuna")
    monkeypatch.setattr(search_module, "MARKS", (30,))
    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda trial: True)
    stand_in(**{"*": "trains on"})
    words = ["sweep", "tiny.yaml", "train.learning_rate=1e-4..1e-1:log", "--optuna", "2", "--seeds", "0..1"]
    assert run([*words, "--json"]) == 0
    shown = capsys.readouterr()
    points = json.loads(shown.out)["points"]
    # Of a trial that is given up no further seed is trained.
    assert [[t["status"] for t in point["trainings"]] for point in points] == [["pruned", "waiting"]] * 2
    home = folder / "outputs" / "sweeps" / "tiny" / "v0001"
    assert [json.loads(path.read_text())["status"] for path in home.glob("runs/*/v*/run.json")] == [
        "pruned"
    ] * 2
    assert run(words) == 0
    assert "pruned" in capsys.readouterr().out
    assert all(path.read_text() == "x" for path in home.glob("runs/*/v*/tries"))


def test_a_search_is_judged_and_shown_beforehand(folder: Path, capsys: Capture) -> None:
    pytest.importorskip("optuna")
    assert run(["sweep", "tiny.yaml", "train.learning_rate=1e-4..20", "--optuna", "2"]) == 2
    assert "point learning_rate=20: override 'train.learning_rate=20'" in capsys.readouterr().err
    assert run(["sweep", "tiny.yaml", "train.steps=10..20", "--optuna", "7", "--dry-run"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "a search over train.steps=10..20, its ends, seeds 0: 7 trainings" in shown
    assert "7 trainings to come: FLOPs not known" in shown
    assert not (folder / "outputs").exists()
