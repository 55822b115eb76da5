"""How well each number is said: in ``summary.json``, at the end of a run, by ``evaluate`` and by ``compare``."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_runs import Trainer

from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.render.plain_view import PlainView
from compressm_cli.render.tables import comparison_markdown
from compressm_cli.reports import compare
from compressm_cli.runs.folder import Run

pytestmark = pytest.mark.usefixtures("rough_flops")
REGRESSION = {"feature_columns": ["a", "b", "c"], "target_columns": ["cost", "height"]}
FORECAST = {
    "feature_columns": ["a", "cost"],
    "target_columns": ["cost", "height"],
    "horizon": 2,
    "window": 6,
    "validation": 0.2,
    "test": 0.2,
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    chance = np.random.RandomState(0)
    rows = chance.randn(90, 3)
    cost, height = 900 + 70 * rows.sum(axis=1), 2 + 0.01 * rows[:, 0]
    lines = [",".join(f"{value:.6f}" for value in row) for row in np.column_stack([rows, cost, height])]
    Path("t.csv").write_text("\n".join(["a,b,c,cost,height", *lines]))


def recipe(name: str = "numbers", **data: Any) -> Recipe:
    return recipe_from_mapping(
        {
            "name": name,
            "data": {"task": "files", "format": "csv", "train": "t.csv", **data},
            "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 8},
            "train": {"steps": 2, "batch_size": 4, "form": "recurrent"},
            "compression": {"method": "none"},
            "device": "cpu",
        },
        "test",
    )


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (REGRESSION, ["cost", "height"]),
        (FORECAST, ["cost+1", "height+1", "cost+2", "height+2"]),
    ],
    ids=["regression", "forecasting"],
)
def test_a_run_tells_each_number_as_evaluate_does(
    train: Trainer,
    data: dict[str, Any],
    names: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = io.StringIO()
    run = train(recipe(**data), view=PlainView(shown))
    test = run.read_summary()["test"]
    assert [target["name"] for target in test["targets"]] == names
    assert command(["evaluate", str(run.folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["targets"] == test["targets"]
    assert told["metrics"] == {name: test[name] for name in ("mse", "mae", "r2")}
    assert np.mean([target["r2"] for target in test["targets"]]) == pytest.approx(test["r2"])
    lines = [line.split() for line in shown.getvalue().splitlines()]
    for target in test["targets"]:
        line = next(line for line in lines if line[:1] == [target["name"]])
        assert line[1:3] == [f"{target['mse']:.6g}", f"{target['mae']:.6g}"]


def test_each_number_is_in_its_own_unit(train: Trainer, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(recipe(**REGRESSION))
    assert command(["predict", str(run.folder), "t.csv", "--output", "said.jsonl"]) == 0
    assert command(["evaluate", str(run.folder), "data.test=t.csv", "--json"]) == 0
    said = [json.loads(line) for line in Path("said.jsonl").read_text().splitlines()]
    right = np.genfromtxt("t.csv", delimiter=",", names=True)
    for target in json.loads(capsys.readouterr().out)["targets"]:
        labels = right[target["name"]]
        wrong = np.array([row[target["name"]] for row in said]) - labels
        assert target["mse"] == pytest.approx((wrong**2).mean(), rel=1e-5)
        assert target["mae"] == pytest.approx(np.abs(wrong).mean(), rel=1e-5)
        assert target["r2"] == pytest.approx(
            1 - (wrong**2).sum() / ((labels - labels.mean()) ** 2).sum(), rel=1e-5
        )


def test_a_comparison_tells_each_number(train: Trainer) -> None:
    sides = [train(recipe(name, **REGRESSION)) for name in ("one", "two")]
    report = compare(sides[0].folder, [sides[1].folder], speed=False)
    keys = [f"test_targets:{name}:{metric}" for name in ("cost", "height") for metric in ("mse", "mae", "r2")]
    assert [row.key for row in report.targets] == keys
    told = sides[1].read_summary()["test"]["targets"]
    assert [row.values[1].by_run for row in report.targets[:3]] == [
        [told[0][m]] for m in ("mse", "mae", "r2")
    ]
    assert all(row.changes[1] is not None for row in report.targets)
    page = comparison_markdown(report)
    assert "### Each number, on the test split and in its own unit" in page
    assert "| cost: mean absolute error |" in page
    summary = sides[1].read_summary()
    summary["test"].pop("targets")  # as an earlier version wrote it
    rewrite(sides[1], summary)
    report = compare(sides[0].folder, [sides[1].folder], speed=False)
    assert report.targets[0].values[1].reason == "the run does not tell each number"
    for damaged in ([3], 3, [{"name": "cost", "mse": -1}], [{"name": "cost", "r2": "x"}]):
        summary["test"]["targets"] = damaged
        rewrite(sides[1], summary)
        with pytest.raises(BadInputError, match=r"summary\.json: test\.targets.*the run's record is damaged"):
            compare(sides[0].folder, [sides[1].folder], speed=False)


def rewrite(run: Run, summary: dict[str, Any]) -> None:
    (run.folder / "summary.json").write_text(json.dumps(summary))


def test_of_very_many_numbers_some_are_shown_and_all_are_kept(train: Trainer) -> None:
    shown = io.StringIO()
    run = train(recipe(**{**FORECAST, "target_columns": None, "horizon": 9}), view=PlainView(shown))
    assert len(run.read_summary()["test"]["targets"]) == 18
    told = shown.getvalue()
    assert "cost+1 " in told
    assert "cost+9 " in told
    assert "cost+8" not in told
    assert "7 more are in summary.json" in told
