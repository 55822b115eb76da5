"""Columns of numbers brought to a mean of 0 and a deviation of 1, and back."""

from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from compressm_cli.core.config import Config
from compressm_cli.data.mapped import room_for

Scale = Annotated[float, Field(gt=0.0)]

FAR = 10.0
"""From how many deviations on a mean is far from 0, and by which factor a deviation is far from 1."""


class Standardization(Config):
    """(value - mean) / deviation of each column, in float64; fitted on the training rows alone."""

    mean: list[float]
    deviation: list[Scale]

    @model_validator(mode="after")
    def _of_the_same_columns(self) -> Self:
        if len(self.mean) != len(self.deviation):
            raise ValueError(f"{len(self.mean)} means and {len(self.deviation)} deviations")
        return self

    @classmethod
    def fitted(cls, values: np.ndarray) -> "Standardization":
        """To (rows, columns) float64; of a column with one value alone the deviation counts as 1."""
        deviation = np.where(constant_columns(values), 1.0, _deviation(values))
        return cls(mean=values.mean(axis=0).tolist(), deviation=deviation.tolist())

    @property
    def far(self) -> np.ndarray:
        """(columns,): which are far from a mean of 0 and a deviation of 1 as they stand."""
        mean, deviation = np.abs(np.array(self.mean)), np.array(self.deviation)
        return (mean > FAR * deviation) | (deviation > FAR) | (deviation < 1 / FAR)

    @classmethod
    def over(cls, parts: Iterable[np.ndarray]) -> "Standardization":
        """To all rows of (rows, columns) float64, of which no two need be in memory at once."""
        count, mean, squares, largest = 0, np.zeros(1), np.zeros(1), np.zeros(1)
        for part in parts:
            own, apart = part.mean(axis=0), len(part) * part.var(axis=0)
            whole = count + len(part)
            # Chan, Golub and LeVeque: sums of squares around means, never around zero.
            squares = squares + apart + (own - mean) ** 2 * count * len(part) / whole
            mean = mean + (own - mean) * len(part) / whole
            largest = np.maximum(largest, np.abs(part).max(axis=0))
            count = whole
        deviation = np.sqrt(squares / count)
        constant = ~(deviation > largest * 1e-12)
        return cls(mean=mean.tolist(), deviation=np.where(constant, 1.0, deviation).tolist())

    def apply(self, values: np.ndarray) -> np.ndarray:
        """(..., columns) float64 in their own unit -> of mean 0 and deviation 1."""
        return (values - np.array(self.mean)) / np.array(self.deviation)

    def undo(self, values: np.ndarray) -> np.ndarray:
        """(..., columns) back to their own unit, float64."""
        return values.astype(np.float64) * np.array(self.deviation) + np.array(self.mean)


def constant_columns(values: np.ndarray) -> np.ndarray:
    """(columns,): which of (rows, columns) have one value alone, but for rounding."""
    largest = np.maximum(values.max(axis=0), -values.min(axis=0))
    constant: np.ndarray = ~(_deviation(values) > largest * 1e-12)
    return constant


def _deviation(values: np.ndarray) -> np.ndarray:
    """``values.std(axis=0)``, bit for bit; what is as large as the values is where there is room for it."""
    apart = np.subtract(values, values.mean(axis=0), out=room_for(values.shape, np.float64))
    return np.sqrt(np.multiply(apart, apart, out=apart).sum(axis=0) / len(values))
