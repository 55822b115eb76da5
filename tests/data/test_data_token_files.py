import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import token_sources
from compressm_cli.data.sources.interface import Form
from compressm_cli.data.sources.npz import NpzSource
from compressm_cli.data.token_files import TokenFiles


def splits(dataset: Any) -> tuple[Any, Any, Any]:
    return dataset.train, dataset.validation, dataset.test


def saved(path: Path, tokens: Any) -> str:
    np.save(path, tokens)
    return str(path)


# Random tokens.


@pytest.mark.parametrize(
    ("options", "rows"),
    [({}, (256, 13, 13)), ({"rows": 40}, (40, 2, 2)), ({"rows": 3, "validation_share": 0.4}, (3, 1, 1))],
)
def test_without_a_file_tokens_are_random(options: dict[str, Any], rows: tuple[int, ...]) -> None:
    task = TokenFiles(vocabulary=1000, length=9, **options)
    dataset = task.load()
    assert dataset.spec == task.spec()
    assert (dataset.spec.rows, dataset.spec.classes, dataset.spec.vocabulary) == (rows, 1000, 1000)
    assert dataset.spec.per_step
    assert dataset.spec.features is None
    for split, count in zip(splits(dataset), rows, strict=True):
        assert split.inputs.shape == split.labels.shape == (count, 9)
        assert split.lengths is None
        assert split.inputs.is_contiguous()
        assert torch.equal(split.inputs[:, 1:], split.labels[:, :-1])
        assert split.rows(torch.arange(1)).inputs.dtype == torch.int64
    again = splits(task.load())
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(again, splits(dataset), strict=True))
    assert not torch.equal(dataset.validation.inputs[0], dataset.train.inputs[0])


def test_random_tokens_are_uniform_over_the_whole_vocabulary() -> None:
    train = TokenFiles(vocabulary=7, length=100, rows=700).load().train
    counts = torch.bincount(train.inputs.flatten().long(), minlength=7).double()
    assert len(counts) == 7
    # 70,000 draws; chi-square of 6 degrees of freedom is above 22.5 once in a thousand.
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 22.5


@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(32_768, torch.int16), (50_280, torch.int32), (1, torch.int16)]
)
def test_tokens_take_the_smallest_type_that_holds_them(vocabulary: int, dtype: torch.dtype) -> None:
    train = TokenFiles(vocabulary=vocabulary, length=300, rows=900).load().train
    assert train.inputs.dtype == train.labels.dtype == dtype
    assert train.inputs.min() == 0
    assert train.inputs.max() >= 0.999 * (vocabulary - 1)


# Files of tokens.


@pytest.mark.parametrize("dtype", [np.uint16, np.int64])
@pytest.mark.parametrize(("size", "length", "stride"), [(1000, 7, None), (2003, 10, 3), (999, 40, 100)])
def test_windows_are_the_file_and_labels_the_tokens_that_follow(
    size: int, length: int, stride: int | None, dtype: Any, tmp_path: Path
) -> None:
    tokens = np.random.RandomState(size).randint(40_000, size=size).astype(dtype)
    path = saved(tmp_path / "tokens.npy", tokens)
    task = TokenFiles(
        vocabulary=40_000, path=path, length=length, stride=stride, validation_share=0.06, test_share=0.1
    )
    dataset = task.load()
    assert dataset.spec == task.spec()
    held = round(0.06 * size), round(0.1 * size)
    start = 0
    sizes = (size - sum(held), *held)
    for split, rows, step, part in zip(
        splits(dataset), dataset.spec.rows, (stride or length, length, length), sizes, strict=True
    ):
        stretch = torch.from_numpy(tokens[start : start + part].astype(np.int64))
        assert len(split) == rows
        for row in range(rows):
            window = stretch[row * step : row * step + length + 1]
            assert torch.equal(split.inputs[row].long(), window[:-1])
            assert torch.equal(split.labels[row].long(), window[1:])
        assert rows * step + length + 1 > part >= (rows - 1) * step + length + 1
        start += part


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            np.array([1, 2, 300, 4, -1] * 50),
            r"token 300 at position 2 \(100 such in all\).*0 to 256; correct data.voc",
        ),
        (np.arange(12), r"of 12 tokens, the validation part is 1, and a window of length 4 takes 5"),
        (
            np.arange(100).reshape(10, 10),
            r"an array of int64 and shape \(10, 10\); write integers in one dimension",
        ),
        (np.zeros(100), r"an array of float64"),
        (np.zeros(100, dtype=bool), r"an array of bool"),
        (np.array([{}], dtype=object), r"not a readable \.npy file of integers"),
    ],
)
def test_what_cannot_be_used_is_told(tokens: Any, message: str, tmp_path: Path) -> None:
    task = TokenFiles(vocabulary=257, length=4, path=saved(tmp_path / "t.npy", tokens))
    with pytest.raises(BadInputError, match=message) as refused:
        task.load()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"", b"not numpy at all", None])
def test_other_files_are_told(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "t.npy"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(
        BadInputError, match=r"no such file" if content is None else r"not a readable \.npy file"
    ):
        TokenFiles(vocabulary=9, path=str(path)).load()


# Texts.


def tokenizer(path: Path) -> str:
    """Words of a tiny vocabulary; [UNK] is 0."""
    tokenizers = pytest.importorskip("tokenizers")
    words = tokenizers.models.WordLevel({"[UNK]": 0, "the": 1, "cat": 2, "sat": 3}, unk_token="[UNK]")
    whole = tokenizers.Tokenizer(words)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    whole.save(str(path))
    return str(path)


def test_a_text_is_cut_into_the_tokens_of_its_tokenizer(tmp_path: Path) -> None:
    known = tokenizer(tmp_path / "tokenizer.json")
    text = tmp_path / "text.txt"
    text.write_text("the cat sat the dog sat " * 20, encoding="utf-8")
    task = TokenFiles(
        vocabulary=4, path=str(text), tokenizer=known, length=6, validation_share=0.1, test_share=0.1
    )
    dataset = task.load()
    assert dataset.spec.rows == (15, 1, 1)
    assert dataset.train.inputs[3].tolist() == [1, 2, 3, 1, 0, 3]
    assert dataset.train.labels[3].tolist() == [2, 3, 1, 0, 3, 1]
    with pytest.raises(BadInputError, match=r"token 3 at position 2 .* not of the vocabulary, 0 to 2"):
        task.model_copy(update={"vocabulary": 3}).load()


def test_bad_texts_and_tokenizers_are_told(tmp_path: Path) -> None:
    known = tokenizer(tmp_path / "tokenizer.json")
    text, other = tmp_path / "text.txt", tmp_path / "other.json"
    text.write_bytes(b"\xff\xfe")
    other.write_text("{}")
    with pytest.raises(BadInputError, match=r"text\.txt: a text in UTF-16"):
        TokenFiles(vocabulary=4, path=str(text), tokenizer=known).load()
    text.write_text("the cat")
    with pytest.raises(BadInputError, match=r"other\.json: not a tokenizer\.json"):
        TokenFiles(vocabulary=4, path=str(text), tokenizer=str(other)).load()
    with pytest.raises(BadInputError, match=r"absent\.json: cannot be read \(No such file"):
        TokenFiles(vocabulary=4, path=str(text), tokenizer=str(tmp_path / "absent.json")).load()


def test_without_the_package_the_error_says_what_to_install(tmp_path: Path, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(BadInputError, match=r"pip install 'compressm\[export\]'"):
        TokenFiles(vocabulary=4, path="a.txt", tokenizer="tokenizer.json").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "vocabulary"),
        ({"vocabulary": 0}, "vocabulary"),
        ({"vocabulary": 5, "stride": 3}, "stride: only with path"),
        ({"vocabulary": 5, "tokenizer": "t.json"}, "tokenizer: only with path"),
        ({"vocabulary": 5, "path": "a.npy", "rows": 3}, "rows: only without path"),
        ({"vocabulary": 5, "path": "a.txt"}, "write tokenizer for a text"),
        ({"vocabulary": 5, "path": "a.npy", "tokenizer": "t.json"}, "only for a text"),
        ({"vocabulary": 5, "test_share": 0.5}, "test_share"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TokenFiles(**options)


def test_arrays_that_python_2_wrote_are_read_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    header = b"{'descr': '<i4', 'fortran_order': False, 'shape': (3L,), }".ljust(117) + b"\n"
    old = (
        b"\x93NUMPY\x01\x00"
        + len(header).to_bytes(2, "little")
        + header
        + np.arange(3, dtype="<i4").tobytes()
    )
    (tmp_path / "old.npy").write_bytes(old)
    assert token_sources._array(tmp_path / "old.npy").tolist() == [0, 1, 2]
    with zipfile.ZipFile(tmp_path / "old.npz", "w") as archive:
        archive.writestr("x.npy", old)
    source = NpzSource(tmp_path / "old.npz", Form())
    assert [cells.tolist() for cells in next(iter(source.blocks(["x"])))] == [[0, 1, 2]]  # type: ignore[union-attr]
    assert [str(warning.message) for warning in recwarn] == []
