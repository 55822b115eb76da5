"""``compressm predict`` and ``compressm evaluate``: what a trained model says of files, and what it is worth."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.data.encodings import Classes, Encoding, Numbers, Pixels, Series, Standardization
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.prediction import Predictions
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.reports import predictions

TEXTS = ["fine", "a dull and rather long film", "so-so", "ünïcode"]
LABELS = ["good", "bad", "bad", "good"]
LAYER = {"kind": "lru", "state_dim": 4}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def recipe(data: dict[str, Any]) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "tiny",
            "data": data,
            "model": {"layer": LAYER, "model_dim": 8},
            "train": {"steps": 2, "batch_size": 2},
        },
        "test",
    )


def rows(path: str, texts: list[str] = TEXTS, labels: list[str] | None = None) -> None:
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"][: 1 if labels is None else 2])
        writer.writerows(zip(texts, *([] if labels is None else [labels]), strict=True))


def saved(wanted: Recipe, encoding: Encoding | None, spec: DataSpec) -> torch.nn.Module:
    """A model with fresh weights in ``model.pt``."""
    torch.manual_seed(0)
    model = build_model(wanted.model, spec)
    with torch.no_grad():
        model.head.weight.mul_(5)  # type: ignore[union-attr]
    Checkpoint.of(model, wanted, spec, 2, encoding=encoding).save(Path("model.pt"))
    return model.double().eval()


def text_model() -> torch.nn.Module:
    rows("train.csv", [f"{text} {i}" for i in range(10) for text in TEXTS], LABELS * 10)
    data = {
        "task": "files",
        "format": "csv",
        "train": "train.csv",
        "text_column": "text",
        "label_column": "label",
    }
    wanted = recipe(data)
    dataset = wanted.data.dataset()
    return saved(wanted, dataset.encoding, dataset.spec)


def said_alone(model: torch.nn.Module, text: str) -> np.ndarray:
    """The probabilities of one text, alone, in float64."""
    tokens = torch.tensor([[byte + 1 for byte in text.encode()]])
    shares: np.ndarray = model(tokens).softmax(dim=-1)[0].detach().numpy()
    return shares


def test_texts_are_classified_each_as_if_alone(capsys: pytest.CaptureFixture[str]) -> None:
    model = text_model()
    rows("new.csv")
    assert command(["predict", "model.pt", "new.csv"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [line["row"] for line in found] == ["1", "2", "3", "4"]
    for line, text in zip(found, TEXTS, strict=True):
        shares = said_alone(model, text)
        told = [float(line["probability:bad"]), float(line["probability:good"])]
        np.testing.assert_allclose(told, shares, atol=1e-6)
        assert line["prediction"] == ["bad", "good"][shares.argmax()]
        assert float(line["probability"]) == max(told)


def test_all_kinds_of_files_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    text_model()
    rows("new.csv", labels=["x"] * 4)  # a column of labels is not read
    for suffix in ("csv", "jsonl", "parquet"):
        assert command(["predict", "model.pt", "new.csv", "--output", f"deep/said.{suffix}"]) == 0
    assert "deep/said.csv: 4 rows" in capsys.readouterr().err
    from_json = [json.loads(line) for line in Path("deep/said.jsonl").read_text().splitlines()]
    assert pq.read_table("deep/said.parquet").to_pylist() == from_json
    with Path("deep/said.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    shares = [row[key] for row in from_json for key in row if key.startswith("probability")]
    assert shares == [float(f"{share:.7g}") for share in shares]  # as many digits as the model has
    assert [{k: str(v) for k, v in row.items()} for row in from_json] == lines
    assert command(["predict", "model.pt", "new.csv", "--output", "deep/said.csv"]) == 2
    assert "deep/said.csv: exists already" in capsys.readouterr().err


def test_other_layouts_than_that_of_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text_model()
    rows("new.csv")

    def said(*arguments: str) -> list[float]:
        assert command(["predict", "model.pt", *arguments]) == 0
        lines = csv.DictReader(io.StringIO(capsys.readouterr().out))
        return [pytest.approx(float(line["probability:bad"]), abs=1e-6) for line in lines]

    wanted = said("new.csv")

    Path("new.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS))
    assert said("new.jsonl", "data.text_column=body") == wanted
    Path("one.txt").write_text(TEXTS[0])
    assert said("one.txt") == wanted[:1]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO("\n".join(TEXTS).encode())))
    assert said("-") == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(("\n".join(TEXTS) + "\n\r\n\n").encode())))
    assert said("-") == wanted
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n\nb\n")))
    assert command(["predict", "model.pt", "-"]) == 2
    assert "standard input, row 2: the text is empty" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(Path("new.csv").read_bytes())))
    assert said("-", "data.format=csv") == wanted


def test_an_image_by_standard_input(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    Path("in").mkdir()
    Image.fromarray(pixels).save("in/1.png")
    encoding = Encoding(
        inputs=Pixels(height=3, width=4, mean=[0.5], deviation=[0.5]), outputs=Classes(names=["a", "b"])
    )
    data = {"task": "files", "format": "image_folder", "train": "none"}
    saved(recipe(data), encoding, DataSpec(2, 12, features=1, rows=(1, 1, 1)))

    def said(content: bytes) -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return command(["predict", "model.pt", "-", "data.format=image_folder"])

    assert command(["predict", "model.pt", "in"]) == 0
    wanted = capsys.readouterr().out
    assert said(Path("in/1.png").read_bytes()) == 0
    assert capsys.readouterr().out == wanted.replace("1.png", "standard input")
    assert said(b"no image") == 2
    assert "error: standard input, image 1 (standard input): not a readable image" in capsys.readouterr().err


def test_texts_to_be_classified_are_utf8(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text_model()

    def said(content: bytes, place: str) -> tuple[int, str]:
        Path("one.txt").write_bytes(content)
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        code = command(["predict", "model.pt", place])
        told = capsys.readouterr()
        return code, told.err if code else told.out

    for place, name in (("one.txt", "one.txt"), ("-", "standard input")):
        assert said("fine ü".encode(), place) == said("fine ü".encode("utf-8-sig"), place)
        assert said(b"fine\n\xfc", place)[0] == 2
        told = f"{name}: not a UTF-8 text: the byte 0xfc at position 6; save it as UTF-8"
        assert told in said(b"fine\n\xfc", place)[1]


def test_the_most_probable_of_many_classes(capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"c{i}" for i in range(25)]
    spec = DataSpec(25, 3, features=1, rows=(1, 1, 1))
    encoding = Encoding(inputs=Series(channels=["x"]), outputs=Classes(names=names))
    data = {"task": "files", "format": "csv", "train": "t.csv", "feature_columns": ["a", "b", "c"]}
    model = saved(recipe({**data, "label_column": "y"}), encoding, spec)
    Path("n.csv").write_text("a,b,c\n1,2,3\n-1,0,4\n")
    assert command(["predict", "model.pt", "n.csv", "--top", "3"]) == 0
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    columns = ["row", "prediction", "probability"]
    assert list(found[0]) == [*columns, *(f"{c}:{i}" for i in (2, 3) for c in ("prediction", "probability"))]
    for line, values in zip(found, ([1.0, 2.0, 3.0], [-1.0, 0.0, 4.0]), strict=True):
        shares = model(torch.tensor(values).double().view(1, 3, 1)).softmax(-1)[0].detach()
        best = shares.argsort(descending=True)[:3].tolist()
        assert [line["prediction"], line["prediction:2"], line["prediction:3"]] == [names[i] for i in best]
        assert float(line["probability:3"]) == pytest.approx(float(shares[best[2]]), abs=1e-6)
    assert command(["predict", "model.pt", "n.csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == "row,prediction,probability"


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["price", "row"], ["price", "prediction:row"]),
        (["prediction:row", "row"], ["prediction:row", "prediction:prediction:row"]),
        (["row", "prediction:row"], ["prediction:prediction:row", "prediction:row"]),
    ],
)
def test_numbers_are_told_in_their_unit(
    names: list[str], told: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    spec = DataSpec(0, 2, features=1, targets=2, rows=(1, 1, 1))
    scale = Standardization(mean=[100.0, -5.0], deviation=[10.0, 0.5])
    outputs = Numbers(names=names, standardization=scale)
    inputs = Series(channels=["x"], standardization=Standardization(mean=[2.0], deviation=[4.0]))
    data = {"task": "files", "format": "csv", "train": "t.csv", "feature_columns": ["a", "b"]}
    wanted = recipe({**data, "label_column": "y"})
    model = saved(wanted, Encoding(inputs=inputs, outputs=outputs), spec)
    Path("n.csv").write_text("a,b\n1,2\n")
    assert command(["predict", "model.pt", "n.csv"]) == 0
    (line,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    said = model(torch.tensor([[-0.25], [0.0]]).double()[None])[0].tolist()
    assert list(line) == ["row", *told]
    assert float(line[told[0]]) == pytest.approx(100 + 10 * said[0], abs=1e-4)
    assert float(line[told[1]]) == pytest.approx(-5 + 0.5 * said[1], abs=1e-5)


def test_what_is_no_number_is_no_prediction_and_no_accuracy(capsys: pytest.CaptureFixture[str]) -> None:
    spec = DataSpec(2, 2, features=1, rows=(1, 1, 1))
    encoding = Encoding(inputs=Series(channels=["x"]), outputs=Classes(names=["a", "b"]))
    data = {"task": "files", "format": "csv", "train": "t.csv", "feature_columns": ["u", "v"]}
    saved(recipe({**data, "label_column": "y"}), encoding, spec)
    Path("n.csv").write_text("u,v,y\n1,2,a\n3e38,3e38,a\n")
    assert command(["predict", "model.pt", "n.csv", "--output", "said.csv"]) == 1
    assert "n.csv, row 2: the model says numbers that are not finite" in capsys.readouterr().err
    assert not Path("said.csv").exists()
    for options in ([], ["--json"]):
        assert command(["evaluate", "model.pt", "data.test=n.csv", *options]) == 1
        told = capsys.readouterr()
        assert told.out == ""
        assert "the model says numbers that are not finite" in told.err


def test_names_stand_in_a_csv_as_they_are() -> None:
    names = ["a\rb", "c\nd", 'e"f,', "g\r\nh", "probability"]
    shares = np.full((2, len(names)), 1 / len(names))
    columns = predictions.columns_of(Predictions(["x\ry", "2"], names, shares))
    text = predictions.as_csv(columns)
    header, *lines = csv.reader(io.StringIO(text, newline=""))
    assert header == ["row", "prediction", "probability", *(f"probability:{name}" for name in names)]
    assert [line[0] for line in lines] == ["x\ry", "2"]
    assert pandas.read_csv(io.StringIO(text, newline=""))["prediction"].tolist() == ["a\rb"] * 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.csv"], "none.csv: no such file or folder"),
        (["new.csv", "data.text_column=body"], "new.csv: has no column 'body'; its columns are 'text'"),
        (["new.csv", "data.xyzzy=3"], "data.xyzzy: unknown key; allowed here: format, text_column"),
        (["new.csv", "--output", "x.xls"], "--output x.xls: not a kind of file that is written"),
        (["empty.csv"], "empty.csv, row 2, column 'text': the text is empty"),
        (["new.bin.csv"], "cannot be read as csv"),
    ],
)
def test_what_cannot_be_predicted_is_told(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text_model()
    rows("new.csv")
    rows("empty.csv", ["a", ""])
    Path("new.bin.csv").write_bytes(b"text\n\xff\xfe\n")
    assert command(["predict", "model.pt", *arguments]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "unexpected" not in error


def test_models_that_cannot_predict_say_why(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = recipe({"task": "text_lm", "max_bytes": 5000, "length": 16})
    dataset = wanted.data.dataset()
    rows("new.csv")
    saved(wanted, dataset.encoding, dataset.spec)
    assert command(["predict", "model.pt", "new.csv"]) == 2
    assert "says the token that follows; let it write with: compressm generate" in capsys.readouterr().err
    saved(wanted, None, dataset.spec)
    assert command(["predict", "model.pt", "new.csv"]) == 2
    assert "its checkpoint does not say how inputs are encoded" in capsys.readouterr().err


def test_a_model_is_judged_on_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    model = text_model()
    rows("judged.csv", labels=LABELS)
    assert command(["evaluate", "model.pt", "data.test=judged.csv", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    shares = np.stack([said_alone(model, text) for text in TEXTS])
    right = np.array([["bad", "good"].index(label) for label in LABELS])
    assert told["rows"] == 4
    assert told["loss"] == pytest.approx(-np.log(shares[np.arange(4), right]).mean(), abs=1e-5)
    said = shares.argmax(axis=1)
    assert told["metrics"]["accuracy"] == (said == right).mean()
    for place, one in enumerate(told["classes"]):
        assert (one["rows"], one["said"]) == (2, int((said == place).sum()))
        assert one["recall"] == ((said == place) & (right == place)).sum() / 2
    for label in ("Good", " good "):
        rows("judged.csv", labels=[label, *LABELS[1:]])
        assert command(["evaluate", "model.pt", "data.test=judged.csv"]) == 2
        assert f"label {label!r} does not occur" in (err := capsys.readouterr().err)
        assert err.endswith("which has 'bad', 'good'; write 'good', if it is this class\n")
    rows("judged.csv", labels=["fair", *LABELS[1:]])
    assert command(["evaluate", "model.pt", "data.test=judged.csv"]) == 2
    assert "judged.csv, row 1: label 'fair' does not occur in the training data" in capsys.readouterr().err


def test_a_model_is_judged_on_files_of_other_formats_and_on_its_training_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text_model()
    table = pandas.read_csv("train.csv")

    def loss(*arguments: str) -> float:
        assert command(["evaluate", "model.pt", *arguments, "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["rows"] == len(table)
        return float(told["loss"])

    wanted = loss("data.test=train.csv")
    table.to_parquet("other.parquet")
    table.to_csv("other.tsv", index=False, sep="\t")
    table.to_csv("other.dat", index=False, sep=";")
    for label, part in table.groupby("label"):
        Path("folder", label).mkdir(parents=True)
        for row, text in enumerate(part.text):
            Path("folder", label, f"{row}.txt").write_text(text, encoding="utf-8")
    assert loss("data.test=other.parquet") == wanted
    assert loss("data.test=other.tsv") == wanted
    assert loss("data.test=[other.tsv]") == wanted
    assert loss("data.test=other.dat", "data.delimiter=;") == wanted
    assert loss("data.test=other.tsv", "data.train=new.csv") == wanted  # which is not read
    assert loss("data.validation=other.parquet", "--split", "validation") == wanted
    assert loss("data.test=folder") == pytest.approx(wanted)


def test_a_table_for_a_model_of_folders_needs_the_column_alone(capsys: pytest.CaptureFixture[str]) -> None:
    encoding = Encoding(
        inputs=Pixels(height=3, width=4, mean=[0.5], deviation=[0.5]), outputs=Classes(names=["a", "b"])
    )
    data = {"task": "files", "format": "image_folder", "train": "none"}
    saved(recipe(data), encoding, DataSpec(2, 12, features=1, rows=(1, 1, 1)))
    Image.fromarray(np.zeros((3, 4), np.uint8)).save("1.png")
    Path("n.csv").write_text("file,note\n1.png,x\n")
    assert command(["predict", "model.pt", "n.csv"]) == 2
    told = "n.csv: the model takes images; write data.image_column=NAME; its columns are ['file', 'note']"
    assert told in capsys.readouterr().err
    assert command(["predict", "model.pt", "n.csv", "data.image_column=file"]) == 0


def test_its_own_splits_are_judged_as_in_training(capsys: pytest.CaptureFixture[str]) -> None:
    text_model()
    assert command(["evaluate", "model.pt", "--split", "validation", "objective.metrics=[macro_f1]"]) == 0
    out = capsys.readouterr().out
    assert "validation: 4 rows" in out
    assert "macro-F1" in out
    assert command(["evaluate", "model.pt", "train.steps=3"]) == 2
    assert "train.steps=3: evaluate changes only what a model is judged on" in capsys.readouterr().err


def test_data_that_would_mean_something_else_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    wanted = recipe({"task": "mnist1d", "train_rows": 60, "validation_rows": 10, "test_rows": 10})
    dataset = wanted.data.dataset()
    saved(wanted, dataset.encoding, dataset.spec)
    assert command(["evaluate", "model.pt"]) == 0
    assert command(["evaluate", "model.pt", "data.train_rows=50"]) == 2
    assert "inputs.standardization.mean differs" in capsys.readouterr().err


def test_r2_is_told_alike_of_all_numbers_and_of_each(capsys: pytest.CaptureFixture[str]) -> None:
    Path("t.csv").write_text("a,b,y\n" + "".join(f"{i % 5},{i % 3},{i % 7}\n" for i in range(40)))
    layout = {"format": "csv", "train": "t.csv", "feature_columns": ["a", "b"], "target_columns": ["y"]}
    wanted = recipe({"task": "files", **layout})
    dataset = wanted.data.dataset()
    saved(wanted, dataset.encoding, dataset.spec)
    assert command(["evaluate", "model.pt"]) == 0
    lines = [line.replace("│", " ").split() for line in capsys.readouterr().out.splitlines()]
    whole = next(line for line in lines if line[:1] == ["R2"])
    of_y = next(line for line in lines if line[:1] == ["y"])
    assert whole[1:] == of_y[-2:]
    assert whole[-1] == "%"
