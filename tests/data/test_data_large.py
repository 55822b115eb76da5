"""Data that memory has no room for: encoded in parts into a temporary file, or mapped; the same values, bit for bit."""

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import encoded, mapped, steps
from compressm_cli.data.encodings import Standardization
from compressm_cli.data.files import Files
from compressm_cli.data.interface import Dataset, Split, TaskConfig
from compressm_cli.data.sources import Form
from compressm_cli.data.sources.npz import NpzSource
from compressm_cli.data.token_files import TokenFiles
from compressm_cli.data.token_sources import _raw

SPLITS = ("train", "validation", "test")
MAPS, OVERCOMMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/overcommit_memory")
IS_FREE = mapped.WITHOUT_RESERVE and OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() != "2"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def put_images(side: int = 6, count: int = 12, folder: str = "pictures") -> Files:
    chance = np.random.RandomState(0)
    for number in range(count):
        path = Path(folder, "ab"[number % 2], f"{number}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.randint(0, 256, size=(side, side, 3)).astype(np.uint8)).save(
            path, compress_level=1
        )
    return Files(format="image_folder", train=folder, validation=0.2, test=0.2)


def put_recordings(**settings: Any) -> Files:
    soundfile = pytest.importorskip("soundfile")
    chance = np.random.RandomState(0)
    for number in range(12):
        path = Path("sounds", "ab"[number % 2], f"{number}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, chance.uniform(-0.5, 0.5, size=400 + 37 * number), (4000, 6000)[number % 2])
    return Files(
        format="audio_folder", train="sounds", sampling_rate=3000, validation=0.2, test=0.2, **settings
    )


def put_texts() -> Files:
    rows = [f"{'word ' * (1 + number % 5)},{'ab'[number % 2]}" for number in range(20)]
    Path("texts.csv").write_text("\n".join(["text,label", *rows]))
    return Files(format="csv", train="texts.csv", text_column="text", label_column="label", max_length=17)


def put_series(lengths: bool = True) -> Files:
    chance = np.random.RandomState(0)
    arrays = {"x": chance.normal(3.0, 50.0, size=(20, 9, 2)), "y": np.arange(20) % 2}
    np.savez("series.npz", **arrays, n=1 + np.arange(20) % 9)
    columns = {"sequence_column": "x", "label_column": "y", **({"lengths_column": "n"} if lengths else {})}
    return Files(format="npz", train="series.npz", validation=0.2, test=0.2, **columns)


MADE: dict[str, Callable[[], TaskConfig]] = {
    "images": put_images,
    "samples": put_recordings,
    "coefficients": lambda: put_recordings(features="mfcc"),
    "pieces": lambda: put_recordings(chunk_seconds=0.05),
    "beginnings": lambda: put_recordings(max_seconds=0.101),
    "texts": put_texts,
    "series": put_series,
    "series of one length": lambda: put_series(lengths=False),
}


def in_parts(monkeypatch: pytest.MonkeyPatch, free: int = 100, part: int = 2000) -> None:
    monkeypatch.setattr(mapped, "free_memory", lambda: free)
    monkeypatch.setattr(encoded, "PART", part)


def files_in_use() -> int:
    """Mapped files that have no name any more, in the folder of the test."""
    folder = tempfile.gettempdir()
    return sum(folder in line and "(deleted)" in line for line in MAPS.read_text().splitlines())


def same(one: Split, other: Split) -> None:
    for name in ("padded", "labels", "lengths"):
        mine, others = getattr(one, name), getattr(other, name)
        if name == "padded":
            mine, others = (torch.cat(list(inputs.parts(100))) for inputs in (mine, others))
        assert (mine is None) == (others is None), name
        if mine is not None:
            assert mine.dtype == others.dtype
            assert torch.equal(mine, others), name


@pytest.mark.skipif(not MAPS.exists(), reason="nothing tells what is mapped")
@pytest.mark.parametrize("kind", MADE)
def test_what_is_encoded_in_parts_is_what_it_would_be_at_once(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = MADE[kind]()
    whole: Dataset = task.dataset()
    assert files_in_use() == 0
    in_parts(monkeypatch)
    made = task.dataset()
    assert files_in_use() == 3, "one file a split"
    assert os.listdir(tempfile.gettempdir()) == [], "without a name, so that none is left"
    assert made.spec == whole.spec
    assert made.fingerprint == whole.fingerprint
    for name in SPLITS:
        one, other = getattr(made, name), getattr(whole, name)
        same(one, other)
        same(one.rows(torch.tensor([1, 0])), other.rows(torch.tensor([1, 0])))
    del made, one, other
    assert files_in_use() == 0


def test_one_split_alone_is_encoded_in_parts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    task = put_images().model_copy(update={"test": "pictures"})
    encoding = task.load().encoding
    assert encoding is not None
    whole = task.encoded_split("test", encoding)
    in_parts(monkeypatch)
    made = task.encoded_split("test", encoding)
    assert whole is not None
    assert made is not None
    same(made, whole)


LIMITED = """
import resource
import sys
from pathlib import Path

import torch

from compressm_cli.data import encoded, mapped, steps
from compressm_cli.data.files import Files
from compressm_cli.engine.batches import Batches
from compressm_cli.engine.divergence import rows_not_finite

tasks, size = [Files.model_validate_json(text) for text in sys.argv[2:]], int(sys.argv[1])
for task in tasks[::2]:
    task.dataset().fingerprint  # what is loaded for it
status = Path("/proc/self/status").read_text().splitlines()
taken = next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (taken + size // 2,) * 2)  # mapped files are no part of it
free, part = mapped.free_memory, encoded.PART
for task in tasks[1::2]:
    mapped.free_memory, encoded.PART = free, part
    try:
        task.dataset()
        sys.exit("all fit in memory, and nothing was shown")
    except (MemoryError, RuntimeError):
        pass
    mapped.free_memory, encoded.PART = lambda: size, size // 40
    made = task.dataset()
    batches = Batches(made.train, 4, seed=0)
    shapes = {tuple(batches(step).inputs.shape) for step in range(1, batches.per_epoch + 1)}
    print(shapes, rows_not_finite(made.train), made.fingerprint.spec == made.spec)
"""


def put_array(rows: int, name: str) -> Files:
    series = np.random.RandomState(0).randint(-9, 9, size=(rows, 20_000, 3)).astype(np.float32)
    np.savez(f"{name}.npz", x=series, y=np.arange(rows) % 2)
    columns = {"sequence_column": "x", "label_column": "y"}
    return Files(format="npz", train=f"{name}.npz", validation=0.2, test=0.2, **columns)


@pytest.mark.skipif(not MAPS.exists(), reason="nothing tells what is taken")
def test_memory_is_taken_for_a_part_alone() -> None:
    size = 120 * 20_000 * 3 * 4
    tasks = [
        *(put_images(side=2, folder="few"), put_images(side=200, count=60)),
        *(put_array(10, "few"), put_array(120, "many")),
    ]
    words = [sys.executable, "-c", LIMITED, str(size), *(task.model_dump_json() for task in tasks)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout == "{(4, 40000, 3)} 0 True\n{(4, 20000, 3)} 0 True\n"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_disk_without_room_is_told_before_anything_is_encoded(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = put_images()
    in_parts(monkeypatch)

    def refuse(*_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with pytest.raises(BadInputError) as told:
        task.load()
    assert str(told.value) == (
        f"{tempfile.gettempdir()}: the data take 3.46 kB, more than half of the memory that is free, and no temporary "
        f"file of that size can be written: {os.strerror(number)}; free some space, or name a folder on a larger disk "
        "with the environment variable TMPDIR"
    )


@pytest.mark.parametrize("reason", ["not there", "not offered"])
def test_where_room_cannot_be_reserved_zeros_are_written(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason == "not there":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:

        def refuse(*_: int) -> None:
            raise OSError(errno.EOPNOTSUPP, "")

        monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    monkeypatch.setattr(mapped, "BLOCK", 7)
    made = mapped.in_temporary_file([3, 5], np.float32)
    assert made.shape == (3, 5)
    assert not made.any()
    made[:] = 2.0
    assert made.sum() == 30


@pytest.mark.parametrize("packed", [False, True], ids=["savez", "savez_compressed"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_of_an_archive_are_unpacked_into_temporary_files(
    order: Any, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.RandomState(0).normal(size=(5, 4, 3)).astype(np.float32).copy(order=order)
    (np.savez_compressed if packed else np.savez)("a.npz", x=array, y=np.arange(5), one=np.array(3))
    in_parts(monkeypatch)
    made = NpzSource(Path("a.npz"), Form())._arrays
    assert files_in_use() > 0
    np.testing.assert_array_equal(made["x"], array)
    assert (made["x"].dtype, made["one"].shape, made["y"].tolist()) == (array.dtype, (), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("damage", ["a bit", "the head"])
def test_a_large_array_that_is_damaged_is_refused(damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez("a.npz", x=np.arange(100.0))
    content = bytearray(Path("a.npz").read_bytes())
    if damage == "a bit":
        content[content.index(np.float64(77).tobytes())] ^= 1
    else:
        place = content.index(b"(100,)")
        content[place : place + 6] = b"(99,) "
    Path("a.npz").write_bytes(content)
    in_parts(monkeypatch)
    with pytest.raises(BadInputError, match=r"a\.npz: cannot be read as npz: .*(CRC|as large as its head)"):
        assert NpzSource(Path("a.npz"), Form()).columns


@pytest.mark.parametrize("rows", [1, 7, 129, 4001])
@pytest.mark.parametrize("channels", [1, 2, 7])
def test_numbers_are_standardized_in_parts_as_all_at_once(
    rows: int, channels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.RandomState(0).normal(5.0, 3.0, size=(rows, channels))
    values[:, -1] = values[0, -1] if channels == 2 else values[:, -1]
    series = [part for part in np.split(values, [3, 500]) if len(part)]
    for part in (128, 300, 1000):
        monkeypatch.setattr(steps, "PART", part)
        found = Standardization.fitted(steps.Steps(series))
        constant = values.std(axis=0) < 1e-9
        assert found.mean == values.mean(axis=0).tolist()
        assert found.deviation == np.where(constant, 1.0, values.std(axis=0)).tolist()


@pytest.mark.skipif(not IS_FREE, reason="what is mapped is reserved here")
def test_one_file_of_tokens_may_be_larger_than_memory() -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    swap = sum(int(line.split()[2]) for line in Path("/proc/swaps").read_text().splitlines()[1:]) * 1024
    with Path("large.bin").open("wb") as file:
        file.truncate(2 * (memory + swap))
    tokens = _raw(Path("large.bin"), "uint16")
    assert len(tokens) == memory + swap
    tokens[5] = 7  # in memory alone
    assert tokens[3:7].tolist() == [0, 0, 7, 0]
    with Path("large.bin").open("rb") as file:
        assert not any(file.read(100))


def test_several_files_of_tokens_are_joined_in_a_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for part in range(3):
        np.save(f"part-{part}.npy", (np.arange(300 * part, 300 * (part + 1)) % 50).astype(np.uint16))
    task = TokenFiles(vocabulary=50, path="part-*.npy", length=8, validation_share=0.2, test_share=0.2)
    whole = task.dataset()
    in_parts(monkeypatch)
    made = task.dataset()
    assert files_in_use() == 1
    assert made.fingerprint == whole.fingerprint
    for name in SPLITS:
        same(getattr(made, name), getattr(whole, name))
