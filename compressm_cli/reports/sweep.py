"""What a sweep has come to: a row a point, over its seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressm_cli.objectives import Metric, primary_of
from compressm_cli.reports.arms import Member, read_arms
from compressm_cli.reports.estimates import Estimate, mean
from compressm_cli.sweeps.board import Outcome, Status


@dataclass(frozen=True)
class Training:
    """One point with one seed; null where it has not come to an end."""

    seed: int
    status: Status
    run: str | None
    validation: float | None
    test: float | None
    flops: float | None
    seconds: float | None
    error: str | None


@dataclass(frozen=True)
class PointResult:
    """Means over the seeds whose trainings are done; null where there is none."""

    name: str
    changes: dict[str, str]
    validation: Estimate | None
    test: Estimate | None
    flops: float | None
    seconds: float | None
    trainings: list[Training]

    @property
    def done(self) -> int:
        """Trainings that came to their end."""
        return sum(training.status == "done" for training in self.trainings)


@dataclass(frozen=True)
class SweepReport:
    """All points of a sweep, in the order of its plan."""

    name: str
    folder: str
    metric: dict[str, Any] | None
    """By which the points are judged; null where they do not all have the same."""
    best: str | None
    """The point with the best mean on the validation split, of those whose trainings are all done."""
    points: list[PointResult]
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> list[tuple[str, Training]]:
        """The trainings that failed, each with the name of its point."""
        return [(p.name, t) for p in self.points for t in p.trainings if t.status == "failed"]

    @property
    def primary(self) -> Metric | None:
        """The metric itself."""
        return None if self.metric is None else Metric(**self.metric)


def sweep_report(
    name: str, folder: Path, outcomes: Sequence[Outcome], changes: Mapping[str, dict[str, str]]
) -> SweepReport:
    """Read the finished runs; ``changes`` are the settings of each point, by its name.

    Raises BadInputError where the record of a run is damaged.
    """
    by_point: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_point.setdefault(outcome.job.recipe.name, []).append(outcome)
    metrics = [primary_of(outcome.job.recipe) for outcome in outcomes]
    same = {(metric.name, metric.higher_is_better, metric.unit) for metric in metrics}
    metric = metrics[0] if len(same) == 1 else None
    points, busy = [], []
    for point, those in by_point.items():
        members = [None if outcome.status != "done" else _member(outcome) for outcome in those]
        busy += [o.job.name for o, m in zip(those, members, strict=True) if m and m.hindrance is not None]
        points.append(_point(point, changes.get(point, {}), those, members))
    notes = []
    if metric is None:
        notes.append("The points are judged by different metrics: none of them is the best.")
    if busy:
        notes.append(
            f"The machine was busy with other work in {len(busy)} of the trainings: mind the seconds."
        )
    record = None if metric is None else metric.record()
    return SweepReport(name, str(folder), record, _best(points, metric), points, notes)


def _member(outcome: Outcome) -> Member:
    assert outcome.run is not None
    (arm,) = read_arms([outcome.run.folder])
    return arm.members[0]


def _point(
    name: str, changes: dict[str, str], outcomes: Sequence[Outcome], members: Sequence[Member | None]
) -> PointResult:
    trainings = [_training(outcome, member) for outcome, member in zip(outcomes, members, strict=True)]
    return PointResult(
        name,
        changes,
        _mean([t.validation for t in trainings]),
        _mean([t.test for t in trainings]),
        _value([t.flops for t in trainings]),
        _value([t.seconds for t in trainings]),
        trainings,
    )


def _training(outcome: Outcome, member: Member | None) -> Training:
    run = None if outcome.run is None else str(outcome.run.folder)
    validation = test = flops = seconds = None
    if member is not None:
        metric = primary_of(member.recipe).name
        validation, test = member.number(f"validation.{metric}"), member.number(f"test.{metric}")
        flops, seconds = member.number("flops.training"), member.number("seconds.total")
    return Training(outcome.job.seed, outcome.status, run, validation, test, flops, seconds, outcome.error)


def _mean(values: Sequence[float | None]) -> Estimate | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def _value(values: Sequence[float | None]) -> float | None:
    found = _mean(values)
    return None if found is None else found.value


def _best(points: Sequence[PointResult], metric: Metric | None) -> str | None:
    if metric is None:
        return None
    best: PointResult | None = None
    for point in points:
        if point.validation is None or point.done < len(point.trainings):
            continue
        known = None if best is None or best.validation is None else best.validation.value
        if metric.is_better(point.validation.value, known):
            best = point
    return None if best is None else best.name
