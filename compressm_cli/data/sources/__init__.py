"""Files and folders of the user's, and originals of published sets: one kind of them a file.

Tables have a ``Source`` each, by the format that a recipe gives.
"""

from compressm_cli.data.sources.arrow import ArrowSource, ParquetSource
from compressm_cli.data.sources.csv import CsvSource, TsvSource
from compressm_cli.data.sources.interface import Cells, Form, Source
from compressm_cli.data.sources.json import JsonLinesSource, JsonSource
from compressm_cli.data.sources.npz import NpzSource
from compressm_cli.data.sources.ts import TsSource

SOURCES: dict[str, type[Source]] = {
    "csv": CsvSource,
    "tsv": TsvSource,
    "json": JsonSource,
    "jsonl": JsonLinesSource,
    "parquet": ParquetSource,
    "arrow": ArrowSource,
    "npz": NpzSource,
    "ts": TsSource,
}

__all__ = ["SOURCES", "Cells", "Form", "Source"]
