"""What a run may spend (``budget:``)."""

from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from compressm_cli.core.config import Config

Unit = Literal["flops", "seconds", "joules"]
LARGEST_FACTOR = 100
"""Of the same recipe without compression; more is a slip of the pen."""
FORM = "a number and x, such as 0.65x"


def _within(value: str) -> str:
    if not 0 < factor_of(value) <= LARGEST_FACTOR:
        raise ValueError(f"{value} is out of range; write a factor above 0x and at most {LARGEST_FACTOR}x")
    return value


def _not_a_share(value: float) -> float:
    if value < 1:
        raise ValueError(
            f"{value:g} is less than one FLOP; write {value:g}x for that share of the recipe without compression"
        )
    return value


def factor_of(text: str) -> Fraction:
    """``0.65x`` -> 13/20."""
    return Fraction(text.removesuffix("x"))


def _between(least: float, most: float, unit: str) -> AfterValidator:
    def check(value: float) -> float:
        if not least <= value <= most:
            raise ValueError(
                f"{value:g} is out of range; write from {least:g} to {most:g} {unit}, or a share such as 0.65x"
            )
        return value

    return AfterValidator(check)


Amount = Annotated[float, Field(gt=0.0)]
Relative = Annotated[
    str,
    Field(pattern=r"^[0-9]{1,9}(\.[0-9]{1,9})?x$", json_schema_extra={"form": FORM}),
    AfterValidator(_within),
]


class BudgetConfig(Config):
    """What the run may spend, in one unit; ``0.65x`` is 0.65 of what the recipe takes without compression."""

    flops: Annotated[Amount, AfterValidator(_not_a_share), _between(1, 1e30, "flops")] | Relative | None = (
        None
    )
    """FLOPs of training steps, as they are counted."""
    seconds: Annotated[Amount, _between(1e-3, 1e9, "seconds")] | Relative | None = None
    """Wall time of all that the run does until its last step; ``0.65x`` is measured at its start."""
    joules: Annotated[Amount, _between(1e-3, 1e15, "joules")] | Relative | None = None
    """Electrical energy of the same, where it can be measured; ``0.65x`` is measured at the start."""
    reinvest: bool = True
    """Whether what a cut saves becomes more steps; else the run ends after ``train.steps``, or with the budget."""

    @model_validator(mode="after")
    def _one_unit(self) -> "BudgetConfig":
        given = [unit for unit in ("flops", "seconds", "joules") if getattr(self, unit) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(
                f"found {found}; give exactly one of flops, seconds and joules, such as flops: 0.65x"
            )
        return self

    @property
    def unit(self) -> Unit:
        """What it is counted in."""
        return "flops" if self.flops is not None else "seconds" if self.seconds is not None else "joules"

    @property
    def amount(self) -> float | str:
        """As it was written: so much, or a factor and x."""
        found: float | str | None = getattr(self, self.unit)
        assert found is not None
        return found

    def __str__(self) -> str:
        """In a few words: ``0.65x flops``."""
        amount = self.amount if isinstance(self.amount, str) else f"{self.amount:g}"
        return f"{amount} {self.unit}{'' if self.reinvest else ', not reinvested'}"
