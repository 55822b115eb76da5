"""What a model is asked for next: files that are not quite those that it was trained on."""

import csv
import gzip
import io
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import compressm
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def saved(**data: Any) -> None:
    """A model with fresh weights for such data, in ``model.pt``."""
    wanted = recipe_from_mapping(
        {
            "name": "tiny",
            "data": {"task": "files", **data},
            "model": {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 8},
            "train": {"steps": 2, "batch_size": 2},
        },
        "test",
    )
    dataset = wanted.data.dataset()
    torch.manual_seed(0)
    model = build_model(wanted.model, dataset.spec)
    Checkpoint.of(model, wanted, dataset.spec, 2, encoding=dataset.encoding).save(Path("model.pt"))


def table(path: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


STEPS = ["t9", "t10", "t11"]
WAVES = [{"t9": n % 5, "t10": n % 3, "t11": n, "kind": "ab"[n % 2], "note": f"no {n}"} for n in range(20)]
MOVES = [
    {"id": n // 3, "acc_x": n % 5, "acc_y": n % 7, "acc_z": 9, "kind": "ab"[n // 3 % 2], "time": n}
    for n in range(60)
]


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    assert command(["predict", "model.pt", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("steps", [["*"], ["t*"], ["[t9..t11]"]])
def test_other_columns_than_the_steps_of_a_model_may_be_there(
    steps: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    table("train.csv", [*STEPS, "kind"], WAVES)
    saved(format="csv", train="train.csv", feature_columns=steps, label_column="kind")
    wanted = said(capsys, "train.csv")
    table("more.csv", ["note", "t11", "kind", "t10", "t9"], WAVES)
    assert said(capsys, "more.csv") == wanted
    table("new.csv", ["t11", "t10", "t9"], WAVES)
    assert said(capsys, "new.csv") == wanted
    assert command(["evaluate", "model.pt", "data.test=more.csv", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(WAVES)
    table("fewer.csv", ["t9", "t11", "kind"], WAVES)
    for arguments in (["predict", "model.pt", "fewer.csv"], ["evaluate", "model.pt", "data.test=fewer.csv"]):
        assert command(arguments) == 2
        assert (
            "fewer.csv: has no column 't10'; its columns are 't9', 't11', 'kind'" in capsys.readouterr().err
        )


def test_other_columns_than_the_channels_of_a_model_may_be_there(capsys: pytest.CaptureFixture[str]) -> None:
    layout = {"id_column": "id", "time_column": "time", "feature_columns": ["acc_*"], "label_column": "kind"}
    table("train.csv", ["id", "time", "acc_x", "acc_y", "kind"], MOVES)
    saved(format="csv", train="train.csv", **layout)
    wanted = said(capsys, "train.csv")
    table("more.csv", ["acc_z", "acc_y", "acc_x", "time", "id"], MOVES)
    assert said(capsys, "more.csv") == wanted


def test_columns_without_names_are_not_taken_for_others(capsys: pytest.CaptureFixture[str]) -> None:
    def lines(path: str, columns: list[str]) -> None:
        Path(path).write_text("".join(",".join(str(row[c]) for c in columns) + "\n" for row in WAVES))

    lines("train.csv", ["kind", *STEPS])
    saved(format="csv", train="train.csv", header=False, label_column="1", feature_columns=["*"])
    lines(
        "more.csv", ["kind", *STEPS, "t9"]
    )  # columns are called by their places: what stands there is not known
    assert command(["predict", "model.pt", "more.csv"]) == 2
    told = "its steps are the columns '2' to '5' (4), and the model takes '2' to '4' (3)"
    assert told in capsys.readouterr().err


def test_what_is_packed_is_unpacked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [{"text": f"a film of {n}", "kind": "ab"[n % 2]} for n in range(20)]
    table("train.csv", ["text", "kind"], texts)
    saved(format="csv", train="train.csv", text_column="text", label_column="kind")
    wanted = said(capsys, "train.csv")

    def given(content: bytes) -> None:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    given(gzip.compress(Path("train.csv").read_bytes()))
    assert said(capsys, "-", "data.format=csv") == wanted
    given(gzip.compress("".join(f"{row['text']}\n" for row in texts).encode()))
    assert said(capsys, "-") == wanted
    Path("one.txt.gz").write_bytes(gzip.compress(b"a film of 0"))
    assert said(capsys, "one.txt.gz")[1] == wanted[1].replace("1,", "one.txt.gz,", 1)
    whole = gzip.compress(b"a film")
    for place, told in (("-", "standard input"), ("cut.txt.gz", "cut.txt.gz")):
        given(whole[:-9])
        Path("cut.txt.gz").write_bytes(whole[:-9])
        assert command(["predict", "model.pt", place]) == 2
        assert f"error: {told}: cannot be " in capsys.readouterr().err
    given(b"")
    assert command(["predict", "model.pt", "-", "data.format=csv"]) == 2
    assert "standard input: the file is empty" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", None)  # as Python has it where a shell has closed it
    for arguments in (["-"], ["-", "data.format=csv"]):
        assert command(["predict", "model.pt", *arguments]) == 2
        assert "error: standard input: it is closed; give a file" in capsys.readouterr().err


def test_the_rows_of_another_split_than_is_judged_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    table("train.csv", [*STEPS, "kind"], WAVES)
    saved(format="csv", train="train.csv", feature_columns=["*"], label_column="kind")
    assert command(["evaluate", "model.pt", "--split", "validation", "data.test=train.csv"]) == 2
    told = "data.test: names the rows of the test split, and the validation split is to be judged; write "
    assert told in capsys.readouterr().err
    table("one.csv", [*STEPS, "kind"], WAVES[:1])
    assert command(["evaluate", "model.pt", "--split", "validation", "data.validation=[one.csv]"]) == 0
    out = capsys.readouterr().out
    assert "data: one.csv (named by the user)" in out
    assert "validation: 1 row " in out


def test_a_long_row_is_told_of_once() -> None:
    texts = [{"text": f"a film of {n}", "kind": "ab"[n % 2]} for n in range(20)]
    table("train.csv", ["text", "kind"], texts)
    saved(format="csv", train="train.csv", text_column="text", label_column="kind")
    predictor = compressm.Predictor.open("model.pt", device="cpu")
    with pytest.warns(UserWarning, match="rows of up to 60 steps"):
        predictor.of(["a" * 60])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predictor.of(["a"])
