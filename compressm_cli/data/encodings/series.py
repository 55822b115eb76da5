"""Series of numbers, of one channel or several."""

from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import counted
from compressm_cli.data.encodings.interface import Inputs
from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.rows import Kind, Rows, lengths_of


class Series(Inputs):
    """A series is the sequence of its steps, each with a number a channel, as they stand or standardized."""

    kind: Literal["series"] = "series"
    channels: Annotated[list[str], Field(min_length=1)]
    """Their names, in the order of the features."""
    named: bool = False
    """Whether channels are columns of a table, which all tables must have; else they are taken by their places."""
    columns: Annotated[list[str], Field(min_length=1)] | None = None
    """Where the steps are columns of a table: their names, which all tables must have; None takes any steps."""
    standardization: Standardization | None = None
    """Of each channel, over all steps; None takes the numbers as they stand."""

    @model_validator(mode="after")
    def _one_scale_a_channel(self) -> Self:
        scales = self.standardization
        if scales is not None and len(scales.mean) != len(self.channels):
            raise ValueError(f"standardization of {len(scales.mean)} for {len(self.channels)} channels")
        return self

    @property
    def takes(self) -> Kind:
        return "series"

    @property
    def features(self) -> int:
        return len(self.channels)

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        self.require_kind(rows)
        self._require_columns(rows)
        lengths = lengths_of(rows.content)
        values = np.zeros((len(rows), int(lengths.max()), self.features), dtype=np.float32)
        for row, series in enumerate(rows.content):
            assert isinstance(series, np.ndarray), "series are arrays"
            values[row, : len(series)] = self._singles(series, rows, row)
        uneven = bool((lengths != lengths[0]).any())
        return torch.from_numpy(values), torch.from_numpy(lengths) if uneven else None

    def steps(self, rows: Rows) -> np.ndarray:
        return lengths_of(rows.content)

    def _require_columns(self, rows: Rows) -> None:
        """BadInputError for a table whose columns are other steps, or other channels."""
        channels = (rows.channels, self.channels) if rows.named and self.named else (None, None)
        for what, columns, own in (("steps", rows.columns, self.columns), ("channels", *channels)):
            given = list(columns or [])
            if own is None or columns is None or given == own:
                continue
            apart = set(given) ^ set(own)
            odd = next((name for name in [*given, *own] if name in apart), given[0])
            raise BadInputError(
                f"{rows.source}: its {what} are the columns {_ends(given)}, and the model takes {_ends(own)}; "
                f"they differ in {odd!r}: give the same columns in the same order"
            )

    def _singles(self, series: np.ndarray, rows: Rows, row: int) -> np.ndarray:
        """(steps, channels) float32; BadInputError where there are other channels, or a number is too large."""
        if series.shape[1] != self.features:
            raise BadInputError(
                f"{rows.source}, row {rows.name(row)}: {counted(series.shape[1], 'channel')}, and the model takes "
                f"{self.features}: {', '.join(self.channels)}; give these"
            )
        exact = series if self.standardization is None else self.standardization.apply(series)
        with np.errstate(over="ignore"):
            singles = exact.astype(np.float32)
        unusable = np.argwhere(~np.isfinite(singles))
        if len(unusable):
            step, channel = map(int, unusable[0])
            raise BadInputError(
                f"{rows.source}, row {rows.name(row)}, step {step + 1}, channel {self.channels[channel]!r}: "
                f"{series[step, channel]!s} is not finite in single precision; correct it, or leave out the row"
            )
        return singles


def _ends(columns: list[str]) -> str:
    """The first and the last of some columns, and how many they are."""
    if len(columns) == 1:
        return repr(columns[0])
    return f"{columns[0]!r} to {columns[-1]!r} ({len(columns)})"
