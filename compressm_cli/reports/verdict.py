"""What a comparison comes to: tolerances kept or broken, and in words what was won and lost."""

from dataclasses import dataclass, field

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import quantity
from compressm_cli.objectives import Metric
from compressm_cli.reports import formats
from compressm_cli.reports.agreement import Agreement
from compressm_cli.reports.estimates import Estimate
from compressm_cli.reports.inference import SpeedReport
from compressm_cli.reports.metrics import (
    INFERENCE_MEMORY,
    METRICS,
    SPEED_METRICS,
    known_scores,
    limited_scores,
)
from compressm_cli.reports.rows import Change, Row
from compressm_cli.reports.texts import TITLES

NOISE = 0.05
"""Relative differences of measurements without an interval up to this are called no clear change."""

SPEED_TITLES = ("inference time of one sequence", "inference time of a batch")


@dataclass(frozen=True)
class ToleranceResult:
    """One stated tolerance for one arm."""

    arm: str
    allowed: str
    found: str
    holds: bool
    """Also false where the quantity was not measured, or on other data: then nothing shows that it holds."""


@dataclass(frozen=True)
class Tolerances:
    """What a comparison must show to end with exit code 0; means count, not the ends of intervals."""

    points: float | None = None
    """How many points the test accuracy, or what else is primary, may fall (1.0 is from 95 % to 94 %)."""
    at_most: dict[str, float] = field(default_factory=dict)
    """Metric -> largest ratio to the baseline."""

    @staticmethod
    def metrics() -> list[str]:
        """The names that ``at_most`` may have."""
        costs = (m.key for m in (*METRICS, INFERENCE_MEMORY))
        return ["test_loss", *costs, *SPEED_METRICS, *TITLES, *limited_scores()]

    def check(self) -> None:
        """BadInputError where a metric is unknown or a number makes no sense."""
        for name, ratio in self.at_most.items():
            if name not in self.metrics():
                metric = known_scores().get(name)
                hint = f"; for {metric.title} use --tolerance-points" if metric is not None else ""
                raise BadInputError(
                    f"--at-most {name}: unknown metric; one of {', '.join(self.metrics())}{hint}"
                )
            if not 0 < ratio < float("inf"):
                raise BadInputError(
                    f"--at-most {name}={ratio:g}: the ratio must be a positive number, such as 0.5"
                )
        if self.points is not None and not 0 <= self.points <= 100:
            raise BadInputError(f"--tolerance-points {self.points:g}: must lie between 0 and 100")

    def require_rows(self, rows: list[Row]) -> None:
        """BadInputError for a limit of what this comparison does not have."""
        known = [row.key for row in rows]
        for name in self.at_most:
            if name not in (*known, *SPEED_METRICS):
                where = "where a text is given, --data FILE" if name in TITLES else "of other models"
                raise BadInputError(
                    f"--at-most {name}: is known only {where}; here there are {', '.join((*known, *SPEED_METRICS))}"
                )

    def require_points(self, primary: Metric, key: str) -> None:
        """BadInputError where points are asked for of a metric that has none; ``key`` is that of its row."""
        if self.points is not None and primary.unit != "share":
            raise BadInputError(
                f"--tolerance-points: the models are judged by {primary.title}, which has no points; write "
                f"--at-most {key}=1.02, or another ratio"
            )

    def results(self, labels: list[str], rows: list[Row], speed: SpeedReport | None) -> list[ToleranceResult]:
        """Every tolerance for every arm but the baseline."""
        by_key = {row.key: row for row in rows}
        primary = rows[0]
        found = []
        for i, label in enumerate(labels[1:], 1):
            if self.points is not None:
                found.append(_points_result(label, self.points, primary, i))
            for name, most in self.at_most.items():
                row = by_key.get(name)
                ratio = _ratio(row.changes[i]) if row is not None else _speed_ratio(name, speed, i)
                allowed = f"{name} at most {most:g}x the baseline's"
                known = f"{ratio:.3g}x" if ratio is not None else "not known"
                if row is not None and row.apart[i]:
                    known = "not comparable"
                found.append(ToleranceResult(label, allowed, known, ratio is not None and ratio <= most))
        return found


def sentences(
    labels: list[str],
    titles: str,
    rows: list[Row],
    speed: SpeedReport | None,
    agreement: list[Agreement | None],
    tolerances: list[ToleranceResult],
) -> list[str]:
    """On each arm: the primary metric, then what was won, lost, unchanged and unknown; at last the tolerances."""
    lines = []
    for i, label in enumerate(labels[1:], 1):
        lines.append(f"{label} against {labels[0]}: {_judgement(rows[0], titles, i)}.")
        lines += _balance(rows, speed, i)
        found = agreement[i]
        if found is not None and found.share is not None:
            share = quantity(found.share.value, "share", found.share.margin)
            lines.append(f"Same prediction on {share} of the test rows.")
    for t in tolerances:
        lines.append(f"Tolerance {'kept' if t.holds else 'BROKEN'}: {t.arm}: {t.allowed}; found {t.found}.")
    return lines


def _judgement(row: Row, titles: str, arm: int) -> str:
    """Of the primary metric, ``titles`` in the plural, on the test split."""
    change, ours, theirs = row.changes[arm], row.values[arm].mean, row.values[0].mean
    if row.apart[arm]:
        return f"{titles} not comparable: {row.apart[arm]}"
    if change is None or change.difference is None or ours is None or theirs is None:
        return f"{row.title} not known ({row.values[arm].reason or row.values[0].reason})"
    found = change.difference
    changed = formats.points if row.unit == "share" else formats.difference
    numbers = (
        f"{row.title} {quantity(ours.value, row.unit)} "
        f"against {quantity(theirs.value, row.unit)}, "
        f"{changed(found.value, found.low, found.high)}, {change.basis}"
    )
    if found.low is None or found.high is None:
        return numbers
    if found.low <= 0 <= found.high:
        return f"{numbers}; the interval includes no change"
    better = (found.value > 0) == row.higher_is_better
    return f"{numbers}; {'better' if better else 'worse'} beyond the spread of the seeds"


def _balance(rows: list[Row], speed: SpeedReport | None, arm: int) -> list[str]:
    """Lines ``Won: ...``, ``Lost: ...``, ``No clear change: ...``, ``Not known: ...``, and what decided.

    What was measured is judged by its interval over the seeds, and for want of one by NOISE.
    """
    parts: dict[str, list[str]] = {"Won": [], "Lost": [], "No clear change": [], "Not known": []}
    without: list[str] = []
    for row in rows:
        if not row.score and not row.apart[arm]:
            doubtful = row.values[0].note or row.values[arm].note
            change = None if doubtful else row.changes[arm]
            if row.measured and change is not None and change.is_clear is None and change.ratio is not None:
                without.append(row.title)
            parts[_judged_row(row, change)].append(_named_change(row.title, change))
    for name, title in zip(SPEED_METRICS, SPEED_TITLES, strict=True):
        if (found := _speed_estimate(name, speed, arm)) is not None:
            clear = found.low is None or found.high is None or not found.low <= 1 <= found.high
            parts[_judged(found.value, 0.0) if clear else "No clear change"].append(
                _named(title, found.value)
            )
    lines = [f"{name}: {'; '.join(items)}." for name, items in parts.items() if items]
    if without:
        lines.append(
            f"Without an interval, so that up to {100 * NOISE:g} % is no clear change: {', '.join(without)}."
        )
    return lines


def _judged_row(row: Row, change: Change | None) -> str:
    if change is not None and change.is_clear is not None and row.measured:
        return _judged(change.ratio, 0.0) if change.is_clear else "No clear change"
    return _judged(_ratio(change), NOISE if row.measured else 0.0)


def _judged(ratio: float | None, noise: float) -> str:
    if ratio is None:
        return "Not known"
    if abs(ratio - 1) <= noise:
        return "No clear change"
    return "Won" if ratio < 1 else "Lost"


def _named_change(title: str, change: Change | None) -> str:
    text = _named(title, _ratio(change))
    if change is None or change.ratio_low is None or change.ratio_high is None:
        return text
    return f"{text} ({formats.interval(change.ratio_low, change.ratio_high)})"


def _named(title: str, ratio: float | None) -> str:
    return title if ratio is None else f"{title} {formats.times(ratio)}"


def _ratio(change: Change | None) -> float | None:
    return None if change is None else change.ratio


def _speed_estimate(name: str, speed: SpeedReport | None, arm: int) -> Estimate | None:
    index = SPEED_METRICS.index(name)
    return None if speed is None or index >= len(speed.batches) else speed.batches[index].ratios[arm]


def _speed_ratio(name: str, speed: SpeedReport | None, arm: int) -> float | None:
    estimate = _speed_estimate(name, speed, arm)
    return None if estimate is None else estimate.value


def _points_result(arm: str, allowed: float, row: Row, index: int) -> ToleranceResult:
    change = row.changes[index]
    text = f"{row.title} may fall by at most {allowed:g} {'point' if allowed == 1 else 'points'}"
    if change is None or change.difference is None:
        return ToleranceResult(arm, text, "not comparable" if row.apart[index] else "not known", False)
    value = change.difference.value
    # Accuracies are counts over rows: a fall of exactly the tolerance is kept, whatever the rounding.
    return ToleranceResult(arm, text, formats.points(value), -100 * value <= allowed + 1e-9)
