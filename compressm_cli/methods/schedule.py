"""When a method looks at the model: its own clock, independent of evaluation and logging."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from compressm_cli.core.config import Config

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class EquidistantSchedule(Config):
    """``count`` checks at equal distances, the last at ``until`` (the paper: 4 in the first tenth)."""

    kind: Literal["equidistant"] = "equidistant"
    until: Fraction | None = 0.1
    """End of the window as a fraction of the run."""
    until_step: Annotated[int, Field(ge=1)] | None = None
    """End of the window in steps, instead of ``until``."""
    count: Annotated[int, Field(ge=1)] = 4
    """Number of checks."""

    @model_validator(mode="before")
    @classmethod
    def _steps_replace_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("until_step") is not None:
            return {"until": None, **values}
        return values

    @model_validator(mode="after")
    def _one_end(self) -> "EquidistantSchedule":
        if self.until_step is not None and self.until is not None:
            raise ValueError("give either until (a fraction) or until_step, not both")
        if self.until is None and self.until_step is None:
            raise ValueError("until is null; give until (a fraction) or until_step")
        return self

    def steps(self, total: int) -> list[int]:
        """The steps at which the model is checked, counted from 1, in a run of ``total`` steps."""
        end = self.until_step if self.until_step is not None else round((self.until or 0.0) * total)
        marks = (round(end * (i + 1) / self.count) for i in range(self.count))
        return sorted({m for m in marks if 1 <= m <= total})


class ListedSchedule(Config):
    """Checks at listed moments; give one of ``fractions`` and ``at_steps``."""

    kind: Literal["listed"]
    fractions: Annotated[list[Fraction], Field(min_length=1)] | None = None
    """Moments as fractions of the run."""
    at_steps: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)] | None = None
    """Moments as steps, counted from 1; those beyond the run are left out."""

    @model_validator(mode="after")
    def _one_list(self) -> "ListedSchedule":
        if (self.fractions is None) == (self.at_steps is None):
            raise ValueError("give exactly one of fractions and at_steps")
        return self

    def steps(self, total: int) -> list[int]:
        """The steps at which the model is checked, counted from 1, in a run of ``total`` steps."""
        marks = self.at_steps or [max(1, round(f * total)) for f in self.fractions or []]
        return sorted({m for m in marks if m <= total})


class AdaptiveSchedule(Config):
    """Looks often, acts when the order that the method wants has settled.

    The order has settled when it changed by at most ``tolerance`` (relative, every layer) over
    ``patience`` looks in a row. After a cut it must settle again.
    """

    kind: Literal["adaptive"]
    every: Annotated[int, Field(ge=1)] = 50
    """Steps between two looks."""
    start: Fraction = 0.02
    """First look, as a fraction of the run."""
    until: Fraction = 0.5
    """End of the looks, as a fraction of the run."""
    tolerance: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.1
    """Relative change of an order that counts as standing still."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Looks in a row over which all orders must stand still."""

    @model_validator(mode="after")
    def _ordered(self) -> "AdaptiveSchedule":
        if self.start > self.until:
            raise ValueError(f"start ({self.start}) lies after until ({self.until})")
        return self

    def steps(self, total: int) -> list[int]:
        """The steps at which the model is looked at; a cut follows only where the order has settled."""
        first, last = max(1, round(self.start * total)), round(self.until * total)
        return list(range(first, last + 1, self.every))


ScheduleConfig = Annotated[
    EquidistantSchedule | ListedSchedule | AdaptiveSchedule, Field(discriminator="kind")
]


class SettlingOrders:
    """The memory of an adaptive schedule: how long the wanted orders have stood still."""

    def __init__(self, tolerance: float, patience: int) -> None:
        self.tolerance = tolerance
        self.patience = patience
        self.last: list[int] | None = None
        self.still = 0

    def settled(self, orders: list[int]) -> bool:
        """Whether the orders, with this look added, have stood still for ``patience`` looks."""
        if self.last is not None and all(
            abs(new - old) <= self.tolerance * old for new, old in zip(orders, self.last, strict=True)
        ):
            self.still += 1
        else:
            self.still = 0
        self.last = list(orders)
        return self.still >= self.patience

    def reset(self) -> None:
        """Forget, after a cut."""
        self.last, self.still = None, 0

    def state_dict(self) -> dict[str, object]:
        return {"last": self.last, "still": self.still}

    def load_state_dict(self, state: dict) -> None:
        self.last, self.still = state["last"], state["still"]
