"""What runs were allowed to spend, and what became of it."""

from dataclasses import dataclass
from typing import cast, get_args

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import quantity
from compressm_cli.core.text import shorten
from compressm_cli.core.validation import LATEST, is_count, is_number
from compressm_cli.recipe.budget import Unit
from compressm_cli.reports.arms import Member


@dataclass(frozen=True)
class RunBudget:
    """The budget of one run."""

    unit: Unit
    asked: str
    """As the recipe says it."""
    reinvest: bool
    limit: float | None
    """None where the run ended before it was measured."""
    spent: float
    planned: int
    """Steps that it was enough for without a cut."""
    steps: int

    @classmethod
    def of(cls, member: Member) -> "RunBudget | None":
        """That of a model; None where it had none, or where that is not recorded."""
        if member.summary is None or member.summary.get("budget") is None:
            return None
        unit, asked, reinvest = (member.recorded(f"budget.{key}") for key in ("unit", "asked", "reinvest"))
        limit, spent = member.amount("budget.limit"), member.amount("budget.spent")
        planned, done = (member.recorded(f"budget.steps.{key}") for key in ("planned", "done"))
        if unit not in get_args(Unit):
            raise BadInputError(
                f"{member.path / 'summary.json'}: budget.unit is {shorten(unit)}; the run's record is damaged"
            )
        right = type(asked) is str or is_number(asked)
        member.require(right, "budget.asked", "a number or text", asked)
        member.require(type(reinvest) is bool, "budget.reinvest", "true or false", reinvest)
        member.require(spent is not None, "budget.spent", "a number", spent)
        for key, steps in (("planned", planned), ("done", done)):
            member.require(is_count(steps, 0, LATEST), f"budget.steps.{key}", "a whole number", steps)
        return cls(cast(Unit, unit), str(asked), reinvest, limit, cast(float, spent), planned, done)

    @property
    def plans_steps(self) -> bool:
        """Whether it says for how many steps it is enough: a number of seconds or joules does not."""
        return self.unit == "flops" or self.asked.endswith("x")

    @property
    def share(self) -> float | None:
        """Of the budget that was spent."""
        return self.spent / self.limit if self.limit else None

    def message(self) -> str:
        """In a line: ``0.65x: 1.30 TFLOP, 100.0 % spent``."""
        if self.share is None or self.limit is None:
            return f"{self.asked} {self.unit}, not measured"
        asked = f"{self.asked}: " if self.asked.endswith("x") else ""
        return f"{asked}{quantity(self.limit, self.unit)}, {quantity(self.share, 'share')} spent"
