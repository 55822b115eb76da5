"""Archives of NumPy arrays, whose arrays are the columns; that of the series in rows, padded, or one after another."""

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar
from zipfile import ZipInfo

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.mapped import in_temporary_file, is_large
from compressm_cli.data.reading import arrays_of_any_age, reading
from compressm_cli.data.rows import AsTheyLie
from compressm_cli.data.sources.interface import Cells, Source

ADVICE = "write arrays of numbers or texts with numpy.savez (series of unequal length: one after another, and lengths)"
BLOCK = 2**20
"""Bytes that are unpacked at once."""


class NpzSource(Source):
    """Arrays of as many entries as there are rows."""

    kind: ClassVar[str] = "npz"

    @cached_property
    def columns(self) -> list[str]:
        return [name for name in self._arrays if name != self.form.lengths]

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        found: list[Cells] = [
            self._series(name) if name in self.form.series else self._flat(name) for name in columns
        ]
        for name, cells in zip(columns, found, strict=True):
            if len(cells) != len(found[0]):
                raise BadInputError(
                    f"{self.file}: array {name!r} has {len(cells):,} rows, and {columns[0]!r} {len(found[0]):,}; give "
                    "as many of each"
                )
        if len(found[0]):
            yield found

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with reading(self.file, f"cannot be read as {self.kind}", ADVICE), arrays_of_any_age():
            content: Any = np.load(self.file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                raise ValueError("one array, without a name")
            with content:
                return {name: _array(content, name) for name in content.files}

    def _flat(self, name: str) -> np.ndarray:
        """An array with an entry a row."""
        array = self._arrays[name]
        if array.ndim != 1:
            raise BadInputError(
                f"{self.file}: array {name!r} has the shape {array.shape}, and one entry a row is wanted: (rows,); "
                "write class numbers, not one column a class, and an array for each target"
            )
        return array

    def _series(self, name: str) -> AsTheyLie:
        """(steps,) or (steps, channels) of each row."""
        array = self._arrays[name]
        if array.dtype.kind not in "biuf":
            raise BadInputError(f"{self.file}: array {name!r} is of {array.dtype}; write numbers")
        lengths = self._lengths()
        if lengths is None:
            if array.ndim not in (2, 3):
                raise self._misshapen(name, "(rows, steps) or (rows, steps, channels)")
            return AsTheyLie(list(array))
        padded = array.ndim in (2, 3) and len(lengths) == len(array)
        flat = array.ndim in (1, 2) and int(lengths.sum()) == len(array)
        if padded == flat or (padded and int(lengths.max()) > array.shape[1]):
            raise self._misshapen(
                name,
                f"with {len(lengths):,} lengths of {int(lengths.sum()):,} steps in all, of {int(lengths.max()):,} at "
                "most, (rows, steps[, channels]), or (steps in all[, channels]) one after another",
            )
        if flat:
            return AsTheyLie(np.split(array, np.cumsum(lengths)[:-1]))
        return AsTheyLie([row[:length] for row, length in zip(array, lengths.tolist(), strict=True)])

    def _lengths(self) -> np.ndarray | None:
        """(rows,) int64, each 1 or more; None where series have one length."""
        name = self.form.lengths
        if name is None:
            return None
        if name not in self._arrays:
            raise BadInputError(
                f"{self.file}: has no array {name!r}; its arrays are {', '.join(self._arrays)}"
            )
        lengths = self._arrays[name]
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu" or len(lengths) == 0 or int(lengths.min()) < 1:
            raise BadInputError(
                f"{self.file}: array {name!r} is of {lengths.dtype} and the shape {lengths.shape}; lengths are whole "
                "numbers from 1 on, one a row"
            )
        return lengths.astype(np.int64)

    def _misshapen(self, name: str, wanted: str) -> BadInputError:
        return BadInputError(
            f"{self.file}: array {name!r} has the shape {self._arrays[name].shape}; wanted is {wanted}"
        )


def _array(content: Any, name: str) -> np.ndarray:
    """An array of an opened archive; a large one is unpacked into a temporary file."""
    info: ZipInfo | None = next((i for i in content.zip.infolist() if i.filename == f"{name}.npy"), None)
    if info is None or not is_large(info.file_size):
        array: np.ndarray = content[name]
        return array
    with content.zip.open(info) as member:
        version = np.lib.format.read_magic(member)
        if version == (1, 0):
            shape, by_columns, dtype = np.lib.format.read_array_header_1_0(member)
        else:
            shape, by_columns, dtype = np.lib.format.read_array_header_2_0(member)
        count = math.prod(shape)
        if dtype.hasobject or min(shape, default=1) < 0:
            raise ValueError(f"array {name!r} is of {dtype} and the shape {shape}")
        if count * dtype.itemsize != info.file_size - member.tell():
            raise ValueError(f"array {name!r} is not as large as its head says")
        flat = in_temporary_file((count,), dtype)
        left = flat.view(np.uint8).data
        while len(left) and (read := member.readinto(left[:BLOCK])):
            left = left[read:]
        if len(left) or member.read(1):  # at its end the checksum is compared
            raise ValueError(f"array {name!r} is cut short")
    return flat.reshape(shape[::-1]).T if by_columns else flat.reshape(shape)
