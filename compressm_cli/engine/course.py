"""How far a run is on its way, by its steps and by what it has spent: a function of both, and of the recipe."""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from math import ceil

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import quantity
from compressm_cli.recipe import Recipe
from compressm_cli.recipe.budget import LARGEST_FACTOR, BudgetConfig, factor_of

Spent = int | float
SETTLING_STEPS, MEASURED_STEPS = 5, 20
"""Of a run whose budget is a share of seconds or joules: those that are left out, and those that are measured then."""


@dataclass(frozen=True)
class Course:
    """From step 0 to the end. ``total`` steps are the scale on which schedules and learning rates are told.

    Without a budget a step is a step. With one, the way is what was spent of it: a cheaper step is a shorter one, and
    as long as none is cheaper, the run is one of ``total`` steps.
    """

    steps: int
    """``train.steps``."""
    budget: BudgetConfig | None = None
    uncut: Spent | None = None
    """What a step takes without compression; None where that is not known (yet)."""

    @classmethod
    def of(cls, recipe: Recipe, uncut: Spent | None) -> "Course":
        """The course of a recipe. BadInputError where budget and steps are not of one order of magnitude."""
        course = cls(recipe.train.steps, recipe.budget, uncut)
        course._require_possible()
        return course

    @classmethod
    def counted(cls, recipe: Recipe, flops: int | None) -> "Course":
        """The same, of what is known by counting: FLOPs of a step without compression."""
        is_counted = recipe.budget is not None and recipe.budget.unit == "flops"
        return cls.of(recipe, flops if is_counted else None)

    @cached_property
    def limit(self) -> Fraction | None:
        """What may be spent; None where nothing limits it, or where it is not known yet."""
        if self.budget is None:
            return None
        amount = self.budget.amount
        if not isinstance(amount, str):
            return Fraction(amount)
        return None if self.uncut is None else factor_of(amount) * self.steps * Fraction(self.uncut)

    @cached_property
    def planned(self) -> Fraction:
        """Steps that the budget is enough for without compression; ``train.steps`` where that is not known."""
        if self.budget is None:
            return Fraction(self.steps)
        amount = self.budget.amount
        if isinstance(amount, str):
            return factor_of(amount) * self.steps
        return Fraction(self.steps) if self.uncut is None else Fraction(amount) / Fraction(self.uncut)

    @cached_property
    def total(self) -> int:
        """Steps of the whole run where none of them is cheaper than the first."""
        return max(1, ceil(self.planned)) if self._reinvests else self.steps

    def at(self, step: int, spent: Spent) -> int | float:
        """Where a run is between 0 and ``total``, after a step and with so much spent."""
        if self.budget is None:
            return step
        limit = self.limit
        share = Fraction(step) / self.planned if limit is None else Fraction(spent) / limit
        if not self._reinvests:
            share = max(share, Fraction(step, self.steps))
        return float(min(max(share, Fraction(0)), Fraction(1)) * self.total)

    def uncut_step(self, mark: int) -> int:
        """The step that leads to a mark between 0 and ``total`` where none is cheaper than the first."""
        return ceil(mark * min(self.planned, Fraction(self.total)) / self.total)

    @property
    def is_measured_first(self) -> bool:
        """Whether the run has to measure what it may spend, and has not done so yet."""
        return self.budget is not None and self.limit is None

    def is_over(self, step: int, spent: Spent) -> bool:
        """Whether no step is left, or no budget."""
        if self.budget is None:
            return step >= self.steps
        limit = self.limit
        spent_all = step >= self.planned if limit is None else spent >= limit
        return spent_all or (not self._reinvests and step >= self.steps)

    def left(self, step: int, spent: Spent, per_step: Spent | None) -> int:
        """About how many steps are still to come, where each takes as much as one does lately."""
        limit, steps = self.limit, self.steps - step
        if limit is None:
            end = ceil(self.planned)
            return max(0, (end if self._reinvests else min(end, self.steps)) - step)
        cost = per_step or limit / self.total
        affordable = max(0, ceil((limit - Fraction(spent)) / Fraction(cost)))
        return affordable if self._reinvests else max(0, min(affordable, steps))

    @property
    def last_step(self) -> float:
        """After which the run ends at the latest, whatever is left of a budget."""
        return math.inf if self._reinvests else self.steps

    @property
    def _reinvests(self) -> bool:
        return self.budget is not None and self.budget.reinvest

    def _require_possible(self) -> None:
        if self.budget is None:
            return
        if self.uncut is not None and self.uncut <= 0:
            raise BadInputError("budget: no cost of a step is known of this model; leave budget: out")
        if isinstance(self.budget.amount, str):
            self._require_measurable()
        elif self.budget.unit == "flops":
            self._require_magnitude(self.budget.amount)

    def _require_measurable(self) -> None:
        assert self.budget is not None
        least = SETTLING_STEPS + MEASURED_STEPS
        unit, amount, steps = self.budget.unit, self.budget.amount, min(self.planned, Fraction(self.steps))
        if unit == "flops" and self.planned < 1:
            raise BadInputError(
                f"budget.flops: {amount} of the recipe without compression is less than a step of its {self.steps:,} "
                f"(train.steps); write a share of 1 / {self.steps} or more, such as 0.65x"
            )
        if unit != "flops" and steps <= least:
            raise BadInputError(
                f"budget.{unit}: {amount} is measured over steps {SETTLING_STEPS + 1} to {least}, and the run would "
                f"have {float(steps):g}; write a number of {unit}, or flops: {amount}"
            )

    def _require_magnitude(self, amount: float) -> None:
        if 1 <= self.planned <= LARGEST_FACTOR * self.steps:
            return
        assert self.uncut is not None
        whole = float(self.steps * self.uncut)
        raise BadInputError(
            f"budget.flops: {quantity(amount, 'flops')} is "
            f"{'less than a step takes' if self.planned < 1 else f'more than {LARGEST_FACTOR} times the recipe'} "
            f"without compression: {self.steps:,} steps (train.steps) take {quantity(whole, 'flops')}, "
            f"{quantity(self.uncut, 'flops')} each; write a budget that goes with train.steps, such as 0.65x"
        )
