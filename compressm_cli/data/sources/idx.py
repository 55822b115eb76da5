"""MNIST as it was published: idx files, packed by gzip or not."""

from pathlib import Path

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import Rows
from compressm_cli.data.sources.originals import only_folder, required
from compressm_cli.data.sources.packed import PACKED, unpacked

PARTS = {"train": "train", "test": "t10k"}
FOLDERS = ("", "raw", "MNIST/raw")
"""Where the files lie in a folder; the last two as torchvision keeps them."""
MAGIC = {"images": 0x0803, "labels": 0x0801}
"""Unsigned bytes, in three dimensions or one."""
BLOCK = 1 << 20


def read_idx(folder: Path) -> dict[str, Rows] | None:
    """The train and test images of 28 x 28 pixels in grey and their labels, ``0`` to ``9``; None where there are none.

    Raises BadInputError where some of the four files are missing, and for one that is no such file, or cut short.
    """
    names = [name for part in PARTS.values() for kind in MAGIC for name in _names(part, kind)]
    place = only_folder(folder, FOLDERS, names)
    return None if place is None else {split: _rows(place, part) for split, part in PARTS.items()}


def _names(part: str, kind: str) -> list[str]:
    """How a file is called: as published or with a dot, unpacked first."""
    dimensions = MAGIC[kind] & 0xFF
    plain = [f"{part}-{kind}{sign}idx{dimensions}-ubyte" for sign in "-."]
    return plain + [f"{name}{PACKED}" for name in plain]


def _rows(folder: Path, part: str) -> Rows:
    images = required(folder, _names(part, "images"))
    pixels = _values(images, "images")
    file = required(folder, _names(part, "labels"))
    labels = _values(file, "labels")
    if len(labels) != len(pixels):
        raise BadInputError(f"{file}: {len(labels):,} labels, and {images.name} has {len(pixels):,} images")
    if len(labels) and labels.max() > 9:
        row = int(np.argmax(labels > 9))
        raise BadInputError(f"{file}, row {row + 1}: the label {labels[row]}; digits are from 0 to 9")
    return Rows(str(images), "images", list(pixels[..., None]), labels=labels.astype(str).tolist())


def _values(file: Path, kind: str) -> np.ndarray:
    """What is in a file, uint8: (rows,), or (rows, height, width)."""
    dimensions = MAGIC[kind] & 0xFF
    with reading(file, f"cannot be read as idx file of {kind}", "replace it by the original"):
        size = 4 * (1 + dimensions)
        head = _content(file, size)
        if len(head) < size or int.from_bytes(head[:4], "big") != MAGIC[kind]:
            raise BadInputError(
                f"{file}: is no idx file of {kind}: it does not begin with {MAGIC[kind]:#010x}"
            )
        shape = [int(number) for number in np.frombuffer(head, ">u4")[1:]]
        told = size + int(np.prod(shape, dtype=object))
        content = _content(file, told + 1)
    if len(content) != told:
        more = "more" if len(content) > told else f"only {len(content):,}"
        raise BadInputError(
            f"{file}: its head says {' x '.join(map(str, shape))}, which is {told:,} bytes, and there are {more}; "
            "replace it by the original"
        )
    if not shape[0]:
        raise BadInputError(f"{file}: there are no rows in it")
    return np.frombuffer(content, np.uint8, offset=size).reshape(shape)


def _content(file: Path, most: int) -> bytes:
    """The first ``most`` bytes, as far as there are so many, whatever a head claims."""
    blocks, missing = [], most
    with unpacked(file) as opened:
        while missing and (block := opened.read(min(BLOCK, missing))):
            blocks.append(block)
            missing -= len(block)
    return b"".join(blocks)
