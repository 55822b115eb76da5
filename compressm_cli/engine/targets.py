"""How a model does on each of the real numbers that it says: by its name, and in its own unit."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compressm_cli.data.encodings import Encoding, Numbers
from compressm_cli.objectives.objective import TargetScores


@dataclass(frozen=True)
class TargetReport:
    """How a model does on one of several numbers, in its own unit."""

    name: str
    """Its column; of a forecast with the step that it is of: ``load+1``."""
    mse: float | None
    """None where no label of it is scored, as the mean absolute error."""
    mae: float | None
    r2: float | None
    """None where all labels are the same."""


def in_own_unit(
    targets: Sequence[TargetScores] | None, encoding: Encoding | None
) -> list[TargetReport] | None:
    """Those of the labels that an encoding has made, which may be standardized; None where there are none.

    Without an encoding labels are in their own unit, and are called by their places from 1.
    """
    if targets is None:
        return None
    names, scales = [str(place) for place in range(1, len(targets) + 1)], [1.0] * len(targets)
    if encoding is not None and isinstance(encoding.outputs, Numbers):
        names = list(encoding.outputs.names)
        if encoding.outputs.standardization is not None:
            scales = list(encoding.outputs.standardization.deviation)
    return [
        TargetReport(name, _times(target.mse, scale * scale), _times(target.mae, scale), target.r2)
        for name, target, scale in zip(names, targets, scales, strict=True)
    ]


def _times(error: float | None, scale: float) -> float | None:
    """None also where no number is so large."""
    return None if error is None or not math.isfinite(error * scale) else error * scale
