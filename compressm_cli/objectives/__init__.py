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
    own: Any = OBJECTIVES[recipe.data.own_objective].Config
    return own()


def objective_of(recipe: Any, spec: DataSpec) -> Objective:
    """The objective of a recipe for its data; BadInputError where the labels cannot be learned so."""
    config = objective_config(recipe)
    return OBJECTIVES[config.kind](config, spec, recipe.data)


def primary_of(recipe: Any) -> Metric:
    """The metric that a recipe's models are judged by."""
    config = objective_config(recipe)
    return OBJECTIVES[config.kind].primary_of(config)


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
    "primary_of",
    "recorded_primary",
]
