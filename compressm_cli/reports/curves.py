"""How runs went, from their logs: values over what was spent until then, and their mean over seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import described
from compressm_cli.core.validation import is_number

Spent = Literal["step", "flops", "seconds"]
"""What a line of metrics.jsonl tells of how far a run was: its steps, FLOPs of training, seconds."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Curve:
    """Values over what was spent, of one run."""

    x: list[float]
    y: list[float]


@dataclass(frozen=True)
class MeanCurve:
    """The mean of the curves of several seeds, as far as all of them go, and the least and the greatest of them."""

    x: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]
    count: int


def curve(lines: Sequence[Line], key: str, over: Spent = "step", after_cuts: bool = False) -> Curve:
    """The values of the lines that have one; those right after a cut only with ``after_cuts``.

    BadInputError where a value is no number, or a line does not tell how much was spent.
    """
    known = [line for line in lines if line.get(key) is not None]
    known = [line for line in known if after_cuts or not line.get("after_cut")]
    for line in known:
        _require_number(line, key)
        _require_told(line, over)
    return Curve([line[over] for line in known], [line[key] for line in known])


def spent_at(lines: Sequence[Line], steps: Sequence[int], over: Spent) -> list[float]:
    """What was spent until these steps; between evaluations in proportion to the steps. BadInputError as ``curve``."""
    if not steps or over == "step":
        return [float(step) for step in steps]
    known = [line for line in lines if line.get("validation_loss") is not None]
    for line in known:
        _require_told(line, over)
    at, spent = [0, *(line["step"] for line in known)], [0.0, *(line[over] for line in known)]
    return [float(value) for value in np.interp(steps, at, spent)]


def mean_curve(curves: Sequence[Curve]) -> MeanCurve | None:
    """Of at least one; between its points a curve is straight. None where they have nothing in common."""
    if not all(curve.x for curve in curves) or not curves:
        return None
    first, last = max(curve.x[0] for curve in curves), min(curve.x[-1] for curve in curves)
    x = sorted({value for curve in curves for value in curve.x if first <= value <= last})
    if not x:
        return None
    values = np.array([np.interp(x, curve.x, curve.y) for curve in curves])
    ends = (values.min(axis=0), values.max(axis=0))
    return MeanCurve(x, values.mean(axis=0).tolist(), ends[0].tolist(), ends[1].tolist(), len(curves))


def best_at_least_cost(points: Sequence[tuple[float, float]], higher_is_better: bool) -> list[int]:
    """Which points (cost, value) no other one beats: none is as good or better at the same cost or less.

    Their indices, by ascending cost.
    """
    sign = -1.0 if higher_is_better else 1.0
    order = sorted(range(len(points)), key=lambda i: (points[i][0], sign * points[i][1]))
    chosen: list[int] = []
    for i in order:
        if not chosen or sign * points[i][1] < sign * points[chosen[-1]][1]:
            chosen.append(i)
    return chosen


def _require_told(line: Line, over: Spent) -> None:
    if over not in line:
        raise BadInputError(
            "its evaluations do not tell what was spent until then, since an earlier version trained it"
        )
    _require_number(line, over)


def _require_number(line: Line, key: str) -> None:
    if not is_number(line[key]):
        raise BadInputError(
            f"metrics.jsonl: {key} of step {line['step']} must be a number or null, found {described(line[key])}; "
            "the run's record is damaged"
        )
