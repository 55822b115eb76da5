"""Columns of numbers brought to a mean of 0 and a deviation of 1, and back."""

from collections.abc import Iterable
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from compressm_cli.core.config import Config
from compressm_cli.data.steps import Steps, largest_of, sums_of

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
    def fitted(cls, values: np.ndarray | Steps) -> "Standardization":
        """To (rows, columns) float64; of a column with one value alone the deviation counts as 1."""
        return cls.with_constants(values)[0]

    @classmethod
    def with_constants(cls, values: np.ndarray | Steps) -> "tuple[Standardization, np.ndarray]":
        """The same, and (columns,): which have one value alone, but for rounding."""
        mean = sums_of(values) / len(values)
        deviation = np.sqrt(sums_of(values, lambda part: _squares(part, mean)) / len(values))
        constant: np.ndarray = ~(deviation > largest_of(values) * 1e-12)
        scales = cls(mean=mean.tolist(), deviation=np.where(constant, 1.0, deviation).tolist())
        return scales, constant

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


def _squares(values: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Of what values are apart from their means, row by row in memory."""
    apart = np.subtract(values, mean, order="C")
    return np.multiply(apart, apart, out=apart)
