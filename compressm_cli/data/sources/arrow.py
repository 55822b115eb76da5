"""Parquet files, and files of Arrow batches, as they are in caches of the hub's libraries."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, ClassVar

from compressm_cli.data.reading import reading
from compressm_cli.data.sources.interface import BATCH, Cells, Source

ADVICE = "correct or replace it"


class ParquetSource(Source):
    """A Parquet file."""

    kind: ClassVar[str] = "parquet"

    @cached_property
    def columns(self) -> list[str]:
        from pyarrow.parquet import read_schema

        with reading(self.file, f"cannot be read as {self.kind}", ADVICE):
            return list(read_schema(self.file).names)

    def blocks(self, columns: Sequence[str]) -> Iterator[list[Cells]]:
        with reading(self.file, f"cannot be read as {self.kind}", ADVICE):
            for batch in self._batches(columns):
                yield [_cells(batch.column(name)) for name in columns]

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self.file) as opened:
            yield from opened.iter_batches(BATCH, columns=list(columns))


class ArrowSource(ParquetSource):
    """A stream of Arrow batches."""

    kind = "arrow"

    @cached_property
    def columns(self) -> list[str]:
        from pyarrow import ipc, memory_map

        with (
            reading(self.file, f"cannot be read as {self.kind}", ADVICE),
            memory_map(str(self.file)) as mapped,
        ):
            return list(ipc.open_stream(mapped).schema.names)

    def _batches(self, columns: Sequence[str]) -> Iterator[Any]:
        from pyarrow import ipc, memory_map

        with memory_map(str(self.file)) as mapped:
            yield from ipc.open_stream(mapped)


def _cells(column: Any) -> Cells:
    """Numbers as an array where none is missing, lists of numbers as arrays, all else as Python has it."""
    from pyarrow import types

    kind = column.type
    if types.is_integer(kind) or types.is_floating(kind):
        return column.to_pylist() if column.null_count else column.to_numpy(zero_copy_only=False)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = kind.value_type
        if types.is_integer(inner) or types.is_floating(inner):
            return [cell.values.to_numpy(zero_copy_only=False) if cell.is_valid else None for cell in column]
    return column.to_pylist()
