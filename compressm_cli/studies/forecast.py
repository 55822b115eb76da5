"""What a study will train, as far as it is known before the method has run."""

from dataclasses import dataclass

from compressm_cli.studies import rates
from compressm_cli.studies.arms import Source
from compressm_cli.studies.costs import counter
from compressm_cli.studies.plan import Plan


@dataclass(frozen=True)
class ArmForecast:
    """An arm before anything was trained."""

    name: str
    about: str
    runs: int
    """At least; more where its grid is extended."""
    flops: float | None
    """Of one run, of the method's at most; None where it depends on the method's, which is not known yet."""
    cost: str
    """Beside the method's: ``less``, ``equal``, ``more``."""


@dataclass(frozen=True)
class StudyForecast:
    """A study before anything was trained."""

    arms: list[ArmForecast]
    seeds: list[int]
    rate: float
    """The recipe's learning rate, the middle of each grid."""
    runs: int
    most_runs: int


def forecast(plan: Plan) -> StudyForecast:
    """BadInputError where the recipe's data or model cannot be had."""
    recipe = plan.resolved()
    count, runs = counter(recipe), plan.grid * len(recipe.seeds)
    dense = Source(recipe, count).full()
    whole = float(count(dense) * dense.train.steps)
    arms = [
        ArmForecast(
            name,
            arm.about,
            runs,
            whole if name == "dense" or (name == "method" and recipe.budget is None) else None,
            arm.cost,
        )
        for name, arm in plan.made().items()
    ]
    extended = 0 if plan.grid == 1 else rates.MOST_EXTENSIONS
    most = (plan.grid + extended) * len(recipe.seeds) * len(arms)
    return StudyForecast(arms, recipe.seeds, recipe.train.learning_rate, runs * len(arms), most)
