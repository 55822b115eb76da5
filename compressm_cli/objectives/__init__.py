"""What is learned and judged, by the name that a recipe gives it."""

from typing import Any

from compressm_cli.core.registry import Registry
from compressm_cli.data.interface import DataSpec
from compressm_cli.objectives.classification import ACCURACY, Classification
from compressm_cli.objectives.language import Language
from compressm_cli.objectives.objective import Metric, Objective, ObjectiveConfig, Scores
from compressm_cli.objectives.regression import Forecasting, Regression

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "kind",
    Objective,
    ObjectiveConfig,
    {
        "classification": Classification,
        "language": Language,
        "regression": Regression,
        "forecasting": Forecasting,
    },
)


def objective_config(recipe: Any) -> ObjectiveConfig:
    """A recipe's ``objective:``, or its task's own."""
    if recipe.objective is not None:
        return recipe.objective
    own: Any = OBJECTIVES[recipe.data.default_objective()].Config
    return own()


def objective_type(recipe: Any) -> type[Objective]:
    """The class of a recipe's objective."""
    return OBJECTIVES[objective_config(recipe).kind]


def objective_of(recipe: Any, spec: DataSpec) -> Objective:
    """The objective of a recipe for its data; BadInputError where the labels cannot be learned so."""
    return objective_type(recipe)(objective_config(recipe), spec, recipe.data)


def primary_of(recipe: Any) -> Metric:
    """The metric that a recipe's models are judged by."""
    return objective_type(recipe).primary_of(objective_config(recipe))


def recorded_primary(summary: dict[str, Any]) -> Metric:
    """The metric that a run was judged by, as its summary.json tells; older versions knew the accuracy alone."""
    known = summary.get("primary")
    return ACCURACY if known is None else Metric(**known)


__all__ = [
    "ACCURACY",
    "OBJECTIVES",
    "Metric",
    "Objective",
    "ObjectiveConfig",
    "Scores",
    "objective_config",
    "objective_of",
    "objective_type",
    "primary_of",
    "recorded_primary",
]
