"""What is learned and judged, by the name that a recipe gives it."""

from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import Registry
from compressm_cli.data.interface import DataSpec
from compressm_cli.objectives.classification import ACCURACY, UNLABELLED, Classification
from compressm_cli.objectives.language import Language
from compressm_cli.objectives.masked_language import MaskedLanguage
from compressm_cli.objectives.objective import Metric, Objective, ObjectiveConfig, Scores
from compressm_cli.objectives.regression import Forecasting, Regression
from compressm_cli.objectives.translation import Translation

OBJECTIVES: Registry[Objective] = Registry(
    "objective",
    "kind",
    Objective,
    ObjectiveConfig,
    {
        "classification": Classification,
        "language": Language,
        "masked_language": MaskedLanguage,
        "regression": Regression,
        "forecasting": Forecasting,
        "translation": Translation,
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
    """The objective of a recipe for its data; BadInputError where the labels cannot be learned so, by its model."""
    objective = objective_type(recipe)(objective_config(recipe), spec, recipe.data)
    if problem := unfit_model(recipe, spec):
        raise BadInputError(f"model.kind: {problem}")
    return objective


def unfit_model(recipe: Any, spec: DataSpec | None) -> str | None:
    """Why a recipe's model would see what it is to say, or not see what it says it by; None where it is right.

    ``spec`` is None where it is not known yet.
    """
    both, hidden = recipe.model.looks_ahead, objective_type(recipe).hides_tokens
    kind = recipe.model.kind
    of_tokens = spec is not None and spec.per_step and spec.vocabulary is not None
    if both and not hidden and spec is not None and of_tokens and spec.vocabulary == spec.classes:
        return (
            f"{kind} looks at all steps, also at the tokens that this task wants predicted; write kind: decoder, or "
            "hide them with objective: {kind: masked_language}"
        )
    if hidden and not both:
        return (
            f"{kind} looks at no step after the one that it is at, and hidden tokens are told by those on both sides; "
            "write kind: encoder, or objective: {kind: language}"
        )
    return None


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
    "UNLABELLED",
    "Metric",
    "Objective",
    "ObjectiveConfig",
    "Scores",
    "objective_config",
    "objective_of",
    "objective_type",
    "primary_of",
    "recorded_primary",
    "unfit_model",
]
