"""What a recipe says of an in-training compression method, whichever it is."""

from typing import Annotated, Literal

from pydantic import Field

from compressm_cli.core.config import Config
from compressm_cli.methods.schedule import EquidistantSchedule, ScheduleConfig


class SafetyConfig(Config):
    """The way back: train on after a cut, evaluate, and restore everything if it hurt."""

    trial_steps: Annotated[int, Field(ge=1)] = 50
    """Steps trained with the cut model before the verdict."""
    tolerance: Annotated[float, Field(ge=0.0)] = 0.02
    """Largest fall of the validation accuracy (0.02 is two points) that is accepted, or of what else the objective's
    ``primary`` is; of what is better when lower, the largest rise."""
    relative: bool = False
    """Whether ``tolerance`` is a share of the value before the cut, not a difference."""
    on_rejection: Literal["gentler", "stop"] = "gentler"
    """``gentler``: next time remove half as many states; ``stop``: no further cut in this run."""


class MethodConfig(Config):
    """The part of a recipe that all methods share (``compression:``)."""

    method: str
    schedule: ScheduleConfig = EquidistantSchedule()
    """When the method looks at the model."""
    safety: SafetyConfig | None = None
    """How a cut is tried before it is kept; omit it to accept every cut."""
