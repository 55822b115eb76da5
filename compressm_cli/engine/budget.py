"""The budget of a run: what was spent of it, how far the run is by that, and whether it is over."""

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compressm_cli.core.quantities import quantity
from compressm_cli.engine.course import Course, Spent
from compressm_cli.engine.ledger import Ledger
from compressm_cli.recipe import Recipe


@dataclass(frozen=True)
class Standing:
    """Where a run that has been trained stands on the course of a recipe, perhaps another one than it had."""

    course: Course
    step: int
    spent: Spent
    per_step: Spent
    """What a step takes as the model is."""

    @classmethod
    def of(cls, recipe: Recipe, step: int, training: Mapping[str, Any]) -> "Standing":
        """At a step, of the ``training`` in a checkpoint."""
        flops = training["flops"]
        course = Course.of(recipe, training["start"].get("step"))
        return cls(course, step, flops["total"] or 0, flops["per_step"] or 0)

    @classmethod
    def at_end(cls, recipe: Recipe, step: int, summary: Mapping[str, Any]) -> "Standing":
        """Of a run that is done."""
        flops = summary["flops"]
        course = Course.of(recipe, flops["training_start_per_step"])
        return cls(course, step, flops["training"], flops["training_final_per_step"])

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


class Budget:
    """How far a run is; without a ``budget:`` in the recipe by its steps alone.

    FLOPs are a function of the steps and of the sizes that the model had, so a resumed run knows them exactly.
    """

    def __init__(self, recipe: Recipe, ledger: Ledger) -> None:
        self._recipe, self._ledger = recipe, ledger
        self._config = recipe.budget
        self._course = Course(recipe.train.steps)
        self._before: float = 0
        self.position: float = 0
        """Between 0 and ``total``, with the step that is being made."""

    @property
    def is_set(self) -> bool:
        """Whether the recipe has one."""
        return self._config is not None

    @property
    def total(self) -> int:
        """The length of the run in steps of the model as it was at the start: the scale of ``position``."""
        return self._course.total

    @property
    def last_step(self) -> float:
        """After which the run ends at the latest, whatever is left of a budget."""
        reinvested = self._config is not None and self._config.reinvest
        return math.inf if reinvested else self._recipe.train.steps

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return self.position / self.total

    def begin(self, step: int) -> None:
        """The model and what it costs are known; the run begins, or goes on, after a step."""
        self._course = Course.of(self._recipe, self._ledger.start_flops)
        self.position = self._before = self._course.at(step, self._spent)

    def begin_step(self, step: int) -> None:
        """A step is about to be made."""
        self._before = self._course.at(step - 1, self._spent)
        self.position = self._course.at(step, self._spent + (self._ledger.flops.per_step or 0))

    def end_step(self, step: int) -> None:
        """The step was made, and counted."""
        self.position = self._course.at(step, self._spent)

    def crossed(self, marks: Sequence[int]) -> bool:
        """Whether the step that was made led to one of these ascending positions, or beyond it."""
        return bisect_right(marks, self._before) < bisect_right(marks, self.position)

    def is_over(self, step: int) -> bool:
        """Whether the run ends after a step."""
        return self._course.is_over(step, self._spent)

    def expected(self, step: int) -> int:
        """About how many steps the run will have, as the model is now."""
        return step + self._course.left(step, self._spent, self._ledger.flops.per_step)

    def told(self) -> str:
        """What the run may spend, in a line."""
        config, limit, uncut = self._config, self._course.limit, self._course.uncut
        assert config is not None
        assert limit is not None
        assert uncut is not None
        whole = quantity(float(uncut) * self._course.steps, config.unit)
        whole = f"{self._course.steps:,} steps without compression take {whole}"
        how = "what a cut saves becomes more steps" if config.reinvest else "what a cut saves is left"
        return f"budget: {quantity(float(limit), config.unit)} ({whole}); {how}"

    def summary(self, step: int) -> dict[str, Any]:
        """What summary.json says of it."""
        config, limit, uncut = self._config, self._course.limit, self._course.uncut
        assert config is not None
        assert limit is not None
        return {
            "unit": config.unit,
            "asked": config.amount,
            "reinvest": config.reinvest,
            "limit": float(limit),
            "uncut_per_step": uncut,
            "spent": self._spent,
            "share": float(self._spent / limit),
            "steps": {"planned": self.total, "done": step},
        }

    @property
    def _spent(self) -> Spent:
        return self._ledger.flops.total
