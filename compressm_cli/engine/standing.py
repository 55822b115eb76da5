"""Where a run that has been trained stands on the course of a recipe, from its checkpoint or its summary."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.course import Course, Spent
from compressm_cli.recipe import Recipe


@dataclass(frozen=True)
class Standing:
    """Where a run that has been trained stands on the course of a recipe, perhaps another one than it had."""

    course: Course
    step: int
    spent: Spent
    per_step: Spent
    """What a step takes as the model is; 0 where that is not known."""

    @classmethod
    def of(cls, recipe: Recipe, step: int, training: Mapping[str, Any]) -> "Standing":
        """At a step, of the ``training`` in a checkpoint.

        BadInputError where the recipe's budget is none that this run could still take.
        """
        flops, budget = training["flops"], recipe.budget
        if budget is None or budget.unit == "flops":
            course = Course.of(recipe, training["start"].get("step"))
            return cls(course, step, flops["total"] or 0, flops["per_step"] or 0)
        saved = training.get("budget")
        if saved is not None and saved["unit"] == budget.unit:
            return cls(Course.of(recipe, saved["uncut"]), step, saved["spent"], 0)
        spent = training["clock"]["total"] if budget.unit == "seconds" else _joules(training["joules"])
        return cls(_course_of_begun(recipe), step, spent, 0)

    @classmethod
    def at_end(cls, recipe: Recipe, step: int, summary: Mapping[str, Any]) -> "Standing":
        """Of a run that is done."""
        budget, flops, saved = recipe.budget, summary["flops"], summary.get("budget")
        if budget is None or budget.unit == "flops":
            course = Course.of(recipe, flops["training_start_per_step"])
            return cls(course, step, flops["training"], flops["training_final_per_step"])
        if saved is not None and saved["unit"] == budget.unit:
            return cls(Course.of(recipe, saved["uncut_per_step"]), step, saved["spent"], 0)
        spent = summary["seconds"]["total"] if budget.unit == "seconds" else _joules([summary["joules"]])
        return cls(_course_of_begun(recipe), step, spent, 0)

    @property
    def is_over(self) -> bool:
        """Whether no step is left, or no budget."""
        return self.course.is_over(self.step, self.spent)

    @property
    def expected(self) -> int:
        """About how many steps the run will have."""
        return self.step + self.course.left(self.step, self.spent, self.per_step)

    def position(self, ahead: int = 0) -> float:
        """Between 0 and ``course.total``; after so many further steps."""
        return self.course.at(self.step + ahead, self.spent + ahead * self.per_step)


def _course_of_begun(recipe: Recipe) -> Course:
    """With a budget that the run has not had until now."""
    course = Course.of(recipe, None)
    if course.is_measured_first:
        assert recipe.budget is not None
        raise BadInputError(
            f"budget.{recipe.budget.unit}: {recipe.budget.amount} is measured where a run begins, and this one began "
            f"without it; write a number of {recipe.budget.unit}, or budget.flops"
        )
    return course


def _joules(parts: Sequence[Mapping[str, Any]]) -> float:
    """The sum of measurements; BadInputError where one is missing."""
    missing = [part["reason"] for part in parts if part["value"] is None]
    if missing:
        raise BadInputError(f"budget.joules: what this run has spent was not measured: {missing[0]}")
    return float(sum(part["value"] for part in parts))
