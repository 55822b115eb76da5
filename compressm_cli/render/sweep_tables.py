"""Tables of a sweep: what it will cost, and what it has come to."""

from compressm_cli.core.quantities import Unit, quantity
from compressm_cli.render.table import Footnotes, Table
from compressm_cli.reports.estimates import Estimate
from compressm_cli.reports.sweep import PointResult, SweepReport
from compressm_cli.sweeps.forecast import SweepCost

BEST = " *"
"""Behind the name of the best point."""


def cost_table(cost: SweepCost, name: str, at_a_time: int) -> Table:
    """The points of a plan, a row each, and what all trainings take together."""
    notes = Footnotes()
    rows = [
        [
            point.name,
            f"{point.parameters:,}",
            _known(point.flops, "flops", point.flops_reason, notes),
            _known(point.seconds, "seconds", point.seconds_reason, notes),
        ]
        for point in cost.points
    ]
    done = f", {cost.done} of them done" if cost.done else ""
    what = f"{len(rows)} points"
    if cost.search is not None:
        what = f"a search over {', '.join(f'{key}={text}' for key, text in cost.search.items())}, its ends"
    flops = "FLOPs not known" if cost.flops is None else quantity(cost.flops, "flops")
    seconds = "seconds not known" if cost.seconds is None else _in_all(cost.seconds, at_a_time)
    total = f"{cost.trainings - cost.done} trainings to come: {flops} before cuts, {seconds}."
    return Table(
        f"{name}: {what}, seeds {', '.join(map(str, cost.seeds))}: {cost.trainings} trainings{done}",
        ["point", "parameters", "FLOPs of a training", "seconds"],
        rows,
        [total, *notes.lines(), f"FLOPs: {cost.flop_convention}"],
    )


def results_table(report: SweepReport) -> Table:
    """A row a point; the best one is marked."""
    metric = report.primary
    unit: Unit = "number" if metric is None else metric.unit
    title = "metric" if metric is None else metric.title
    rows = [_row(point, unit, point.name == report.best) for point in report.points]
    seeds = max((len(point.trainings) for point in report.points), default=0)
    notes = [*report.notes]
    if report.best is not None:
        notes.insert(0, f"* the best {title} on the validation split: {report.best}")
    if seeds > 1:
        notes.append("Means over the seeds that are done, with their 95 % intervals.")
    return Table(
        f"{report.name}: {report.folder}",
        ["point", "seeds", f"validation {title}", f"test {title}", "FLOPs", "seconds"],
        rows,
        notes,
    )


def failures(report: SweepReport) -> list[str]:
    """A line for each training that failed."""
    return [f"{name}, seed {training.seed}: {training.error}" for name, training in report.failed]


def _row(point: PointResult, unit: Unit, is_best: bool) -> list[str]:
    total = len(point.trainings)
    told = f"{point.done}" if point.done == total else f"{point.done} of {total}"
    words = [
        word for word in ("failed", "pruned") if any(training.status == word for training in point.trainings)
    ]
    return [
        f"{point.name}{BEST if is_best else ''}",
        " ".join([told, *words]),
        _estimate(point.validation, unit),
        _estimate(point.test, unit),
        "" if point.flops is None else quantity(point.flops, "flops"),
        "" if point.seconds is None else quantity(point.seconds, "seconds"),
    ]


def _estimate(estimate: Estimate | None, unit: Unit) -> str:
    return "" if estimate is None else quantity(estimate.value, unit, estimate.margin)


def _known(value: float | None, unit: Unit, reason: str | None, notes: Footnotes) -> str:
    if value is None:
        return notes.mark(reason or "not known")
    return quantity(value, unit)


def _in_all(seconds: float, at_a_time: int) -> str:
    one = f"{quantity(seconds, 'seconds')} one after the other"
    return one if at_a_time == 1 else f"{one}, {at_a_time} at a time"
