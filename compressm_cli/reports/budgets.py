"""What runs were allowed to spend, and what became of it."""

from dataclasses import dataclass
from typing import cast, get_args

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import quantity
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
        read = {
            key: member.recorded(f"budget.{key}") for key in ("unit", "asked", "reinvest", "limit", "spent")
        }
        if read["unit"] not in get_args(Unit):
            raise BadInputError(
                f"{member.path / 'summary.json'}: budget.unit is {read['unit']!r}; the run's record is damaged"
            )
        limit = None if read["limit"] is None else float(read["limit"])
        planned, done = (int(member.recorded(f"budget.steps.{key}")) for key in ("planned", "done"))
        unit = cast(Unit, read["unit"])
        return cls(
            unit, str(read["asked"]), bool(read["reinvest"]), limit, float(read["spent"]), planned, done
        )

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
