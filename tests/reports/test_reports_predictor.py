"""``compressm.Predictor``: what a model says of rows that a program has, as it says it of files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import compressm
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.models import build_model
from compressm_cli.recipe import recipe_from_mapping


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def opened(**data: Any) -> compressm.Predictor:
    """A model with fresh weights for such data, opened as a user does."""
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
    model = build_model(wanted.model, dataset.spec)
    Checkpoint.of(model, wanted, dataset.spec, 2, encoding=dataset.encoding).save(Path("model.pt"))
    return compressm.Predictor.open("model.pt", device="cpu")


def test_texts_in_memory_are_those_of_a_file() -> None:
    texts = ["fine film", "dull, ü"]
    Path("t.csv").write_text("text,label\n" + "".join(f"a film of {i},{'ab'[i % 2]}\n" for i in range(20)))
    Path("new.csv").write_text("body\n" + "".join(f'"{text}"\n' for text in texts), encoding="utf-8")
    predictor = opened(format="csv", train="t.csv", text_column="text", label_column="label")
    said, read = predictor.of(texts), predictor.file(Path("new.csv"), "data.text_column=body")
    assert said.names == read.names == ["1", "2"]
    assert said.class_names == ["a", "b"]
    assert said.classes == read.classes
    assert np.array_equal(said.probabilities, read.probabilities)  # type: ignore[arg-type]
    assert np.array_equal(predictor.of([t.encode() for t in texts]).probabilities, read.probabilities)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match="up to 40 steps; the model was trained on 12 at most"):
        predictor.of(["long" * 10])
    for wrong in ("fine film", 3, [3], [None], [["a"]]):
        with pytest.raises(TypeError, match="a text, str or bytes"):
            predictor.of(wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="there are none"):
        predictor.of([])
    with pytest.raises(BadInputError, match="row 2: is empty"):
        predictor.of(["a", ""])


def test_series_in_memory_are_in_their_own_unit() -> None:
    chance = np.random.RandomState(0)
    x = 500 + 90 * chance.randn(20, 6, 2)
    np.savez("a.npz", x=x, total=x.sum(axis=(1, 2)))
    predictor = opened(format="npz", train="a.npz", sequence_column="x", target_columns=["total"])
    said, read = predictor.of(x[:, :6]), predictor.file("a.npz")
    assert said.target_names == ["total"]
    assert np.array_equal(said.targets, read.targets)  # type: ignore[arg-type]
    lengths = predictor.of([x[0], x[1, :3].tolist()])
    assert np.allclose(lengths.targets[0], read.targets[0])  # type: ignore[index]
    for wrong in ([["a", "b"]], [x], [[[1, 2], [3]]], [x[0] > 0]):
        with pytest.raises(TypeError, match=r"row 1: .*an array \(steps, channels\) of numbers"):
            predictor.of(wrong)
    with pytest.raises(BadInputError, match="row 1: 1 channel, and the model takes 2"):
        predictor.of([x[0, :, 0]])
    with pytest.raises(BadInputError, match="not finite"):
        predictor.of([np.full((3, 2), np.nan)])


def test_images_are_arrays_or_files() -> None:
    chance = np.random.RandomState(0)
    arrays = [chance.randint(0, 256, size=(4, 5)).astype(np.uint8) for _ in range(20)]
    for number, array in enumerate(arrays):
        Path("p", "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(f"p/{'ab'[number % 2]}/{number}.png")
    Path("p/a/notes.doc").write_text("no image")
    predictor = opened(format="image_folder", train="p")
    files = predictor.of(["p/a/0.png", "p/b/1.png"])
    assert files.names == ["p/a/0.png", "p/b/1.png"]
    assert np.array_equal(files.probabilities, predictor.of(arrays[:2]).probabilities)  # type: ignore[arg-type]
    with pytest.warns(UserWarning, match=r"1 left out: of another kind \(.doc\)"):
        assert len(predictor.file("p/a")) == 10
    with pytest.raises(BadInputError, match=r"nothing\.png: no such file"):
        predictor.of(["nothing.png"])
    with pytest.raises(TypeError, match=r"row 1: an array \(4, 5\) of float64; each is an image"):
        predictor.of([arrays[0] / 255])
