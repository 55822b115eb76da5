"""Translation by commands: a run, what it is worth, and what it says of lines and of files of the user's own."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from tiny_runs import count_roughly, trained

from compressm_cli import Predictor
from compressm_cli.cli.main import run as command
from compressm_cli.recipe import recipe_from_mapping
from compressm_cli.runs.folder import Run

MODEL = {"kind": "encoder_decoder", "model_dim": 8, "heads": 2, "depth": 1, "tie_embeddings": True}
GRAMMAR = {"task": "translation", "train_rows": 40, "validation_rows": 6, "test_rows": 7}
OWN = [(f"zahl {n}", f"nombre {'i' * n}") for n in range(20)]


def run_of(root: Path, name: str, data: dict[str, Any]) -> Run:
    mapping = {
        "name": name,
        "device": "cpu",
        "data": data,
        "model": MODEL,
        "train": {"steps": 3, "batch_size": 8},
        "objective": {"kind": "translation", "decoded_rows": 4, "label_smoothing": 0.1},
        "output": {"root": str(root)},
    }
    return trained(recipe_from_mapping(mapping, "test"))


@pytest.fixture(scope="module")
def runs(shared_folder: Path) -> dict[str, Run]:
    """One of the grammar, and one of pairs of a file."""
    root = shared_folder / "translation"
    root.mkdir(exist_ok=True)
    file = root / "pairs.tsv"
    with FileLock(root / "made.lock"):
        if not (root / "own").exists():
            file.write_text("".join(f"{one}\t{two}\n" for one, two in [("de", "fr"), *OWN]))
            columns = {"text_column": "de", "target_text_column": "fr"}
            with pytest.MonkeyPatch.context() as patch:
                count_roughly(patch)
                run_of(root, "grammar", GRAMMAR)
                run_of(root, "own", {"task": "files", "format": "tsv", "train": str(file), **columns})
    return {name: Run.find(root / name)[-1] for name in ("grammar", "own")}


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert command(list(words)) == 0
    return capsys.readouterr().out


def test_a_run_is_judged_as_at_its_end(runs: dict[str, Run], capsys: pytest.CaptureFixture[str]) -> None:
    for run in runs.values():
        report = json.loads(said(capsys, "evaluate", str(run.folder), "--json"))
        summary = run.read_summary()
        assert report["primary"] == summary["primary"]["name"] == "bleu"
        assert report["definitions"] == summary["definitions"]
        assert "version:" in summary["definitions"]["bleu"]
        assert report["metrics"] == {name: summary["test"][name] for name in report["metrics"]}
        assert set(report["metrics"]) == {"bleu", "exact_match", "accuracy"}
        assert report["loss"] == pytest.approx(summary["test"]["loss"], rel=1e-6)


def test_lines_are_translated(
    runs: dict[str, Run], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["the dog sees a red house", "a cat loves the lamp"]
    stream = io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()))
    monkeypatch.setattr(sys, "stdin", stream)
    table = list(csv.DictReader(io.StringIO(said(capsys, "predict", str(runs["grammar"].folder), "-"))))
    assert [row["row"] for row in table] == ["1", "2"]
    predictor = Predictor.open(runs["grammar"].folder, "cpu")
    assert predictor.of(lines).texts == [row["prediction"] for row in table]
    assert [predictor.of([line]).texts for line in lines] == [[row["prediction"]] for row in table]


def test_a_file_of_pairs_is_translated_and_judged(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new.tsv"
    new.write_text("de\tfr\nzahl 3\tnombre iii\nzahl 7\tnombre\n")
    output = tmp_path / "said.csv"
    said(capsys, "predict", str(runs["own"].folder), str(new), "--output", str(output))
    table = list(csv.DictReader(output.open()))
    assert [list(row) for row in table] == [["row", "prediction"]] * 2
    report = json.loads(said(capsys, "evaluate", str(runs["own"].folder), f"data.test={new}", "--json"))
    assert (report["rows"], report["metrics"]["exact_match"]) == (2, 0.0)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["generate", "grammar", "--prompt", "the dog"],
            "writes on none; use: compressm predict",
        ),
        (
            ["predict", "own", "long.txt", "data.format=csv", "data.text_column=de"],
            "its source has 60 tokens",
        ),
        (
            ["predict", "grammar", "long.txt", "data.format=csv", "data.text_column=de"],
            "does not know the word",
        ),
    ],
)
def test_what_cannot_be_said_is_told(
    runs: dict[str, Run],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("long.txt").write_text("de\n" + "z" * 60 + "\n")
    assert command([words[0], str(runs[words[1]].folder), *words[2:]]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
