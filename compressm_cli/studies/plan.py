"""``study.json``: what a study is of, so that it can be gone on with."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import write_atomically
from compressm_cli.engine.teaching import placed
from compressm_cli.methods.none import NoCompressionConfig
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_mapping
from compressm_cli.recipe.loading import config_from_mapping
from compressm_cli.studies.arms import ARMS, Arm, Unit, chosen_arms, obstacles
from compressm_cli.studies.arms.small import sizes_up_to

FILE = "study.json"
LARGEST_GRID = 9
LARGEST_SIZE = 65_536
"""As in a recipe."""


class Plan(Config):
    """What is asked for, all of it written out."""

    format: Literal[1] = 1
    command: str
    recipe: dict[str, Any]
    """Resolved, with the paths of its data absolute; its ``seeds`` are those of the study."""
    arms: Annotated[list[str], Field(min_length=1)]
    sizes: list[Annotated[int, Field(ge=1, le=LARGEST_SIZE)]]
    grid: Annotated[int, Field(ge=1, le=LARGEST_GRID)]
    left_out: dict[str, str] = {}
    """Arms that there cannot be of the recipe, and why."""

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        arms: Sequence[str] | None,
        sizes: Sequence[int] | None,
        grid: int,
        matched: Sequence[Unit],
        command: str,
    ) -> "Plan":
        """Without ``arms`` all that are matched as is wanted, without ``sizes`` the powers of two (with ``arms`` none).

        BadInputError where the recipe has no compression, or an arm that is named there cannot be.
        """
        if isinstance(recipe.compression, NoCompressionConfig):
            raise BadInputError(
                f"{recipe.name}: has no compression, so that there is nothing to compare; give a recipe with it, such "
                "as study/mnist1d_compressed"
            )
        dims = recipe.model.state_dims()
        found = sizes if sizes is not None else [] if arms is not None else sizes_up_to(dims)
        # The recipe's own size at equal FLOPs is an arm already.
        own = [size for size in found if set(dims) == {size}]
        known = chosen_arms(
            [*arms, *(["dense-stopped"] if own else [])] if arms is not None else None, [], matched
        )
        left_out = obstacles(known, recipe)
        if wrong := [name for name in arms or () if name in left_out]:
            raise BadInputError(f"--arms {wrong[0]}: {left_out[wrong[0]]}")
        return cls(
            command=command,
            recipe=recipe_to_mapping(placed(recipe)),
            arms=[name for name in known if name not in left_out],
            sizes=sorted({size for size in found if size not in own}),
            grid=grid,
            left_out=left_out,
        )

    @classmethod
    def read(cls, folder: Path) -> "Plan":
        """BadInputError where there is none, or it is damaged."""
        path = folder / FILE
        try:
            mapping = json.loads(path.read_bytes().decode("utf-8"))
        except OSError as error:
            raise BadInputError(
                f"{path}: cannot be read: {error.strerror}; give the folder of a study"
            ) from error
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{path}: is damaged: {error}") from error
        if not isinstance(mapping, dict):
            raise BadInputError(f"{path}: is damaged: it is no mapping")
        plan = config_from_mapping(cls, mapping, str(path))
        for key, names in (("arms", plan.arms), ("left_out", plan.left_out)):
            if unknown := [name for name in names if name not in ARMS]:
                raise BadInputError(f"{path}: {key}: there is no arm {unknown[0]!r}")
        if isinstance(plan.resolved().compression, NoCompressionConfig):
            raise BadInputError(f"{path}: recipe: has no compression, so that there is nothing to compare")
        return plan

    def write(self, folder: Path) -> None:
        write_atomically(folder / FILE, (self.model_dump_json(indent=1) + "\n").encode())

    def resolved(self) -> Recipe:
        """The method's recipe, with all seeds."""
        return recipe_from_mapping(self.recipe, FILE)

    def made(self) -> dict[str, Arm]:
        """The arms, those of fixed sizes among them."""
        return chosen_arms(self.arms, self.sizes, ())

    def differences(self, other: "Plan") -> list[str]:
        """What another plan would have trained otherwise."""
        one, two = (plan.model_dump(mode="json", exclude={"command", "format"}) for plan in (self, other))
        return [key for key in one if one[key] != two[key]]
