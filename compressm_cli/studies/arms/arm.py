"""What an arm of a study is: a recipe made from that of the method, and from what the method's run was."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from compressm_cli.core.errors import BadInputError
from compressm_cli.recipe import Recipe, recipe_from_mapping, recipe_to_mapping
from compressm_cli.runs.folder import Run
from compressm_cli.studies.costs import Count
from compressm_cli.studies.reference import Reference

Cost = Literal["less", "equal", "more"]
Unit = Literal["flops", "seconds"]
NONE = {"method": "none"}


class LeftOutError(BadInputError):
    """An arm cannot be made of this recipe, or of what the method did."""


@dataclass(frozen=True)
class Source:
    """What an arm's recipe is made from, with one seed."""

    recipe: Recipe
    """Of the method."""
    count: Count
    reference: Reference | None = None
    """The method's run with the same seed at its chosen rate; None for an arm that needs none."""

    taught_by: Run | None = None
    """The run of the arm's teacher with the same seed at its chosen rate; None for an arm that has none."""

    @property
    def teacher(self) -> Run:
        if self.taught_by is None:
            raise LeftOutError("its teacher failed at each learning rate with some seed")
        return self.taught_by

    @property
    def method(self) -> Reference:
        if self.reference is None:
            raise ValueError("this arm is made before the method has run")
        return self.reference

    def full(self, **train: Any) -> Recipe:
        """The recipe without compression and budget."""
        return derived(self.recipe, compression=NONE, budget=None, train=train)

    def small(self, orders: Sequence[int], **train: Any) -> Recipe:
        """The same of a model that has other orders from the start on."""
        if self.method.others:
            raise LeftOutError(
                f"the method changed more than states ({', '.join(self.method.others)}), and no recipe has a model of "
                "the final size"
            )
        try:
            model = self.recipe.model.with_state_dims(list(orders))
        except ValueError as error:
            raise LeftOutError(str(error)) from error
        return derived(self.full(**train).model_copy(update={"model": model}))

    def matched(self, recipe: Recipe) -> Recipe:
        """The same for the FLOPs that the method's run took; its schedule ends with them."""
        return spending(recipe, flops=float(self.method.flops))


@dataclass(frozen=True)
class Arm:
    """One side of the comparison. ``make`` raises LeftOutError where it cannot be made."""

    about: str
    """In a few words, for tables."""
    make: Callable[[Source], Recipe]
    cost: Cost = "equal"
    """Of its training, beside the method's: an arm that costs no more can refute that the method is better."""
    unit: Unit | None = None
    """In what its cost is matched; None where it has a number of steps."""
    teacher: str | None = None
    """The arm that it learns from, one of the first, whose cost is part of its own."""
    is_first: bool = False
    """Whether it needs nothing of the method's run."""
    obstacle: Callable[[Recipe], str | None] = lambda _: None
    """Why there is no such arm of a recipe."""


def derived(recipe: Recipe, train: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    """The same recipe with other parts, validated."""
    mapping = recipe_to_mapping(recipe) | parts
    mapping["train"] = mapping["train"] | (train or {})
    return recipe_from_mapping(mapping, recipe.name)


def spending(recipe: Recipe, **budget: float) -> Recipe:
    """The same with a budget, all of which is spent."""
    return derived(recipe, budget={**budget, "reinvest": True})
