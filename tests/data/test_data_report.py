"""What was read of the user's files is told, and what looks wrong in them."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from compressm_cli.cli.main import run
from compressm_cli.data.files import Files
from compressm_cli.render.data_table import data_table

XY = {"feature_columns": ["x", "y"], "label_column": "label"}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def report(rows, name="rows.jsonl", **keys):
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return Files(**{"format": "jsonl", "train": name, **XY, **keys}).load().report


def plain(count=40, label=lambda n: "ab"[n % 2]):
    return [{"x": n / 20, "y": -n / 20, "label": label(n)} for n in range(count)]


def test_rows_classes_and_lengths_of_each_split():
    found = report(plain(label=lambda n: "a" if n % 4 else "b"))
    assert {key: split.rows for key, split in found.splits.items()} == {
        "train": 32,
        "validation": 4,
        "test": 4,
    }
    assert found.splits["train"].classes == {"a": 24, "b": 8}
    assert found.splits["test"].lengths == (2, 2.0, 2)
    assert found.inputs == "one number, of the columns 'x' to 'y' (2)"
    assert found.numbers == ["channels as they stand (their means and deviations are near 0 and 1)"]
    assert found.warnings == []
    series = [{"s": [[n, 1.0]] * (1 + n % 3), "label": "ab"[n % 2]} for n in range(30)]
    found = report(series, sequence_column="s", feature_columns=None)
    assert found.splits["train"].lengths == (1, 2.0, 3)
    assert found.inputs == "2 channels: s[1], s[2]"
    assert found.numbers[0].endswith("one value alone: 's[2]'")
    assert json.loads(json.dumps(asdict(found)))["splits"]["train"]["rows"] == 24


def test_why_numbers_are_standardized_and_what_a_target_is_measured_in():
    rows = [{"x": 1e9 + n, "y": 1e9, "area": 20.0 * n} for n in range(40)]
    found = report(rows, label_column=None, target_columns=["area"], standardize=True)
    assert found.splits["train"].classes is None
    assert found.numbers[0] == "channels standardized (standardize: true)"
    deviation = (
        Files(
            format="jsonl",
            train="rows.jsonl",
            **{**XY, "label_column": None},
            target_columns=["area"],
            standardize=True,
        )
        .load()
        .encoding.outputs.standardization.deviation[0]
    )
    told = f"in losses, mse and mae 1 is a deviation: {deviation:.4g} of 'area'"
    assert found.numbers[1] == f"targets standardized (standardize: true); {told}"
    found = report(rows, label_column=None, target_columns=["area"])
    assert "channels standardized ('value' has a mean of 1e+09 and a deviation of" in found.numbers[0]


@pytest.mark.parametrize(
    ("rows", "keys", "told"),
    [
        (plain(label=lambda n: n * n), {}, "the labels are 40 different numbers in 32 training rows"),
        (
            plain(label=lambda n: str(n % 4 / 2)),
            {"format": "jsonl"},
            "the labels are 4 different numbers in 32",
        ),
        (plain(label=lambda n: f"id{n}"), {}, "40 classes in 32 training rows: nearly every row is a class"),
        (
            plain(label=lambda n: ["yes", "no", "yes ", "YES"][n % 4]),
            {},
            "the classes 'YES', 'yes', 'yes ' differ in",
        ),
        (
            plain(label=lambda n: ["1", "1.0", "2"][n % 3]),
            {},
            "the classes '1', '1.0' differ in blanks, capitals or",
        ),
        (plain(label=lambda n: "c" if n == 7 else "ab"[n % 2]), {}, "the test split has no row of class 'c'"),
        (
            plain() + plain()[:30],
            {},
            "split have the inputs of a row of the train split: what is measured on them",
        ),
        (
            [{"x": 1e9 + n, "y": 1e9, "label": n % 2} for n in range(40)],
            {"standardize": False},
            "standardize: false, and 'value' of the channels far from a mean of 0",
        ),
        (
            [{**row, "y": 1, "z": 2} for row in plain()],
            {"feature_columns": ["x", "y", "z"]},
            "2 of 3 columns have one value in all training rows: 'y', 'z'",
        ),
        (
            [{**row, "Time": n} for n, row in enumerate(plain())],
            {},
            "'Time' is not read, and each row is a series of its own, of 2 steps",
        ),
        (
            [{"s": [list(range(n, n + 9))] * 2, "label": n % 2} for n in range(40)],
            {"feature_columns": None, "sequence_column": "s"},
            "all series have more channels than steps (the first 9 and 2)",
        ),
    ],
)
def test_what_looks_wrong_is_told(rows, keys, told):
    warnings = report(rows, **keys).warnings
    assert [warning for warning in warnings if told in warning], warnings


def test_the_table_is_shown_before_training_and_in_a_dry_run_and_kept(capsys):
    report(plain(label=lambda n: ["yes", "no", "yes ", "no"][n % 4]))
    Path("recipe.yaml").write_text(
        "name: own\n"
        "data: {task: files, format: jsonl, train: rows.jsonl, feature_columns: [x, y], label_column: label}\n"
        "model: {layer: {kind: lru, state_dim: 4}, model_dim: 4}\n"
        "train: {steps: 1, batch_size: 4, threads: 1, form: recurrent}\n"
    )
    assert run(["train", "recipe.yaml", "--dry-run"]) == 0
    dry = capsys.readouterr()
    assert "What was read" in dry.out
    assert "of class 'yes '" in dry.out
    assert dry.out.index("What was read") < dry.out.index("What this recipe") < dry.out.index("name: own\n")
    assert "learning_rate" not in dry.out  # which is as by default
    assert "warning: the classes 'yes', 'yes ' differ" in dry.err
    assert run(["train", "recipe.yaml"]) == 0
    shown = capsys.readouterr()
    assert (
        shown.err.index("What was read")
        < shown.err.index("warning: the classes")
        < shown.err.index("step 1/1")
    )
    kept = json.loads(Path("outputs/own/v0001/run.json").read_text())["data"]
    assert kept["splits"]["train"]["classes"] == {"no": 16, "yes": 8, "yes ": 8}
    assert len(kept["warnings"]) == 1
    assert run(["train", "recipe.yaml", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


def test_several_files_are_counted():
    report(plain(20), "part-9.jsonl")
    found = report(plain(20), "part-10.jsonl", train="part-*.jsonl")
    assert found.files == {"train": ["part-9.jsonl", "part-10.jsonl"]}
    assert "Train is read of 2 files, 'part-9.jsonl' to 'part-10.jsonl'." in data_table(found).notes


def test_many_classes_are_one_line_of_the_table():
    table = data_table(report(plain(80, label=lambda n: f"c{n % 20}")))
    assert table.rows[1] == ["of each of 20 classes", "3 to 4", "0 to 1", "0 to 1"]
    assert len(table.rows) == 3
