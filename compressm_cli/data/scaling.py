"""Whether columns of numbers are standardized, and why; from the training rows alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.steps import Steps

Standardize = Literal["auto"] | bool


@dataclass(frozen=True)
class Scaling:
    """What was decided of some columns."""

    names: Sequence[str]
    standardization: Standardization | None
    """None takes them as they stand."""
    why: str
    constant: Sequence[str]
    """Those with one value alone."""
    coarse: Sequence[str]
    """Those that are far from 0 and 1, and taken as they stand: numbers that differ may become the same."""

    @property
    def told(self) -> str:
        """In words."""
        return f"{'as they stand' if self.standardization is None else 'standardized'} ({self.why})"


def scaling(values: np.ndarray | Steps, names: Sequence[str], asked: Standardize) -> Scaling:
    """What becomes of columns, of which (rows, columns) float64 are the training rows.

    ``auto`` standardizes all of them where one is far from a mean of 0 and a deviation of 1.
    """
    fitted, are_one = Standardization.with_constants(values)
    far = [name for name, is_far in zip(names, fitted.far, strict=True) if is_far]
    constant = [name for name, is_one in zip(names, are_one, strict=True) if is_one]
    if asked == "auto":
        why = _why(fitted, names) if far else "their means and deviations are near 0 and 1"
        return Scaling(names, fitted if far else None, why, constant, [])
    why = f"standardize: {str(asked).lower()}"
    return Scaling(names, fitted if asked else None, why, constant, [] if asked else far)


def _why(fitted: Standardization, names: Sequence[str]) -> str:
    """The first column that is far from 0 and 1."""
    place = int(np.argmax(fitted.far))
    mean, deviation = fitted.mean[place], fitted.deviation[place]
    return f"{names[place]!r} has a mean of {mean:.4g} and a deviation of {deviation:.4g}, far from 0 and 1"
