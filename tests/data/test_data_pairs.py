"""Texts in pairs: one row of tokens with a separator, cut where they are too long, from files to predictions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tiny_runs import recipe_in, rough_flops, trained_once

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import encoded as encoded_module
from compressm_cli.data import flat
from compressm_cli.data.encodings import Bytes, Tokenizer
from compressm_cli.data.encodings.pairs import kept
from compressm_cli.data.files import Files
from compressm_cli.data.rows import PAIRED, Rows
from compressm_cli.recipe import RecipeError, recipe_from_mapping
from compressm_cli.reports.predictor import Predictor

__all__ = ["rough_flops"]

ROWS = [("a cat sat", "an animal sat"), ("no cat", "a cat is there"), ("é", "two words")] * 8
COLUMNS = {"text_column": ["premise", "hypothesis"], "label_column": "label"}


def write(folder: Path, suffix: str = "csv") -> str:
    file = folder / f"pairs.{suffix}"
    rows = [{"label": ("yes", "no")[n % 2], "hypothesis": b, "premise": a} for n, (a, b) in enumerate(ROWS)]
    if suffix == "csv":
        lines = ["label,hypothesis,premise", *(",".join(row.values()) for row in rows)]
        file.write_text("\n".join(lines), encoding="utf-8")
    else:
        file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(file)


def tokenizer(folder: Path, *special: str) -> str:
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({word for pair in ROWS for text in pair for word in text.split()})
    vocabulary = {word: number for number, word in enumerate(["[UNK]", *special, *words])}
    known = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    known.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    known.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def one_by_one(first: int, second: int, most: int) -> tuple[int, int]:
    """As transformers cuts pairs, the longest first."""
    while first + second > most:
        first, second = (first - 1, second) if first > second else (first, second - 1)
    return first, second


@given(st.integers(1, 40), st.integers(1, 40), st.integers(2, 50))
@settings(max_examples=200, deadline=None)
def test_the_longer_text_loses_its_end(first: int, second: int, most: int) -> None:
    assert kept(first, second, most) == one_by_one(first, second, most)
    assert min(kept(first, second, most)) >= 1


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_two_columns_are_one_row(tmp_path: Path, suffix: str) -> None:
    task = Files(format=suffix, train=write(tmp_path, suffix), **COLUMNS)
    dataset = task.load()
    assert dataset.spec.separator == 256
    assert dataset.encoding is not None
    found = set()
    for split in (dataset.train, dataset.validation, dataset.test):
        assert split.lengths is not None
        for row, length in zip(split.inputs, split.lengths.tolist(), strict=True):
            found.add(bytes((row[:length] - 1).tolist()))
    assert found == {a.encode() + b"\xff" + b.encode() for a, b in ROWS}


def test_rows_that_are_put_away_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = Files(format="csv", train=write(tmp_path), max_length=12, **COLUMNS)
    before = task.load()
    monkeypatch.setattr(flat, "LIMIT", 1)
    monkeypatch.setattr(encoded_module, "is_large", lambda _: True)
    assert task.load().fingerprint == before.fingerprint


def test_tokens_of_a_tokenizer_have_its_separator_or_a_spare_one(tmp_path: Path) -> None:
    data = {"format": "csv", "train": write(tmp_path), **COLUMNS}
    own = Files(tokenizer=tokenizer(tmp_path, "[SEP]", "[MASK]"), **data).load()
    assert (own.spec.separator, own.spec.mask) == (1, 2)
    plain = Files(tokenizer=tokenizer(tmp_path), **data).load()
    assert plain.spec.vocabulary is not None
    assert (plain.spec.separator, plain.spec.mask) == (plain.spec.vocabulary - 2, plain.spec.vocabulary - 1)
    assert plain.train.lengths is not None
    assert bool(((plain.train.inputs == plain.spec.separator).sum(dim=1) == 1).all())
    single = Files(
        tokenizer=data["train"].replace("pairs.csv", "tokenizer.json"), **{**data, "text_column": "premise"}
    )
    assert single.load().spec.separator is None
    assert single.load().spec.vocabulary == plain.spec.vocabulary


def test_what_is_cut_is_said_once(tmp_path: Path) -> None:
    file = write(tmp_path)
    report = Files(format="csv", train=file, max_length=12, **COLUMNS).load().report
    assert report is not None
    told = [warning for warning in report.warnings if "max_length" in warning]
    assert len(told) == 1
    assert told[0].startswith("pairs that fill max_length (12): ")
    text = Bytes(max_length=8, pairs=True).encode(Rows("x", "pairs", [b"ab" + PAIRED + b"cdefgh"]))[0]
    assert bytes((text[0] - 1).tolist()) == b"ab\xffcdefg"
    known = Tokenizer(size=20, json_text=Path(tokenizer(tmp_path)).read_text(), max_length=4, pairs=True)
    text, lengths = known.encode(Rows("x", "pairs", [b"a cat sat" + PAIRED + b"cat"]))
    assert lengths is not None
    assert known.decode([t for t in text[0].tolist() if t != known.separator]) == "a cat cat"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": ["premise"]}, "at least 2"),
        ({"text_column": ["premise", "premise"]}, "used twice"),
        ({"text_column": ["premise", "label"]}, "used twice"),
    ],
)
def test_what_is_no_pair_of_columns(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Files(format="csv", train="x.csv", **{**COLUMNS, **changes})


def test_what_cannot_be_encoded_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a pair takes 3 tokens at least"):
        Bytes(max_length=2, pairs=True)
    known = Tokenizer(size=20, json_text=Path(tokenizer(tmp_path, "[SEP]")).read_text(), pairs=True)
    with pytest.raises(BadInputError, match=r"x, row 1: the first text has the token 1 in it, .*; remove it"):
        known.encode(Rows("x", "pairs", [b"a [SEP]" + PAIRED + b"cat"]))
    with pytest.raises(BadInputError, match="x: holds texts, and the model takes pairs"):
        known.encode(Rows("x", "texts", [b"a"]))
    small = known.model_copy(update={"size": 2, "json_text": Path(tokenizer(tmp_path)).read_text()})
    with pytest.raises(BadInputError, match="no token to stand between two texts"):
        small.encode(Rows("x", "pairs", [b"a" + PAIRED + b"cat"]))


@pytest.fixture(params=["encoder", "sequence"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    model: dict[str, Any] = {"kind": "encoder", "heads": 2, "model_dim": 8, "depth": 1}
    if request.param == "sequence":
        model = {"layer": {"kind": "lru", "state_dim": 4}, "model_dim": 8, "norm": "layer"}
    recipe = recipe_in(tmp_path, steps=2)
    mapping = {
        **recipe.model_dump(mode="json"),
        "model": model,
        "data": {"task": "files", "format": "csv", "train": write(tmp_path), **COLUMNS},
    }
    return trained_once(recipe_from_mapping(mapping, "test"))


@pytest.mark.usefixtures("rough_flops")
def test_pairs_are_predicted_as_they_were_trained_on(run: Any, tmp_path: Path) -> None:
    predictor = Predictor.open(str(run.final_checkpoint), device="cpu")
    said = predictor.of([*ROWS[:2], (b"no cat", b"a cat is there")])
    assert np.array_equal(said.probabilities[1], said.probabilities[2])
    from_file = predictor.file(write(tmp_path, "jsonl"))
    np.testing.assert_allclose(from_file.probabilities[:2], said.probabilities[:2], atol=1e-6)
    other = predictor.of([("a cat sat an", "animal sat")])
    assert not np.allclose(other.probabilities, said.probabilities[:1], atol=1e-9)
    for wrong in (["a"], [("a",)], [("a", 3)]):
        with pytest.raises(TypeError, match="each is a pair of texts, str or bytes"):
            predictor.of(wrong)
    with pytest.raises(BadInputError, match="row 1: is empty"):
        predictor.of([("a", "")])


def test_labels_must_be_named_or_texts_learned_alone(tmp_path: Path) -> None:
    mapping = {
        "name": "x",
        "data": {"task": "files", "format": "csv", "train": "x.csv", "text_column": "premise"},
        "model": {"kind": "encoder"},
        "train": {"steps": 1},
    }
    with pytest.raises(
        RecipeError, match=r"data: these rows have no labels; name data\.label_column, or write"
    ):
        recipe_from_mapping(mapping, "test")
    alone = {**mapping, "objective": {"kind": "masked_language"}}
    assert recipe_from_mapping(alone, "test").data.own_tokens


def test_their_own_tokens_are_labels_of_rows_without_others(tmp_path: Path) -> None:
    data = {key: value for key, value in COLUMNS.items() if key != "label_column"}
    dataset = Files(format="csv", train=write(tmp_path), **data).dataset()
    assert dataset.spec.per_step
    assert dataset.spec.classes == dataset.spec.vocabulary == 257
    train = dataset.train
    assert torch.equal(train.labels[train.scored], train.inputs[train.scored])
    assert train.lengths is not None
    assert torch.equal(train.scored.sum(dim=1), train.lengths)
