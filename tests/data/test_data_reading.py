"""Files that cannot be decoded: whatever a library raises, the message names the file and says what to do."""

import gzip
import io
import json
import os
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image

from compressm_cli.cli import main
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.data.digits import Digits
from compressm_cli.data.files import Files
from compressm_cli.data.interface import IGNORE, Dataset, Split
from compressm_cli.data.mqar import Mqar
from compressm_cli.data.reading import reading
from compressm_cli.data.text_lm import TextLm
from compressm_cli.data.token_files import TokenFiles
from compressm_cli.engine.evaluation import evaluate


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def png(side: int = 4) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((side, side), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def huge_png() -> bytes:
    """A header that claims 40,000 x 40,000 pixels: PIL takes it for an attack."""
    whole = png()
    header = b"IHDR" + struct.pack(">II", 40_000, 40_000) + whole[24:29]
    return whole[:12] + header + struct.pack(">I", zlib.crc32(header)) + whole[33:]


def folder_with(content: bytes, suffix: str = "png") -> None:
    for name in ("cat", "dog"):
        for number in range(6):
            path = Path("images") / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png())
    Path(f"images/dog/9.{suffix}").write_bytes(content)


RECIPE = """
name: broken
device: cpu
data: {task: files, format: image_folder, train: images}
model: {layer: {kind: lru, state_dim: 2}, model_dim: 4, depth: 1}
train: {steps: 1, batch_size: 4}
compression: {method: none}
"""


@pytest.mark.parametrize(
    "content", [huge_png(), png()[:45], b"", b"no image", png()[:-20] + b"x" * 20], ids=range(5)
)
def test_an_image_that_cannot_be_decoded_is_bad_input(
    content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    folder_with(content)
    Path("recipe.yaml").write_text(RECIPE)
    assert main.run(["train", "recipe.yaml", "--quiet"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "images/dog/9.png): not a readable image: " in line
    assert line.endswith("; remove or replace it")


@pytest.mark.parametrize(
    "raised", [KeyError("x"), struct.error("unpack"), AssertionError(), RecursionError()]
)
def test_whatever_an_image_library_raises(raised: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_with(png())
    monkeypatch.setattr(Image.Image, "convert", lambda *_: (_ for _ in ()).throw(raised))
    with pytest.raises(BadInputError, match=r"cat/0\.png\): not a readable image: "):
        Files(format="image_folder", train="images").load()


def test_want_of_memory_is_no_fault_of_the_file() -> None:
    for error in (MemoryError(), OSError(12, "Cannot allocate memory"), KeyboardInterrupt()):
        with pytest.raises(type(error)), reading("file", "cannot be read", "mend it"):
            raise error
    with pytest.raises(RunFailedError, match="told already"), reading("file", "cannot be read", "mend it"):
        raise RunFailedError("told already")


def test_what_a_library_says_at_length_is_cut() -> None:
    with pytest.raises(BadInputError) as caught, reading("file", "cannot be read", "mend it"):
        raise ValueError(f"not a number: {b'x' * 100_000!r}")
    assert str(caught.value).startswith("file: cannot be read: not a number: b'xxx")
    assert str(caught.value).endswith("xxx...; mend it")
    assert len(str(caught.value)) < 400


def test_what_a_library_in_rust_raises_is_told() -> None:
    class PanicException(BaseException):
        pass

    with (
        pytest.raises(BadInputError, match=r"^file: cannot be read: index out of bounds; mend it$"),
        reading("file", "cannot be read", "mend it"),
    ):
        raise PanicException("index out of bounds\nand more")


@pytest.mark.parametrize(
    ("format_", "content"),
    [
        ("parquet", b"PAR1" + b"x" * 40 + b"PAR1"),
        ("json", b"\xff\xfe{"),
        ("jsonl", b'{"x": 1, "label": "a"}\n{"x": '),
        ("csv", b"x,label\n1,\xff\n"),
        ("csv", b'x,label\n1,"a\n'),
    ],
)
def test_tables_that_cannot_be_parsed(format_: str, content: bytes) -> None:
    path = Path(f"rows.{format_}")
    path.write_bytes(content)
    settings: dict[str, Any] = {"feature_columns": ["x"], "label_column": "label"}
    with pytest.raises(BadInputError, match=rf"rows\.{format_}.*; \w"):
        Files(format=format_, train=str(path), **settings).load()


def test_a_text_whose_name_says_wrongly_that_gzip_has_packed_it() -> None:
    text = b"some words of a text, and some more of them. " * 40
    Path("packed.txt.gz").write_bytes(gzip.compress(text))
    assert TextLm(task="text_lm", path="packed.txt.gz", length=8).load().train.inputs.numel() > 0
    Path("plain.txt.gz").write_bytes(text)
    with pytest.raises(BadInputError, match=r"plain.txt.gz: not packed by gzip, .* let it end in \.txt, or"):
        TextLm(task="text_lm", path="plain.txt.gz", length=8).load()


def test_numbers_that_no_float_holds() -> None:
    rows = [{"x": "1" if i else "9" * 400, "label": "ab"[i % 2]} for i in range(20)]
    Path("rows.json").write_text(json.dumps(rows))
    with pytest.raises(BadInputError, match=r"rows\.json, row 1, column 'x': .*too large"):
        Files(format="json", train="rows.json", feature_columns=["x"], label_column="label").load()


def test_columns_of_odd_types_are_told() -> None:
    table = pandas.DataFrame({"x": [[1, 2]] * 20, "label": ["a", "b"] * 10})
    table.to_parquet("rows.parquet")
    with pytest.raises(BadInputError, match=r"rows\.parquet.*column 'x'"):
        Files(format="parquet", train="rows.parquet", feature_columns=["x"], label_column="label").load()


def test_several_arrays_are_no_tokens() -> None:
    np.savez("tokens.npz", one=np.arange(9))
    os.replace("tokens.npz", "tokens.npy")
    with pytest.raises(BadInputError, match=r"tokens\.npy: several arrays; write one"):
        TokenFiles(vocabulary=9, length=2, path="tokens.npy").load()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission() -> None:
    Path("rows.csv").write_text("x,label\n1,a\n2,b\n")
    Path("rows.csv").chmod(0)
    with pytest.raises(BadInputError, match=r"rows\.csv: cannot be read as csv: Permission denied"):
        Files(format="csv", train="rows.csv", feature_columns=["x"], label_column="label").load()


def test_what_the_system_refuses_is_told_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(_: Any) -> Dataset:
        raise PermissionError(13, "Permission denied", "/data/x")

    monkeypatch.setattr(Digits, "load", denied)
    with pytest.raises(BadInputError, match=r"^/data/x: cannot be read: Permission denied; "):
        Digits().dataset()


# ---- nothing to score --------------------------------------------------------------------------------------


def with_labels(name: str, change: Any) -> Dataset:
    small = Mqar(train_rows=6, validation_rows=4, test_rows=4).load()
    split: Split = getattr(small, name)
    labels = split.labels.clone()
    change(labels)
    parts = {n: getattr(small, n) for n in ("train", "validation", "test")}
    return Dataset(small.spec, **{**parts, name: Split(split.inputs, labels)})


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_split_of_which_nothing_is_scored_is_bad_input(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = with_labels(name, lambda labels: labels.fill_(IGNORE))
    monkeypatch.setattr(Mqar, "load", lambda _: bad)
    with pytest.raises(BadInputError, match=rf"of the {name} split of task 'mqar' no label is scored: "):
        Mqar().dataset()


def test_a_row_to_learn_from_has_a_scored_label(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch of others has no loss; in an evaluation such rows are left out."""
    bad, good = (
        with_labels(name, lambda labels: labels[2].fill_(IGNORE)) for name in ("train", "validation")
    )
    monkeypatch.setattr(Mqar, "load", lambda _: bad)
    with pytest.raises(BadInputError, match=r"of row 3 of the train split of task 'mqar' no label is scored"):
        Mqar().dataset()
    monkeypatch.setattr(Mqar, "load", lambda _: good)
    assert Mqar().dataset() is good


@pytest.mark.parametrize("dtype", [torch.int64, torch.int16])
@pytest.mark.parametrize("label", [-1, 10_000])
@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_label_that_is_no_class_is_bad_input(
    name: str, label: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(labels: torch.Tensor) -> None:
        labels.fill_(0)
        labels.view(len(labels), -1)[1, -1] = IGNORE
        labels.view(len(labels), -1)[2, -1] = label

    bad = with_labels(name, change)
    split = getattr(bad, name)
    bad = replace(bad, **{name: Split(split.inputs, split.labels.to(dtype))})
    monkeypatch.setattr(Mqar, "load", lambda _: bad)
    most = bad.spec.classes - 1
    with pytest.raises(
        BadInputError,
        match=f"the {name} split .* has the label {label} in row 3; labels are from 0 to {most} ",
    ):
        Mqar().dataset()


def test_an_evaluation_of_nothing_is_refused() -> None:
    model = torch.nn.Linear(2, 3)
    forward = model.forward
    model.forward = lambda inputs, lengths: forward(inputs)  # type: ignore[assignment]
    split = Split(torch.zeros(4, 5, 2), torch.full((4, 5), IGNORE))
    with pytest.raises(BadInputError, match="no label of the split is scored"):
        evaluate(model, split, 2)
    assert model.training
