"""The arms of a study by name, each family in a file of its own: to add one, add an entry there."""

from collections.abc import Sequence

from compressm_cli.core.errors import BadInputError
from compressm_cli.recipe import Recipe
from compressm_cli.studies.arms import late, scores, shallow, small, taught, whole
from compressm_cli.studies.arms.arm import Arm, LeftOutError, Source, Unit

__all__ = ["ARMS", "SIZE", "Arm", "LeftOutError", "Source", "Unit", "chosen_arms", "obstacles"]

ARMS: dict[str, Arm] = {**whole.ARMS, **small.ARMS, **shallow.ARMS, **scores.ARMS, **late.ARMS, **taught.ARMS}
SIZE = "size-"
"""How the names of arms begin that are fixed sizes."""
ALWAYS = ("method",)


def chosen_arms(names: Sequence[str] | None, sizes: Sequence[int], matched: Sequence[Unit]) -> dict[str, Arm]:
    """The arms of a study, in the order of ``ARMS``; without names all, of those that are matched as is wanted.

    BadInputError for a name that there is not.
    """
    for name in names or ():
        if name not in ARMS:
            raise BadInputError(f"--arms: there is no arm {name!r}; the arms are {', '.join(ARMS)}")
    teachers = {ARMS[name].teacher for name in names or ()}
    found = {
        name: arm
        for name, arm in ARMS.items()
        if name in ALWAYS
        or name in teachers
        or (name in names if names else arm.unit is None or arm.unit in matched)
    }
    return found | {f"{SIZE}{size}": small.sized(size) for size in sizes}


def obstacles(arms: dict[str, Arm], recipe: Recipe) -> dict[str, str]:
    """Of the arms that there cannot be of a recipe, why."""
    return {name: why for name, arm in arms.items() if (why := arm.obstacle(recipe)) is not None}
