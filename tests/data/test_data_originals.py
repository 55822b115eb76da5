"""Published sets from their original files: read as they are, or refused."""

import gzip
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.imdb import Imdb
from compressm_cli.data.scifar import SequentialCifar
from compressm_cli.data.smnist import SequentialMnist
from compressm_cli.data.sources.cifar import CLASSES, read_cifar
from compressm_cli.data.sources.folders import BESIDE
from compressm_cli.data.sources.idx import read_idx

RANDOM = np.random.default_rng(0)
DIGITS = {
    part: RANDOM.integers(0, 256, (rows, 28, 28), dtype=np.uint8)
    for part, rows in (("train", 40), ("t10k", 10))
}
PHOTOS = RANDOM.integers(0, 256, (60, 32, 32, 3), dtype=np.uint8)
"""Ten of each file."""
LABELS = list(range(10))


def idx(values: np.ndarray) -> bytes:
    shape = values.shape
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + values.tobytes()


def put_mnist(folder: Path, dot: bool = False, packed: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, pixels in DIGITS.items():
        labels = (np.arange(len(pixels)) % 10).astype(np.uint8)
        for kind, values in (("images", pixels), ("labels", labels)):
            name = f"{part}-{kind}{'.' if dot else '-'}idx{values.ndim}-ubyte"
            content = idx(values)
            (folder / (f"{name}.gz" if packed else name)).write_bytes(
                gzip.compress(content) if packed else content
            )


@pytest.mark.parametrize(
    ("inside", "dot", "packed"),
    [("", False, False), ("MNIST/raw", False, True), ("raw", True, True), ("", True, False)],
)
def test_mnist_from_idx_files(inside: str, dot: bool, packed: bool, tmp_path: Path) -> None:
    put_mnist(tmp_path / inside, dot, packed)
    dataset = SequentialMnist(path=str(tmp_path)).load()
    assert dataset.spec.rows == (36, 4, 10)
    assert dataset.test.labels.tolist() == LABELS
    expected = (torch.from_numpy(DIGITS["t10k"]).reshape(10, 784, 1) / 255.0 - 0.1307) / 0.3081
    torch.testing.assert_close(dataset.test.inputs, expected)
    assert dataset.encoding is not None
    assert dataset.encoding.class_names == [str(label) for label in LABELS]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("t10k-images-idx3-ubyte", idx(DIGITS["t10k"])[:-1], r"is 7,856 bytes, and there are only 7,855"),
        ("t10k-images-idx3-ubyte", idx(DIGITS["t10k"]) + b"x", "and there are more"),
        ("t10k-images-idx3-ubyte", struct.pack(">IIII", 0x803, 2**32 - 1, 2**32 - 1, 2**32 - 1), "there are only 16"),
        ("t10k-images-idx3-ubyte", idx(np.zeros(3, dtype=np.uint8)), "is no idx file of images: .* 0x00000803"),
        ("t10k-images-idx3-ubyte", b"\0", "is no idx file of images"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((0, 28, 28), dtype=np.uint8)), "there are no rows in it"),
        ("t10k-images-idx3-ubyte", idx(np.zeros((10, 32, 32), dtype=np.uint8)), "images of 32 x 32 pixels; .* 28 x 28"),
        ("t10k-labels-idx1-ubyte", idx(np.zeros(9, dtype=np.uint8)), "9 labels, and t10k-.* has 10 images"),
        ("t10k-labels-idx1-ubyte", idx(np.full(10, 11, dtype=np.uint8)), "row 1: the label 11; digits are from 0 to 9"),
        ("t10k-labels-idx1-ubyte", None, "t10k-labels-idx1-ubyte is missing; put it beside the others"),
    ],
    ids=range(10),
)  # fmt: skip
def test_what_is_no_idx_file_is_refused(name: str, content: bytes | None, told: str, tmp_path: Path) -> None:
    put_mnist(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInputError, match=told):
        SequentialMnist(path=str(tmp_path)).load()


def test_a_packed_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    put_mnist(tmp_path, packed=True)
    file = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(
        BadInputError, match=r"train-images-idx3-ubyte\.gz: cannot be read as idx file of images"
    ):
        SequentialMnist(path=str(tmp_path)).load()


def batches() -> dict[str, tuple[np.ndarray, list[int]]]:
    """(10, 3072) reds, greens and blues, and labels, of each file."""
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    planes = PHOTOS.transpose(0, 3, 1, 2).reshape(6, 10, 3072)
    return {name: (part, LABELS) for name, part in zip(names, planes, strict=True)}


def binary(pixels: np.ndarray, labels: list[int]) -> bytes:
    return b"".join(bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True))


def short(text: str) -> bytes:
    """A text as Python 2 pickles it."""
    return b"U" + bytes([len(text)]) + text.encode()


def pickled(
    pixels: np.ndarray, labels: list[int], kind: str = "u1", shape: tuple[int, int] | None = None
) -> bytes:
    """A batch as the published files are: pickled by Python 2, in protocol 2."""
    rows, width = shape or pixels.shape
    content = pixels.tobytes()
    state = b"(K\x01" + b"M" + struct.pack("<H", rows) + b"M" + struct.pack("<H", width) + b"\x86"
    dtype = (
        b"cnumpy\ndtype\n"
        + short(kind)
        + b"K\x00K\x01\x87R(K\x03U\x01|NNN"
        + 2 * b"J\xff\xff\xff\xff"
        + b"K\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    data = array + state + dtype + b"\x89T" + struct.pack("<i", len(content)) + content + b"tb"
    numbers = b"](" + b"".join(b"K" + bytes([label]) for label in labels) + b"e"
    return b"\x80\x02}(" + short("data") + data + short("labels") + numbers + b"u."


def put_cifar(folder: Path, suffix: str, write: Callable[..., bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, (pixels, labels) in batches().items():
        (folder / f"{name}{suffix}").write_bytes(write(pixels, labels))


@pytest.mark.parametrize("inside", ["", "cifar-10-batches-bin", "cifar-10-batches-py"])
def test_cifar_from_the_binary_version_and_from_that_for_python(inside: str, tmp_path: Path) -> None:
    suffix, write = ("", pickled) if inside.endswith("py") else (".bin", binary)
    put_cifar(tmp_path / inside, suffix, write)
    dataset = SequentialCifar(path=str(tmp_path)).load()
    assert dataset.spec.rows == (45, 5, 10)
    assert dataset.test.labels.tolist() == LABELS
    mean, deviation = torch.tensor([0.4914, 0.4822, 0.4465]), torch.tensor([0.2470, 0.2435, 0.2616])
    expected = (torch.from_numpy(PHOTOS[50:]).reshape(10, 1024, 3) / 255.0 - mean) / deviation
    torch.testing.assert_close(dataset.test.inputs, expected)
    assert dataset.encoding is not None
    assert dataset.encoding.class_names == list(CLASSES)


def test_the_pickled_batches_are_those_that_numpy_reads(tmp_path: Path) -> None:
    pixels, labels = batches()["test_batch"]
    batch = pickle.loads(pickled(pixels, labels), encoding="bytes")
    assert batch[b"labels"] == labels
    np.testing.assert_array_equal(batch[b"data"], pixels)


ONE = batches()["test_batch"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (binary(*ONE)[:-1], r"30,729 bytes, which is no multiple of 3,073"),
        (b"", "there are no rows in it"),
        (binary(ONE[0], [*LABELS[:-1], 10]), "row 10: the label 10; they are from 0 to 9"),
        (None, r"test_batch\.bin is missing; put it beside the others"),
    ],
    ids=range(4),
)
def test_what_is_no_binary_batch_is_refused(content: bytes | None, told: str, tmp_path: Path) -> None:
    put_cifar(tmp_path, ".bin", binary)
    (tmp_path / "test_batch.bin").unlink()
    if content is not None:
        (tmp_path / "test_batch.bin").write_bytes(content)
    with pytest.raises(BadInputError, match=told):
        SequentialCifar(path=str(tmp_path)).load()


class Harmful:
    """Makes a file when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.touch, (self.place,)


def reduced(call: str, *arguments: bytes) -> bytes:
    """A pickle that calls a function of some texts."""
    module, _, name = call.rpartition(".")
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"(" + b"".join(arguments) + b"tR."


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (pickled(*ONE)[:-40], "cannot be read as a batch of CIFAR-10"),
        (b"", "cannot be read as a batch of CIFAR-10"),
        (pickle.dumps([1, 2]), "holds no mapping with 'data' and 'labels'"),
        (pickle.dumps({b"data": b"x", b"labels": LABELS}, 3), "its data are no 10 x 3,072 bytes"),
        (pickle.dumps({b"data": b"x", b"labels": "abc"}, 3), "its labels are no list of whole numbers"),
        (pickle.dumps({b"data": b"x", b"labels": [1.5]}, 3), "its labels are no list of whole numbers"),
        (pickled(ONE[0], LABELS[:-1]), "its data are no 9 x 3,072 bytes"),
        (pickled(*ONE, kind="i1"), "its data are no 10 x 3,072 bytes"),
        (pickled(*ONE, shape=(3072, 10)), "its data are no 10 x 3,072 bytes"),
        (pickled(ONE[0], [*LABELS[:-1], 10]), "row 10: the label 10"),
        (reduced("os.system", short("touch harm")), "it asks for os.system, which no batch of CIFAR-10 does"),
        (reduced("numpy.core.multiarray.scalar", short("x")), r"it asks for numpy\.core\.multiarray\.scalar"),
        (reduced("builtins.eval", short("1")), r"it asks for builtins\.eval"),
        (b"\x80\x02Pname\n.", "cannot be read as a batch of CIFAR-10: it holds what no batch"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "it holds what no batch of CIFAR-10 does"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.", "cannot be read as a batch of CIFAR-10"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "holds no mapping with 'data' and 'labels'"),
    ],
    ids=range(17),
)  # fmt: skip
def test_what_is_no_pickled_batch_is_refused(
    content: bytes, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    put_cifar(tmp_path, "", pickled)
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(BadInputError, match=f"test_batch.*{told}"):
        SequentialCifar(path=str(tmp_path)).load()
    assert not (tmp_path / "harm").exists()


def test_nothing_of_a_pickled_batch_is_run(tmp_path: Path) -> None:
    put_cifar(tmp_path, "", pickled)
    harm = tmp_path / "harm"
    (tmp_path / "data_batch_3").write_bytes(pickle.dumps({b"data": Harmful(harm), b"labels": [1]}, 2))
    with pytest.raises(BadInputError, match=r"data_batch_3: cannot be read .*: it asks for"):
        SequentialCifar(path=str(tmp_path)).load()
    assert not harm.exists()


def test_other_folders_have_no_originals_and_say_what_these_are(tmp_path: Path) -> None:
    assert read_idx(tmp_path) is None
    assert read_cifar(tmp_path) is None
    for task, told in ((SequentialMnist, "train-images-idx3-ubyte"), (SequentialCifar, r"data_batch_1\.bin")):
        with pytest.raises(BadInputError, match=f"no copy of .* in each, or {told}"):
            task(path=str(tmp_path)).load()


def reviews(rows: int) -> list[dict[str, Any]]:
    return [{"text": f"review {i}, and\nmore", "label": "np"[i % 2], "words": i} for i in range(rows)]


@pytest.mark.parametrize("suffix", ["json", "jsonl", "csv", "tsv"])
def test_reviews_from_tables(suffix: str, tmp_path: Path) -> None:
    import pandas

    def write(name: str, rows: list[dict[str, Any]]) -> Path:
        file, table = tmp_path / f"{name}.{suffix}", pandas.DataFrame(rows)
        if suffix == "json":
            file.write_text(json.dumps(rows))
        elif suffix == "jsonl":
            file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            table.to_csv(file, index=False, sep="," if suffix == "csv" else "\t")
        return file

    write("train", reviews(20))
    write("test", reviews(6))
    dataset = Imdb(path=str(tmp_path), max_length=30).load()
    assert dataset.spec.rows == (18, 2, 6)
    assert dataset.test.labels.tolist() == [0, 1] * 3
    assert bytes(token - 1 for token in dataset.test.inputs[1].tolist() if token) == b"review 1, and\nmore"
    whole = write("all", [{"t": row["text"], "s": int(row["label"] == "p")} for row in reviews(40)])
    one = Imdb(path=str(whole), text_column="t", label_column="s").load()
    assert one.spec.rows == (18, 2, 20)
    assert one.test.labels.float().mean() == 0.5
    with pytest.raises(BadInputError, match=rf"all\.{suffix}.*column 'text'"):
        Imdb(path=str(whole)).load()


def test_what_are_no_reviews_is_told(tmp_path: Path) -> None:
    file = tmp_path / "reviews.zip"
    file.write_bytes(b"x")
    with pytest.raises(BadInputError, match=r"reviews\.zip: no table of reviews; give one of \.csv, \.json"):
        Imdb(path=str(file)).load()
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(row) + "\n" for row in reviews(3)))
    with pytest.raises(BadInputError, match=r"few\.jsonl: 3 rows are too few; give 8 or more"):
        Imdb(path=str(few)).load()
    (tmp_path / "acl" / "train" / "neg").mkdir(parents=True)
    (tmp_path / "acl" / "train" / "neg" / "0_3.txt").write_text("bad")
    (tmp_path / "acl" / "test").mkdir()
    with pytest.raises(BadInputError, match=r"acl/train: has no folder 'pos' in it"):
        Imdb(path=str(tmp_path / "acl")).load()


def test_what_was_read_of_a_folder_of_the_users_is_told(tmp_path: Path) -> None:
    for split, rows in (("train", 10), ("test", 4)):
        for row in range(rows):
            file = tmp_path / split / ("neg", "pos")[row % 2] / f"{row}_7.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{split} {row}")
        (tmp_path / split / "urls_neg.txt").write_text("beside")
    report = Imdb(path=str(tmp_path)).described()[1]
    assert report is not None
    assert report.left_out == {split: {BESIDE: 1} for split in ("train", "test")}
    assert report.splits["train"].classes == {"neg": 5, "pos": 4}
    put_mnist(tmp_path / "mnist")
    report = SequentialMnist(path=str(tmp_path / "mnist")).described()[1]
    assert report is not None
    assert report.splits["test"].classes == dict.fromkeys(map(str, LABELS), 1)
    assert SequentialMnist().described() == (SequentialMnist().spec(), None)
