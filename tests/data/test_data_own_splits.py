"""Tokens and texts in files of their own for each split, in several files, raw, packed, and mapped into memory."""

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Bytes, Encoding, Ids, Tokens
from compressm_cli.data.interface import Dataset, Split
from compressm_cli.data.text_lm import TextLm
from compressm_cli.data.token_files import TokenFiles
from compressm_cli.engine.batches import Batches

VOCABULARY = 50_000


def numbers(size: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(VOCABULARY, size=size)


def task(path: Path | str, **options: Any) -> TokenFiles:
    return TokenFiles(vocabulary=VOCABULARY, path=str(path), **{"length": 4, **options})


def jsonl(path: Path, documents: list[Any]) -> Path:
    text = "".join(f"{json.dumps(document)}\n" for document in documents)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def said(split: Split) -> list[int]:
    """The tokens of a split whose windows follow each other, but for the last ones."""
    return [*split.inputs.flatten().tolist(), int(split.labels[-1, -1])]


def assert_same(found: Dataset, expected: Dataset) -> None:
    assert found.spec == expected.spec
    assert found.fingerprint == expected.fingerprint
    for name in ("train", "validation", "test"):
        one, two = getattr(found, name), getattr(expected, name)
        rows = torch.arange(len(two))
        assert torch.equal(one.rows(rows).inputs, two.rows(rows).inputs)
        assert torch.equal(one.rows(rows).labels, two.rows(rows).labels)


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64"])
def test_the_same_tokens_are_the_same_data_however_they_are_stored(dtype: str, tmp_path: Path) -> None:
    tokens = numbers(999)
    np.save(tmp_path / "a.npy", tokens)
    expected = task(tmp_path / "a.npy").load()
    tokens.astype(np.dtype(dtype).newbyteorder("<")).tofile(tmp_path / "a.bin")
    assert_same(task(tmp_path / "a.bin", dtype=dtype).load(), expected)
    np.save(tmp_path / "b.npy", tokens.astype(np.dtype(dtype).newbyteorder(">")))
    assert_same(task(tmp_path / "b.npy").load(), expected)
    documents = [part.tolist() for part in np.split(tokens, [3, 3, 500])]
    for name in ("a.jsonl", "a.jsonl.gz"):
        assert_same(task(jsonl(tmp_path / name, documents)).load(), expected)


def test_several_files_follow_each_other_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    tokens = numbers(1200)
    np.save(tmp_path / "whole.npy", tokens)
    for part, piece in enumerate(np.split(tokens, 12)):
        np.save(tmp_path / f"part-{part}.npy", piece.astype(np.uint16))
    found = task(tmp_path / "part-*.npy")
    assert [file.name for file in found.sources()["path"]] == [f"part-{part}.npy" for part in range(12)]
    assert_same(found.load(), task(tmp_path / "whole.npy").load())
    with pytest.raises(BadInputError, match=r"none-\*\.npy: no file is called so"):
        task(tmp_path / "none-*.npy").load()


def test_splits_of_their_own_files_are_these_files(tmp_path: Path) -> None:
    train, validation, test = numbers(401, 1), numbers(41, 2), numbers(33, 3)
    np.save(tmp_path / "train.npy", train)
    jsonl(tmp_path / "validation.jsonl", [validation[:20].tolist(), validation[20:].tolist()])
    np.save(tmp_path / "test.npy", test)
    both = {"validation": str(tmp_path / "validation.jsonl"), "test": str(tmp_path / "test.npy")}
    dataset = task(tmp_path / "train.npy", **both).load()
    assert dataset.spec.rows == (100, 10, 8)
    assert said(dataset.train) == train.tolist()
    assert said(dataset.validation) == validation.tolist()
    assert said(dataset.test) == test.tolist()
    # One of its own, the other a share.
    dataset = task(tmp_path / "train.npy", test=both["test"], validation_share=0.1).load()
    assert said(dataset.train) == train[:361].tolist()
    assert said(dataset.validation) == train[361:398].tolist()  # 9 windows of 4, and one more
    assert said(dataset.test) == test.tolist()
    located = task("train.npy", test="test.npy").located(tmp_path)
    assert_same(located.load(), task(tmp_path / "train.npy", test=both["test"]).load())


def test_a_file_of_two_splits_is_refused(tmp_path: Path) -> None:
    for part in range(3):
        np.save(tmp_path / f"part-{part}.npy", numbers(99))
    with pytest.raises(BadInputError, match=r"part-2\.npy: is of data\.path and of data\.test"):
        task(tmp_path / "part-*.npy", test=str(tmp_path / "part-2.npy")).load()
    (tmp_path / "a.txt").write_text("x" * 99)
    with pytest.raises(BadInputError, match=r"a\.txt: is of data\.path and of data\.validation"):
        TextLm(path=str(tmp_path), validation=str(tmp_path / "a.txt"), length=4).load()


def test_one_file_stays_where_it_is(tmp_path: Path) -> None:
    size = 2_000_000
    (numbers(size) % 100).astype(np.uint16).tofile(tmp_path / "a.bin")
    dataset = task(tmp_path / "a.bin", dtype="uint16", length=10, stride=1).dataset()
    assert dataset.train.inputs.dtype == torch.uint16
    assert len(dataset.train) == round(0.9 * size) - 10
    # Rows of 10 that overlap in 9, without memory of their own.
    ends = [split.inputs.untyped_storage().nbytes() for split in (dataset.train, dataset.test)]
    assert ends[0] <= 2 * size
    assert bool(dataset.train.scored.all())
    before = (tmp_path / "a.bin").read_bytes()
    dataset.train.inputs[0, 0] = 7  # in memory alone
    assert (tmp_path / "a.bin").read_bytes() == before


def test_the_token_that_looks_like_no_label_is_scored(tmp_path: Path) -> None:
    """65436 is -100 in sixteen bits."""
    np.save(tmp_path / "a.npy", np.full(200, 65_436, dtype=np.uint16))
    dataset = TokenFiles(vocabulary=65_536, path=str(tmp_path / "a.npy"), length=4).dataset()
    assert bool(dataset.train.scored.all())
    assert int(dataset.train.rows(torch.tensor([0])).labels[0, 0]) == 65_436


def test_batches_are_the_same_rows_in_the_same_order(tmp_path: Path) -> None:
    tokens = numbers(999)
    np.save(tmp_path / "a.npy", tokens)
    for part, piece in enumerate(np.array_split(tokens, 3)):
        piece.astype("<u2").tofile(tmp_path / f"a{part}.bin")
    one = Batches(task(tmp_path / "a.npy").load().train, 8, seed=3)
    two = Batches(task(tmp_path / "a*.bin", dtype="uint16").load().train, 8, seed=3)
    for step in (1, 2, 40):
        assert torch.equal(one(step).inputs, two(step).inputs)
        assert one(step).inputs.dtype == torch.int64


def raw(path: Path, dtype: str, size: int = 99) -> Path:
    numbers(size, 5).astype(dtype).tofile(path)
    return path


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (
            lambda p: jsonl(p / "a.jsonl", [[1, 2], [3, 2.0]]),
            {},
            r"a\.jsonl:2: 2\.0 at position 1 is no token",
        ),
        (lambda p: jsonl(p / "a.jsonl", [[1, True]]), {}, r"a\.jsonl:1: True at position 1 is no token"),
        (lambda p: jsonl(p / "a.jsonl", [[1], [5, -3]]), {}, r"a\.jsonl:2: token -3 at position 1"),
        (lambda p: jsonl(p / "a.jsonl", [[VOCABULARY]]), {}, r"token 50000 at position 0 is not of the voc"),
        (lambda p: jsonl(p / "a.jsonl", [[1], "text"]), {}, r"a\.jsonl:2: found 'text'; write a list"),
        (lambda p: jsonl(p / "a.jsonl", [[1], {"ids": [1]}]), {}, r"a\.jsonl:2: found \{'ids'"),
        (lambda p: jsonl(p / "a.jsonl", [[[1]]]), {}, r"a\.jsonl:1: \[1\] at position 0 is no token"),
        (lambda p: jsonl(p / "a.jsonl", []), {}, r"a\.jsonl: it is empty"),
        (lambda p: raw(p / "a.bin", "<u2"), {"dtype": "int32"}, r"198 bytes are no whole number of int32"),
        (lambda p: raw(p / "a.bin", "<u2", 100), {"dtype": "int32"}, r"a\.bin: token \d+ at .*data\.dtype"),
        (lambda p: raw(p / "a.bin", "<i4", 100), {"dtype": "uint16"}, r"every second number is 0.*4 bytes"),
        (lambda p: raw(p / "a.bin", "<i8", 100), {"dtype": "int32"}, r"every second number is 0.*8 bytes"),
        (lambda p: raw(p / "a.bin", "<u2", 0), {"dtype": "uint16"}, r"a\.bin: it is empty"),
        (lambda p: raw(p / "a.bin.gz", "<u2"), {"dtype": "uint16"}, r"unpack the file: gunzip a\.bin\.gz"),
    ],
)
def test_what_is_no_file_of_tokens_is_told(make: Any, options: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=message) as refused:
        task(make(tmp_path), **options).load()
    assert "\n" not in str(refused.value)


def test_lines_that_are_no_json_and_damaged_archives_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("[1, 2]\n[1, 2\n")
    with pytest.raises(BadInputError, match=r"a\.jsonl:2: not JSON"):
        task(tmp_path / "a.jsonl").load()
    whole = jsonl(tmp_path / "b.jsonl.gz", [[1, 2]] * 99).read_bytes()
    for content, of_tokens, of_text in (
        (whole[:-20], "cannot be read", r"cannot be read \("),
        (b"no archive", *["not packed by gzip, as its name says"] * 2),
    ):
        (tmp_path / "b.jsonl.gz").write_bytes(content)
        with pytest.raises(BadInputError, match=rf"b\.jsonl\.gz: {of_tokens}"):
            task(tmp_path / "b.jsonl.gz").load()
        (tmp_path / "b.txt.gz").write_bytes(content)
        with pytest.raises(BadInputError, match=rf"b\.txt\.gz: {of_text}"):
            TextLm(path=str(tmp_path / "b.txt.gz")).load()


def test_a_short_file_of_its_own_is_told_by_its_name(tmp_path: Path) -> None:
    for name, size in (("train", 400), ("test", 4)):
        np.save(tmp_path / f"{name}.npy", numbers(size))
        (tmp_path / f"{name}.txt").write_text("x" * size)
    with pytest.raises(BadInputError, match=r"test\.npy: of 4 tokens, the test part is 4, .* takes 5"):
        task(tmp_path / "train.npy", test=str(tmp_path / "test.npy")).load()
    text = TextLm(path=str(tmp_path / "train.txt"), test=str(tmp_path / "test.txt"), length=4)
    with pytest.raises(BadInputError, match=r"test\.txt: of 4 bytes, the test part is 4, .* takes 5"):
        text.load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "a.bin"}, "write tokenizer for a text, .* or dtype for raw numbers"),
        ({"path": "a.bin", "dtype": "uint16", "tokenizer": "t.json"}, "dtype for raw numbers"),
        ({"path": "a.npy", "dtype": "uint16"}, "a .npy or .jsonl file tells its tokens itself"),
        ({"path": "a.npy", "validation": "b.bin"}, "dtype for raw numbers"),
        ({"path": "a.bin", "dtype": "float32"}, "dtype"),
        ({"validation": "b.npy"}, "validation: only with path"),
        ({"dtype": "uint16"}, "dtype: only with path"),
    ],
)
def test_keys_that_fit_no_source_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenFiles(vocabulary=9, **options)
    assert TokenFiles(vocabulary=9, path="a.npy", validation="b.bin", dtype="uint16").dtype == "uint16"


# Texts.


def test_texts_of_their_own_for_each_split_in_several_packed_files(tmp_path: Path) -> None:
    for part in range(11):
        content = f"part {part} ".encode() * 5
        packed = part % 2
        name = tmp_path / f"train-{part}.txt{'.gz' if packed else ''}"
        name.write_bytes(gzip.compress(content) if packed else content)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "test.txt.gz").write_bytes(gzip.compress(b"the end of all"))
    whole = b"\n".join(f"part {part} ".encode() * 5 for part in range(11))
    text = TextLm(
        path=str(tmp_path / "train-*"), test=str(tmp_path / "later"), length=1, validation_share=0.1
    )
    dataset = text.load()
    held = round(0.1 * len(whole))
    read = [bytes((split.labels.flatten() - 1).tolist()) for split in (dataset.train, dataset.validation)]
    assert read == [whole[1:-held], whole[-held + 1 :]]
    assert bytes((dataset.test.labels.flatten() - 1).tolist()) == b"he end of all"
    assert [file.name.partition(".")[0] for file in text.sources()["path"]][-2:] == ["train-9", "train-10"]
    with pytest.raises(BadInputError, match=r"none-\*: no file is called so"):
        TextLm(path=str(tmp_path / "none-*")).load()
    with pytest.raises(ValidationError, match="test: only with path"):
        TextLm(test="a.txt")


def test_folders_take_packed_texts_too(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one" * 30))
    (tmp_path / "b.md").write_bytes(b"two" * 30)
    os.symlink(tmp_path / "b.md", tmp_path / "c.zip")
    dataset = TextLm(path=str(tmp_path), length=1).load()
    assert bytes((dataset.train.inputs[:4].flatten() - 1).tolist()) == b"oneo"
    assert dataset.spec.rows == (162, 8, 8)


def test_a_dry_run_tells_which_files_are_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in range(15):
        np.save(tmp_path / f"{part}.npy", numbers(99))
    recipe = {
        "name": "several",
        "data": {"task": "tokens", "vocabulary": VOCABULARY, "length": 4, "path": str(tmp_path / "*.npy")},
        "model": {"layer": {"kind": "lru", "state_dim": 2}, "model_dim": 2},
        "train": {"steps": 1},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    assert command(["train", str(tmp_path / "recipe.yaml"), "--dry-run"]) == 0
    said = "".join(sign for sign in capsys.readouterr().out if not sign.isspace() and sign.isascii())
    assert "data.path15files,inthisorder:" in said
    places = [said.index(f"/{part}.npy", said.index("15files")) for part in (0, 1, 2, 9, 10, 14)]
    assert places == sorted(places)
    assert "...," in said


def test_one_split_is_read_without_the_others(tmp_path: Path) -> None:
    np.save(tmp_path / "test.npy", numbers(41))
    tokens = task(tmp_path / "gone.npy", test=str(tmp_path / "test.npy"))
    encoding = Encoding(inputs=Ids(size=VOCABULARY), outputs=Tokens())
    split = tokens.encoded_split("test", encoding)
    assert split is not None
    assert said(split) == numbers(41).tolist()
    assert tokens.encoded_split("validation", encoding) is None
    assert tokens.encoded_split("train", encoding) is None
    with pytest.raises(BadInputError, match=r"test\.npy: token \d+ at position 0 "):
        tokens.encoded_split("test", Encoding(inputs=Ids(size=2), outputs=Tokens()))
    (tmp_path / "test.txt").write_text("what is said at the end")
    text = TextLm(path=str(tmp_path / "gone.txt"), test=str(tmp_path / "test.txt"), length=4)
    split = text.encoded_split("test", Encoding(inputs=Bytes(), outputs=Tokens()))
    assert split is not None
    assert bytes(token - 1 for token in said(split)) == b"what is said at the e"
    text = TextLm(path="gone.txt", test=str(tmp_path / "test.txt"), length=40)
    with pytest.raises(BadInputError, match=r"test\.txt: of 23 bytes, the test part is 23"):
        text.encoded_split("test", Encoding(inputs=Bytes(), outputs=Tokens()))


@pytest.mark.parametrize("name", ["a.npy", "a.bin", "a.jsonl", "a.txt"])
def test_pipes_are_refused_before_they_are_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    place = str(tmp_path / name)
    read = TextLm(path=place) if name == "a.txt" else task(place, dtype="uint16" if name == "a.bin" else None)
    with pytest.raises(BadInputError, match="not a file; write its content into one"):
        read.load()
