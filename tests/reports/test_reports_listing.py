"""What ``compressm runs`` lists: whatever lies in run folders, and which of them are meant."""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from compressm_cli.cli import candidates
from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.render.table import Table
from compressm_cli.reports import listing
from compressm_cli.reports.conditions import Condition, chosen, ordered
from compressm_cli.reports.listing import Entry, entry, read_entry, runs_below
from compressm_cli.runs.folder import Run

RECIPE = """\
name: {name}
seeds: [{seed}]
model:
  layer: {{kind: lru, state_dim: 64}}
train: {{steps: 300, learning_rate: {rate}, precision: fp32}}
compression: {{method: none, target_order: null}}
"""


def summary(accuracy: float, **changes: Any) -> dict[str, Any]:
    return {
        "format": 2,
        "steps": 300,
        "primary": {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"},
        "test": {"accuracy": accuracy},
        "validation": {"accuracy": accuracy - 0.01},
        "orders": {"start": {"blocks.0.layer": 64}, "final": {"blocks.0.layer": 9}},
        "axes": {"start": {"states": 64}, "final": {"states": 9, "heads": 4}},
        "flops": {"training": 1.5e9},
        "seconds": {"total": 12.5},
        **changes,
    }


def made(
    root: Path,
    name: str = "one",
    seed: int = 0,
    accuracy: float = 0.9,
    rate: str = "0.004",
    status: str = "done",
    **changes: Any,
) -> Path:
    """A run of few files; ``changes`` are those of its summary."""
    run = Run.create(root, name)
    run.write_recipe(RECIPE.format(name=name, seed=seed, rate=rate))
    minute = len(list(root.rglob("run.json")))
    info = {"status": status, "recipe": name, "seed": seed, "started": f"2026-01-01T00:{minute:02d}:00+00:00"}
    run.write_info({**info, "error": "RunFailedError: the loss became nan" if status == "failed" else None})
    run.append_metrics({"step": 40, "train_loss": 1.0})
    if status == "done":
        run.write_summary({"recipe": name, "seed": seed, **summary(accuracy, **changes)})
    return run.folder


def only(root: Path) -> Entry:
    (found,) = runs_below([root]).runs
    return found


# ---- what is found ----------------------------------------------------------------------------------------


def test_a_finished_run_is_told_whole(tmp_path: Path) -> None:
    folder = made(tmp_path)
    assert only(tmp_path).record() == {
        "folder": str(folder), "name": "one", "version": "v0001", "seed": 0, "status": "done", "metric": "accuracy",
        "test": 0.9, "validation": 0.89, "steps": 300, "flops": 1.5e9, "seconds": 12.5,
        "orders": {"blocks.0.layer": 9}, "axes": {"states": 9, "heads": 4}, "when": "2026-01-01T00:00:00+00:00",
        "reason": None,
    }  # fmt: skip


def test_runs_are_found_at_any_depth_once_and_links_are_not_followed(tmp_path: Path) -> None:
    first = made(tmp_path)
    second = made(tmp_path / "sweeps" / "grid" / "v0001" / "runs", "two")
    assert (first.parent / "latest").is_symlink()
    (tmp_path / "loop").symlink_to(tmp_path)
    found = runs_below([tmp_path, first.parent, first])
    assert [run.folder for run in found.runs] == [first, second]
    assert found.warnings == []
    with pytest.raises(BadInputError, match="no such folder"):
        runs_below([tmp_path / "none"])


def test_what_is_too_deep_or_too_much_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path.joinpath(*"abcdefghij"))
    found = runs_below([tmp_path])
    assert (found.runs, found.warnings) == (
        [],
        [f"{tmp_path}: folders more than 8 levels below it are left out"],
    )
    monkeypatch.setattr(listing, "MOST_FOLDERS", 3)
    assert "more than 3 folders" in runs_below([tmp_path]).warnings[0]


@pytest.mark.parametrize(
    ("status", "told", "reason"),
    [
        ("failed", "failed", "RunFailedError: the loss became nan"),
        ("interrupted", "interrupted", None),
        ("running", "interrupted", "its process ended without a word"),
        ("pruned", "pruned", None),
    ],
)
def test_a_run_that_is_not_done(tmp_path: Path, status: str, told: str, reason: str | None) -> None:
    made(tmp_path, status=status)
    run = only(tmp_path)
    assert (run.status, run.reason, run.steps, run.test) == (told, reason, 40, None)


def test_a_run_whose_lock_is_held_runs(tmp_path: Path) -> None:
    run = Run.open(made(tmp_path, status="running"))
    with run.lock():
        assert only(tmp_path).status == "running"
    assert only(tmp_path).status == "interrupted"


def test_the_lock_of_a_process_that_was_killed_is_held_by_nobody(tmp_path: Path) -> None:
    folder = made(tmp_path, status="running")
    code = (
        "import os, sys; from pathlib import Path; from compressm_cli.runs.lock import held\n"
        "with held(Path(sys.argv[1])): os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, str(folder / "lock")], check=False)
    assert json.loads((folder / "lock").read_text())["pid"] > 0
    assert only(tmp_path).status == "interrupted"


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("run.json", "{", "run.json: cannot be read"),
        ("run.json", "[" * 100_000, "run.json: cannot be read"),
        ("run.json", "[1]", "run.json: expected a mapping"),
        ("run.json", '{"status": 3}', "run.json: status must be a word, found the number 3"),
        ("run.json", '{"git": 3}', "run.json: git must be a mapping"),
        ("run.json", '{"status": "done"}', "is done by its run.json, and has no summary.json"),
        ("run.json", None, "has no run.json"),
        ("summary.json", "\x00", "summary.json: cannot be read"),
        ("summary.json", "{}", "summary.json: has no entry 'test.accuracy'"),
        ("summary.json", '{"deep":' * 900 + "1" + "}" * 900, "more than 100 deep"),
        ("summary.json", json.dumps(summary(0.9, primary=[3])), "primary must be a mapping with a name"),
        ("summary.json", json.dumps(summary(0.9, steps="x")), "steps must be null or a finite number"),
        ("summary.json", json.dumps(summary(float("nan"))), "test.accuracy must be null or a finite number"),
        (
            "summary.json",
            json.dumps(summary(0.9, test={"accuracy": 10**400})),
            "test.accuracy must be null or a finite number",
        ),
    ],
)
def test_a_damaged_run_is_a_row_with_its_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, text: str | None, reason: str
) -> None:
    folder = made(tmp_path, status="done" if file == "summary.json" else "failed")
    (folder / file).unlink() if text is None else (folder / file).write_text(text)
    run = only(tmp_path)
    assert run.status == "damaged"
    assert reason in str(run.reason)
    for form in ([], ["--json"], ["--csv"], ["--markdown"], ["--latex"]):
        assert command(["runs", str(tmp_path), *form]) == 0
        assert "damaged" in capsys.readouterr().out


def test_odd_entries_are_shown_all_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = Run.open(made(tmp_path, orders=[3], axes=None))
    info = {
        "status": "done",
        "recipe": 3,
        "seed": "x",
        "finished": 5,
        "odd": float("inf"),
        "\x1b[2J": "\x1b[2J",
    }
    (run.folder / "run.json").write_text(json.dumps(info))
    run.write_recipe("a: [1\n")
    told = only(tmp_path)
    assert (told.name, told.seed, told.when, told.orders, told.recipe) == ("one", 0, None, None, {})
    assert command(["runs", str(tmp_path)]) == 0
    assert command(["runs", str(tmp_path), "--json", "--columns", "odd,folder"]) == 0
    assert '"odd": null' in capsys.readouterr().out


# ---- which are meant --------------------------------------------------------------------------------------


@pytest.fixture
def runs(tmp_path: Path) -> list[Entry]:
    made(tmp_path, "a", 0, 0.9, "0.004")
    made(tmp_path, "a", 1, 0.95, "1e-3")
    made(tmp_path, "b", 0, 0.8, "0.008", status="failed")
    return runs_below([tmp_path]).runs


@pytest.mark.parametrize(
    ("conditions", "meant"),
    [
        (["status=done"], [0, 1]),
        (["status!=done"], [2]),
        (["test>=0.95"], [1]),
        (["test<0.95"], [0]),
        (["train.learning_rate<0.004"], [1]),
        (["train.learning_rate = 4e-3"], [0]),
        (["train.learning_rate>0.001", "name~^a$"], [0]),
        (["seed=0", "model.layer.kind='lru'"], [0, 2]),
        (["model.layer.kind<m"], [0, 1, 2]),
        (["seeds=[1]"], [1]),
        (["seeds.0=1"], [1]),
        (["compression.method~no.e"], [0, 1, 2]),
        (["compression.target_order=null"], [0, 1, 2]),
        (["test=null"], [2]),
        (["test!=0.9"], [1, 2]),
        (["orders.final.blocks.0.layer=9"], [0, 1]),
        (["summary.steps=300"], [0, 1]),
        (["run.status=failed"], [2]),
        (["recipe.name=b"], [2]),
    ],
)
def test_conditions(runs: list[Entry], conditions: list[str], meant: list[int]) -> None:
    found = chosen(runs, [Condition.parse(text) for text in conditions])
    assert found == [runs[i] for i in meant]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("status", "not a condition; write KEY=VALUE"),
        ("a." * 3000 + "a=1", "no run has an entry with so long a name"),
        ("status==done", "not a condition"),
        ("name~(", "not a regular expression"),
        ("test>null", "has no order"),
        ("test>.nan", "has no order"),
        ("train.stps=3", "no run has an entry 'train.stps'; did you mean 'train.steps'"),
        ("learning_rate=3", "did you mean 'train.learning_rate'"),
        ("train.learning_rate>much", "train.learning_rate is '0.004' in .* which has no order with 'much'"),
        ("orders.final>3", "has no order with 3; compare it with = or ~, or put a text in quotes"),
    ],
)
def test_what_is_no_condition_is_told(runs: list[Entry], text: str, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        chosen(runs, [Condition.parse(text)])


def test_order_puts_what_is_not_known_last(runs: list[Entry]) -> None:
    assert ordered(runs, "test") == [runs[0], runs[1], runs[2]]
    assert ordered(runs, "-test") == [runs[1], runs[0], runs[2]]
    assert ordered(runs, "-train.learning_rate") == [runs[2], runs[0], runs[1]]
    assert [run.name for run in ordered(runs, "-name")] == ["b", "a", "a"]
    with pytest.raises(BadInputError, match="--sort tst: no run has an entry"):
        ordered(runs, "tst")


def test_names_with_dots_are_found() -> None:
    document = {"a.b": {"c": 1}, "a": {"b.c": 2, "d": [{"e": 3}]}}
    assert entry(document, "a.b.c") == 1
    assert entry(document, "a.d.0.e") == 3
    assert entry(document, "a.d.1.e") is entry(document, "a.d.0x.e") is listing.MISSING


# ---- how they are told ------------------------------------------------------------------------------------


def test_the_table_has_the_columns_that_have_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path, "a_rather_long_name_of_it")
    made(tmp_path, "b", status="failed")
    shown = {}
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert command(["runs", str(tmp_path)]) == 0
        shown[columns] = capsys.readouterr().out
        assert max(map(len, shown[columns].splitlines())) <= columns
        assert "a_rather_long_name_of_it/v0001" in shown[columns]
        assert "failed [1]" in shown[columns]
        assert "[1] RunFailedError: the loss became nan" in shown[columns]
    assert "1.50 GFLOP" not in shown[60]
    assert "1.50 GFLOP" in shown[120]
    assert "90.0 %" in shown[60]


def test_formats(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, "a_b", accuracy=1 / 3)
    assert command(["runs", str(tmp_path), "--csv", "--columns", "name,test,orders,train.learning_rate"]) == 0
    rows = list(csv.reader(io.StringIO(capsys.readouterr().out)))
    assert rows == [
        ["name", "test", "orders", "train.learning_rate"],
        ["a_b", "0.3333333333333333", "{blocks.0.layer: 9}", "0.004"],
    ]
    assert command(["runs", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [only(tmp_path).record()]
    assert command(["runs", str(tmp_path), "--latex"]) == 0
    text = capsys.readouterr().out
    assert "\\toprule" in text
    assert "a\\_b/v0001 & 0 & done & 33.3 \\%" in text
    assert command(["runs", str(tmp_path), "--markdown"]) == 0
    assert "| a\\_b/v0001 | 0 | done | 33.3 % |" in capsys.readouterr().out
    assert command(["runs", str(tmp_path), "--csv", "--json"]) == 2
    assert "--json and --csv exclude each other" in capsys.readouterr().err


def test_the_newest_and_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(3):
        made(tmp_path, seed=seed)
    given = ["runs", str(tmp_path), "--csv", "--columns", "seed"]
    assert command([*given, "--last", "2", "--sort=-seed"]) == 0
    assert capsys.readouterr().out.split() == ["seed", "2", "1"]
    assert command(["runs", str(tmp_path), "--where", "seed=7"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", f"none of 3 runs is meant, below {tmp_path}\n")
    assert command([*given, "--where", "seed=7"]) == 0
    assert capsys.readouterr().out == "seed\n"
    (tmp_path / "empty").mkdir()
    assert command(["runs", str(tmp_path / "empty")]) == 0
    assert command(["runs", str(tmp_path / "none")]) == 2


def test_columns_are_completed() -> None:
    assert candidates.columns("st") == [("status", ""), ("steps", "")]


def test_latex_shows_text_as_it_is() -> None:
    table = Table("50 % of_it", ["", "a\nb"], [["[x]", "1 ± 2 {$}"], ["~^\\", "<&>#"]], ["a_note"])
    lines = table.latex().splitlines()
    assert "\\caption{50 \\% of\\_it}" in lines
    assert " & a b \\\\" in lines
    assert "{[}x{]} & 1 $\\pm$ 2 \\{\\$\\} \\\\" in lines
    escaped = (
        "\\textasciitilde{}\\textasciicircum{}\\textbackslash{} & \\textless{}\\&\\textgreater{}\\# \\\\"
    )
    assert escaped in lines
    assert "\\par\\footnotesize a\\_note" in lines


def test_runs_are_listed_without_torch(tmp_path: Path) -> None:
    folder = made(tmp_path)
    code = (
        "import sys; from compressm_cli.cli.main import run\n"
        f"code = run(['runs', {str(tmp_path)!r}, '--where', 'train.steps=300'])\n"
        "print(code, [m for m in ('torch', 'numpy', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert read_entry(folder).status == "done"
