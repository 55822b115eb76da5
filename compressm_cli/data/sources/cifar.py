"""CIFAR-10 as it was published: the binary version, and the one for Python, of which no code is run."""

import pickle
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.originals import only_folder, required

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIDE = 32
PIXELS = 3 * SIDE**2
"""Bytes of an image: all reds row by row, then greens, then blues."""
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
BINARY, PYTHON = "cifar-10-batches-bin", "cifar-10-batches-py"
ADVICE = "replace it by the original"


def read_cifar(folder: Path) -> dict[str, Rows] | None:
    """The train and test images of 32 x 32 pixels in colour, and their classes by name; None where there are none.

    Raises BadInputError where some of the six files are missing, and for one that is no such file, or cut short.
    """
    names = [name for split in BATCHES.values() for name in split]
    place = only_folder(folder, ("", BINARY), [f"{name}.bin" for name in names])
    if place is not None:
        return {
            split: _rows(place, [f"{n}.bin" for n in batches], _binary) for split, batches in BATCHES.items()
        }
    place = only_folder(folder, ("", PYTHON), names)
    if place is not None:
        return {split: _rows(place, batches, _python) for split, batches in BATCHES.items()}
    return None


def _rows(folder: Path, names: list[str], read: Callable[[Path], tuple[np.ndarray, np.ndarray]]) -> Rows:
    """Some files one after the other."""
    images: list[np.ndarray] = []
    labels: list[str] = []
    for name in names:
        file = required(folder, [name])
        pixels, numbers = read(file)
        if not len(numbers):
            raise BadInputError(f"{file}: there are no rows in it; {ADVICE}")
        if numbers.min() < 0 or numbers.max() >= len(CLASSES):
            row = int(np.argmax((numbers < 0) | (numbers >= len(CLASSES))))
            raise BadInputError(
                f"{file}, row {row + 1}: the label {numbers[row]}; they are from 0 to 9; {ADVICE}"
            )
        images += list(pixels.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1))
        labels += [CLASSES[number] for number in numbers]
    return Rows(str(folder), "images", images, labels=labels)


def _binary(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 3072) uint8 and (rows,) labels: of each row a byte of label, and its pixels."""
    with reading(file, "cannot be read", ADVICE):
        content = np.fromfile(file, dtype=np.uint8)
    if len(content) % (1 + PIXELS):
        raise BadInputError(
            f"{file}: {len(content):,} bytes, which is no multiple of {1 + PIXELS:,}, those of an image and its "
            f"label: it is cut short, or no such file; {ADVICE}"
        )
    rows = content.reshape(-1, 1 + PIXELS)
    return rows[:, 1:], rows[:, 0].astype(np.int64)


def _python(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """(rows, 3072) uint8 and (rows,) labels of a pickled mapping."""
    with reading(file, "cannot be read as a batch of CIFAR-10", ADVICE):
        # All of it first: a file would make room for what it is said to hold.
        batch = _Batch(BytesIO(file.read_bytes()), encoding="bytes").load()
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise BadInputError(f"{file}: holds no mapping with 'data' and 'labels'; {ADVICE}")
    data, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(labels, list) or any(type(label) is not int for label in labels):
        raise BadInputError(f"{file}: its labels are no list of whole numbers; {ADVICE}")
    pixels = data.pixels(len(labels)) if isinstance(data, _Array) else None
    if pixels is None:
        raise BadInputError(f"{file}: its data are no {len(labels):,} x {PIXELS:,} bytes; {ADVICE}")
    return pixels, np.array([min(label, 255) for label in labels], dtype=np.int64)


class _Array:
    """Stands for an array of NumPy: what it is made of, and nothing is made of it."""

    def __init__(self, *_: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def pixels(self, rows: int) -> np.ndarray | None:
        """(rows, 3072) uint8; None where it is anything else."""
        match self.state:
            case (1, shape, _Kind(name=b"u1" | "u1"), order, bytes(content)) if shape == (rows, PIXELS):
                if len(content) == rows * PIXELS:
                    return np.frombuffer(content, np.uint8).reshape(shape, order="F" if order else "C")
        return None


class _Kind:
    """Stands for the type of an array's elements."""

    def __init__(self, name: object = None, *_: object) -> None:
        self.name = name

    def __setstate__(self, state: object) -> None:
        """Byte order and sizes, which single bytes have not."""


def _refused(*_: object) -> None:
    raise pickle.UnpicklingError("it holds what no batch of CIFAR-10 does")


class _Batch(pickle._Unpickler):
    """Reads lists, mappings, numbers and bytes, and what stands for arrays; looks nothing up, and calls nothing.

    Not the unpickler in C, which makes room for as many objects as a file claims; nor arrays of bytes, which this one
    makes of any size.
    """

    ALLOWED: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy.core.multiarray", "_reconstruct"): _Array,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _Kind,
    }
    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BYTEARRAY8[0]: _refused}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 does")
        return self.ALLOWED[module, name]

    def persistent_load(self, pid: object) -> Any:
        _refused()
