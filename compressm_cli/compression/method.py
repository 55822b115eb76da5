"""The interface of every in-training compression method: decide, plan, apply, record.

A method only *reads* the model and returns a ``Plan``: edits as data. ``surgery.apply_plan`` alone
changes shapes, masks, ``requires_grad`` and optimizer state; the training loop alone decides whether
a tentative plan is kept.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressm_cli.compression.calibration import Statistic
from compressm_cli.compression.schedule import EquidistantSchedule, ScheduleConfig
from compressm_cli.config import Config

Moments = Literal["reset", "transport", "slice"]


@dataclass(frozen=True)
class Truncate:
    """Give the states of ``layer`` new coordinates and keep ``order`` of them."""

    layer: str
    order: int
    projections: Any
    """What the layer's ``reduced_parameters`` takes: ``StateProjection`` a system, or a ``SelectiveProjection``."""
    moments: Moments = "reset"
    """What becomes of Adam's moments of the cut parameters."""
    values: dict[str, Tensor] | None = None
    """The new state parameters, where they are not what ``reduced_parameters`` makes of the projections."""


@dataclass(frozen=True)
class Mask:
    """Hold the entries of ``parameter`` outside ``keep`` at zero; ``keep`` broadcasts to its shape.

    All-true entries lift an earlier mask, so a method can reactivate what it switched off.
    """

    parameter: str
    keep: Tensor


@dataclass(frozen=True)
class Freeze:
    """Stop (``active=False``) or resume (``active=True``) the training of some parameters."""

    parameters: list[str]
    active: bool


Edit = Truncate | Mask | Freeze


@dataclass
class LayerRecord:
    """What a check found at one layer, and why it did what it did: one line of ``compression.jsonl``."""

    layer: str
    order_before: int
    order_after: int
    reason: str
    """One readable clause, for a cut as well as for none."""
    hsv: list[float] = field(default_factory=list)
    """Hankel singular values, descending, of the realization named beside them."""
    kept: int | None = None
    """How many of ``hsv``, from the largest, were kept; null where nothing was cut or others were kept."""
    realization: str | None = None
    gramian: str | None = None
    horizon: int | None = None
    """Steps over which analytic Gramians were summed; null means for ever."""
    tail: float | None = None
    """Discarded share of the Hankel energy, 0 to 1."""
    bound: float | None = None
    """Bound on the H-infinity error, 2 sum of the discarded values; null where no bound holds."""
    measured_error: float | None = None
    """Relative error, on the calibration batches, of what the layer's recurrence puts out right after the cut, before
    any distillation: y = Re(C h) of a time-invariant layer, y of a selective one weighted by what reaches the layer's
    output. What else the layer's output is made of (D u, a gate) is not in it. Null where not measured."""
    predicted_error: float | None = None
    """The same, predicted in mean square from the Gramians alone; null where there is no such prediction."""
    output_error: float | None = None
    """Relative error of the layer's whole output on the calibration batches, after distillation; null without one."""
    kernel_order: int | None = None
    """The order with which mamba-ssm's kernels compute after the cut; null for a time-invariant layer."""
    variant: str | None = None
    """How a selective layer was reduced; null for a time-invariant one."""
    seconds: float = 0.0


@dataclass
class Plan:
    """What a method wants changed at one moment, as data."""

    edits: list[Edit] = field(default_factory=list)
    records: list[LayerRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.edits)


class SafetyConfig(Config):
    """The way back: train on after a cut, evaluate, and restore everything if it hurt."""

    trial_steps: Annotated[int, Field(ge=1)] = 50
    """Steps trained with the cut model before the verdict."""
    tolerance: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """Largest fall of the validation accuracy (0.02 is two points) that is accepted."""
    on_rejection: Literal["gentler", "stop"] = "gentler"
    """``gentler``: next time remove half as many states; ``stop``: no further cut in this run."""


class MethodConfig(Config):
    """The part of a recipe that all methods share (``compression:``)."""

    method: str
    schedule: ScheduleConfig = EquidistantSchedule()
    """When the method looks at the model."""
    safety: SafetyConfig | None = None
    """How a cut is tried before it is kept; omit it to accept every cut."""


@dataclass
class CheckContext:
    """What a method may use at a check, beside the model."""

    step: int
    total_steps: int
    length: int
    """Steps of the longest sequence."""
    generator: torch.Generator
    """For random choices; its state is part of a checkpoint."""
    calibrate: Callable[[Mapping[str, Statistic], int], None]
    """``calibrate(statistics, batches)`` shows each statistic, by the name of its layer, what that layer sees on so
    many batches of the training split, in evaluation mode; the order of the training data is not disturbed.

    The batches, the same at each call of one check, are passed through the model in parts of as many rows as in
    training: at once in memory are no more than the activations of a part and the statistics themselves."""


class Method(ABC):
    """One in-training compression method. To add one: subclass, declare ``Config``, name it in ``METHODS``."""

    Config: ClassVar[type[MethodConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    def check_steps(self, total: int) -> list[int]:
        """The steps at which ``plan`` is called in a run of ``total`` steps, ascending, counted from 1."""
        return self.config.schedule.steps(total)

    @abstractmethod
    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        """Read the model, decide, and say why; changes nothing."""

    def calibration_bytes(self, model: nn.Module, rows: int, length: int) -> tuple[int, int]:
        """About what ``plan`` holds, for the forecast of a run that passes so many rows of a length at once.

        What stays for all layers together, and the most that it takes in passing, while it looks at one of them.
        """
        return 0, 0

    def accepted(self, plan: Plan) -> None:
        """The loop kept the plan."""

    def rejected(self, plan: Plan) -> None:
        """The loop undid the plan: be gentler, or stop, as the recipe says."""

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers between checks: plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``'s result."""
