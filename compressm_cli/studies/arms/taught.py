"""Arms of the final size that learn from the full one, which is trained before."""

from compressm_cli.objectives import objective_config
from compressm_cli.objectives.teacher import TaughtConfig
from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms.arm import Arm, Source, derived

TEACHER = "dense"


def _obstacle(recipe: Recipe) -> str | None:
    config = objective_config(recipe)
    if not isinstance(config, TaughtConfig):
        return f"an objective of kind {config.kind} takes no teacher"
    return None if config.teacher is None else "the recipe has a teacher of its own"


def _distilled(source: Source) -> Recipe:
    small = source.small(source.method.final, steps=source.method.steps)
    settings = objective_config(small).model_dump(mode="json")
    return derived(small, objective=settings | {"teacher": {"model": str(source.teacher.folder)}})


ARMS = {
    "distilled": Arm(
        f"final size from scratch, equal steps, taught by {TEACHER}, whose training counts",
        _distilled,
        "more",
        teacher=TEACHER,
        obstacle=_obstacle,
    )
}
