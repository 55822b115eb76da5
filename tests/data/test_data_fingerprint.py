"""By what a data set is known again: checksums of values, differences in words, and where the user's files are."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from compressm_cli.data import TASKS, Dataset, DataSpec, Split
from compressm_cli.data import checksum as module
from compressm_cli.data.checksum import checksum, text_checksum
from compressm_cli.data.digits import Digits
from compressm_cli.data.files import Files
from compressm_cli.data.text_lm import TextLm
from compressm_cli.data.token_files import TokenFiles


def test_a_checksum_is_that_of_the_values(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens, numbers = torch.arange(350).reshape(50, 7), torch.arange(700).reshape(50, 7, 2) / 8
    known = checksum(tokens, numbers, None)
    assert known == "bc3ac36d906ddd8081d1631a7a124eed"  # on every machine
    for kind in (torch.int16, torch.int32):
        assert checksum(tokens.to(kind), numbers, None) == known
    assert checksum(tokens, numbers.double(), None) == known
    assert (
        checksum(tokens.T.contiguous().T, numbers.transpose(0, 1).contiguous().transpose(0, 1), None) == known
    )
    monkeypatch.setattr(module, "ELEMENTS", 30)
    assert checksum(tokens, numbers, None) == known


def test_a_checksum_sees_every_bit_and_every_shape() -> None:
    tokens, numbers = torch.arange(12).reshape(3, 4), torch.ones(3, 4)
    other = numbers.clone()
    other[2, 3] = torch.nextafter(other[2, 3], torch.tensor(9.0))
    more = tokens.clone()
    more[0, 0] = 2**40
    found = [
        checksum(tokens, numbers),
        checksum(numbers, tokens),
        checksum(tokens, other),
        checksum(more, numbers),
        checksum(tokens.reshape(4, 3), numbers),
        checksum(tokens, numbers, None),
        checksum(tokens),
    ]
    assert len(set(found)) == len(found)
    assert text_checksum(["a", "bc"]) != text_checksum(["ab", "c"])


def dataset(names: list[str] | None = None, rows: int = 4, last: float = 0.0, length: int = 3) -> Dataset:
    """Ten rows or so, of which one value can be chosen."""
    inputs = torch.zeros(rows, length, 1)
    inputs[-1, -1, -1] = last
    train = Split(inputs, torch.arange(rows) % 2)
    small = Split(torch.zeros(2, length, 1), torch.arange(2))
    spec = DataSpec(classes=len(names or "ab"), length=length, features=1, rows=(rows, 2, 2))
    return Dataset(spec, train, small, small, class_names=names)


@pytest.mark.parametrize(
    ("now", "told"),
    [
        (dataset(["a", "b"]), []),
        (dataset(["a", "b"], rows=5), ["train: 5 rows instead of 4"]),
        (dataset(["a", "b"], last=1.0), ["train: other values in the 4 rows"]),
        (dataset(["a", "b", "c"]), ["3 classes instead of 2", "the class 'c' is new"]),
        (dataset(["a", "x"]), ["the class 'x' is new", "the class 'b' is gone"]),
        (dataset(["b", "a"]), ["the classes have other names"]),
        (dataset(), ["the classes have other names"]),
        (dataset([str(i) for i in range(5)]), [
            "5 classes instead of 2", "the classes '0', '1', '2' and 2 more are new", "the classes 'a', 'b' are gone",
        ]),
    ],
)  # fmt: skip
def test_what_differs_is_told(now: Dataset, told: list[str]) -> None:
    before = dataset(["a", "b"]).fingerprint
    assert before.differences(now.fingerprint) == told
    assert (before == now.fingerprint) is not bool(told)


def test_another_shape_is_told() -> None:
    before, now = dataset().fingerprint, dataset(length=5).fingerprint
    assert before.differences(now)[0] == "length 5 instead of 3"
    spec = replace(before.spec, features=None, vocabulary=9)
    assert replace(before, spec=spec).differences(before) == [
        "features 1 instead of None",
        "vocabulary None instead of 9",
    ]


def test_many_or_long_names_are_known_by_their_checksum() -> None:
    many = [str(i) for i in range(101)]
    one, other = dataset(many).fingerprint, dataset([*many[:-1], "x"]).fingerprint
    assert one.class_names is None
    assert one.differences(other) == ["the classes have other names"]
    assert dataset(["a", "b" * 101]).fingerprint.class_names is None


def test_a_task_knows_the_classes_by_name(tmp_path: Path) -> None:
    lines = [f"{i},{'dog' if i % 2 else 'cat'}" for i in range(20)]
    (tmp_path / "rows.csv").write_text("\n".join(["x,label", *lines]))
    task = Files(format="csv", train=str(tmp_path / "rows.csv"), feature_columns=["x"], label_column="label")
    found = task.load().fingerprint
    assert found.class_names == ["cat", "dog"]
    assert found == task.load().fingerprint
    assert Digits().load().fingerprint == Digits().load().fingerprint
    assert Digits().load().fingerprint != Digits(split_seed=1).load().fingerprint


def test_relative_paths_start_at_a_folder(tmp_path: Path) -> None:
    columns = {"feature_columns": ["x"], "label_column": "y"}
    files = Files(format="csv", train="a/../b.csv", validation=0.2, test="/data/t.csv", **columns)
    assert files.places() == {"train": "a/../b.csv", "test": "/data/t.csv"}
    found = files.located(tmp_path)
    assert found.places() == {"train": f"{tmp_path}/a/../b.csv", "test": "/data/t.csv"}
    assert found.located(Path("/elsewhere")) is found
    assert TextLm().located(tmp_path) == TextLm()
    tokens = TokenFiles(vocabulary=9, path="x.txt", tokenizer="tokenizer.json").located(tmp_path)
    assert tokens.places() == {"path": f"{tmp_path}/x.txt", "tokenizer": f"{tmp_path}/tokenizer.json"}


def test_every_task_names_the_keys_that_are_paths() -> None:
    """What else it reads would be taken from the current folder of the moment."""
    for name, task in TASKS.items():
        texts = {key for key, field in task.model_fields.items() if str in _parts(field.annotation)}
        columns = {
            f"{one}_column"
            for one in ("text", "target_text", "image", "audio", "sequence", "label", "id", "time", "lengths")
        }
        columns |= {"feature_columns", "target_columns", "delimiter"}
        assert texts - columns <= set(task.paths), name


def _parts(annotation: object) -> list[object]:
    """A type and all that it is made of."""
    return [annotation, *(part for each in getattr(annotation, "__args__", ()) for part in _parts(each))]


def test_one_file_cannot_be_two_splits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    columns = {"feature_columns": ["x"], "label_column": "y"}
    for other in ("./rows.csv", str(tmp_path / "rows.csv")):
        with pytest.raises(ValueError, match="must be different"):
            Files(format="csv", train="rows.csv", validation=other, **columns)
