"""What a sweep will cost, known without training - or null with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from compressm_cli.engine.forecast import Forecast, forecast
from compressm_cli.recipe import Recipe
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.plan import Plan
from compressm_cli.sweeps.space import described

UNTRAINED = "seconds are not known before a training of this sweep is done; compressm bench times a step"


@dataclass(frozen=True)
class PointCost:
    """What one training of a point takes, before a cut makes it cheaper."""

    name: str
    changes: dict[str, str]
    parameters: int
    flops: float | None
    flops_reason: str | None
    seconds: float | None
    seconds_reason: str | None


@dataclass(frozen=True)
class SweepCost:
    """What all trainings take together."""

    points: list[PointCost]
    seeds: list[int]
    trainings: int
    """Of which ``done`` are finished already."""
    done: int
    search: dict[str, str] | None
    """Of a search what it may try: ``points`` are the ends of that, and what all cost together is not known."""
    flops: float | None
    """Of those that are not done; as ``seconds``, null where that of one point is not known."""
    seconds: float | None
    """One after the other."""
    flop_convention: str


def sweep_cost(plan: Plan, jobs: Sequence[Job], trials: int = 0) -> SweepCost:
    """What a plan costs: FLOPs as ``train --dry-run`` counts them; seconds of a budget, or as finished trainings took.

    ``trials`` are those of a search.
    """
    left: dict[str, int] = {recipe.name: 0 for recipe in plan.recipes}
    taken: dict[str, list[float]] = {recipe.name: [] for recipe in plan.recipes}
    for job in jobs:
        if (run := job.finished()) is None:
            left[job.recipe.name] += 1
        else:
            taken[job.recipe.name].append(float(run.read_summary()["seconds"]["total"]))
    points, convention = [], ""
    for point, recipe in zip(plan.points, plan.recipes, strict=True):
        known = forecast(recipe)
        convention = known.flop_convention
        flops, flops_reason = _flops(recipe, known)
        seconds, seconds_reason = _seconds(recipe, taken[point.name])
        points.append(
            PointCost(
                point.name,
                dict(point.changes),
                known.parameters,
                flops,
                flops_reason,
                seconds,
                seconds_reason,
            )
        )
    return SweepCost(
        points,
        plan.seeds,
        trials * len(plan.seeds) if plan.space else len(jobs),
        len(jobs) - sum(left.values()),
        {parameter.key: described(parameter) for parameter in plan.space} or None,
        None if plan.space else _sum([(p.flops, left[p.name]) for p in points]),
        None if plan.space else _sum([(p.seconds, left[p.name]) for p in points]),
        convention,
    )


def _flops(recipe: Recipe, known: Forecast) -> tuple[float | None, str | None]:
    whole = float(known.training_step_flops * recipe.train.steps)
    if recipe.budget is None:
        return whole, None
    limit = known.course.limit
    if recipe.budget.unit != "flops" or limit is None:
        return None, f"a budget of {recipe.budget.unit} decides how many steps there are"
    return float(limit) if recipe.budget.reinvest else min(float(limit), whole), None


def _seconds(recipe: Recipe, taken: Sequence[float]) -> tuple[float | None, str | None]:
    if taken:
        return fmean(taken), None
    budget = recipe.budget
    if budget is not None and budget.unit == "seconds" and not isinstance(budget.amount, str):
        return float(budget.amount), None
    return None, UNTRAINED


def _sum(amounts: Sequence[tuple[float | None, int]]) -> float | None:
    """Of amounts times numbers; None where one that counts is not known."""
    total = 0.0
    for amount, count in amounts:
        if count and amount is None:
            return None
        total += count * (amount or 0.0)
    return total
