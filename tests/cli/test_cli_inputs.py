"""Which files ``predict`` and ``evaluate`` take, and what they print of names that a terminal would obey."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compressm_cli import Predictor
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.data import files
from compressm_cli.data.labels import class_names, first_order


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(name: str, labels: list[str], rows: int = 20, start: int = 0) -> None:
    chance = np.random.RandomState(start)
    with Path(name).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["x", "y", "label"])
        for row in range(rows):
            writer.writerow([*chance.randn(2).round(3), labels[row % len(labels)]])


def trained(labels: list[str], **data: Any) -> None:
    put("train.csv", labels, 40)
    Path("recipe.json").write_text(
        json.dumps({
            "name": "own",
            "data": {"task": "files", "format": "csv", "train": "train.csv", "feature_columns": ["x", "y"],
                     "label_column": "label", **data},
            "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 4},
            "train": {"steps": 2, "batch_size": 4, "threads": 1, "form": "recurrent"},
            "compression": {"method": "none"},
        })
    )  # fmt: skip
    assert command(["train", "recipe.json", "--quiet"]) == 0


def said(*words: str, capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    capsys.readouterr()
    assert command(["predict", "outputs/own", *words]) == 0, capsys.readouterr().err
    return list(csv.DictReader(io.StringIO(capsys.readouterr().out)))


def test_several_tables_are_predicted_and_judged(capsys: pytest.CaptureFixture[str]) -> None:
    trained(["a", "b"])
    for number in (9, 10):
        put(f"part-{number}.csv", ["a", "b"], 3, number)
    Path("year=1.csv").write_bytes(Path("part-10.csv").read_bytes())
    whole = said("part-*.csv", capsys=capsys)
    assert [line["row"] for line in whole] == [f"{n} of part-{k}.csv" for k in (9, 10) for n in (1, 2, 3)]
    assert whole == said("part-9.csv", "part-10.csv", 'data.feature_columns=[x, "y"]', capsys=capsys)
    apart = [line for k in (9, 10) for line in said(f"part-{k}.csv", capsys=capsys)]
    assert [line["probability:a"] for line in apart] == [line["probability:a"] for line in whole]
    also = said("part-9.csv", "year=1.csv", capsys=capsys)
    assert [line["row"] for line in also[3:]] == [f"{n} of year=1.csv" for n in (1, 2, 3)]
    predictor = Predictor.open("outputs/own", device="cpu")
    assert predictor.file(["part-9.csv", "part-10.csv"]).names == [line["row"] for line in whole]
    with pytest.raises(BadInputError, match=r"^part-\*.csvx: no file is called so"):
        predictor.file("part-*.csvx")

    found = []
    for wanted in ("part-*.csv", "[part-9.csv, part-10.csv]", '["part-9.csv", part-1*.csv]'):
        assert command(["evaluate", "outputs/own", f"data.test={wanted}", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert all(one["rows"] == 6 and one["loss"] == found[0]["loss"] for one in found)

    put("more.tsv", ["a"])
    for words, told in (
        (["part-9.csv", "more.tsv"], "part-9.csv and more.tsv are of two formats; give the files of each by"),
        (["-", "part-9.csv"], "-: standard input is read alone"),
        (["part-9.csv", "part-11.csv"], "part-11.csv: no such file"),
        (["part-9.csv", "data.text=x"], "data.text: unknown key"),
    ):
        assert command(["predict", "outputs/own", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_model_of_before_keeps_the_order_of_its_classes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["2.0", "10.0", "0.5"]
    with monkeypatch.context() as before:
        before.setattr(files, "class_names", lambda labels: first_order(list(set(labels))))
        trained(names)
    stored = Checkpoint.load(Path("outputs/own/v0001/checkpoints/final.pt"))
    assert stored.encoding is not None
    assert stored.encoding.class_names == ["0.5", "10.0", "2.0"] != class_names(names)
    capsys.readouterr()
    assert command(["evaluate", "outputs/own", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["data"].endswith("(the same as the model was trained on)")
    assert [one["name"] for one in report["classes"]] == ["0.5", "10.0", "2.0"]
    assert command(["train", "--resume", "outputs/own/v0001", "train.steps=4", "--quiet"]) == 0
    longer = Checkpoint.load(Path("outputs/own/v0001/checkpoints/final.pt"))
    assert (longer.step, longer.encoding) == (4, stored.encoding)
    assert longer.fingerprint == stored.fingerprint
    capsys.readouterr()
    assert command(["train", "recipe.json", "--quiet"]) == 0
    anew = Checkpoint.load(Path("outputs/own/v0002/checkpoints/final.pt"))
    assert anew.encoding is not None
    assert anew.encoding.class_names == ["0.5", "2.0", "10.0"]
    put("train.csv", ["2.0", "10.0", "0.7"], 40)
    assert command(["evaluate", "outputs/own/v0001"]) == 2
    assert "the class '0.7' is new" in capsys.readouterr().err


def test_no_name_of_a_class_is_obeyed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "a\x1b[2J\x9b31m\u202e"
    trained([evil, "b"])
    capsys.readouterr()
    assert f"probability:{evil}" in said("train.csv", capsys=capsys)[0], "a pipe gets it as it is"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    put("other.csv", [f"{evil}?"])
    for words in (
        ["predict", "outputs/own", "train.csv"],
        ["evaluate", "outputs/own"],
        ["evaluate", "outputs/own", "data.test=other.csv"],
        ["train", "recipe.json", "--dry-run"],
    ):
        command(words)
        told = capsys.readouterr()
        assert "x1b[2J" in told.out + told.err, words
        assert not any(part in told.out + told.err for part in ("\x1b[2J", "\x9b", "\u202e")), words
