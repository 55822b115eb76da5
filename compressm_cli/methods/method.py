"""The interface of every in-training compression method: decide, plan, apply, record.

A method only *reads* the model and returns a ``Plan``: edits as data. ``surgery.apply_plan`` alone
changes shapes, masks, ``requires_grad`` and optimizer state; the training loop alone decides whether
a tentative plan is kept.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressm_cli.methods.calibration import Statistic
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.plan import LINE, Plan, UnitRecord

if TYPE_CHECKING:  # a loop of one's own needs no recipes
    from compressm_cli.methods.config import MethodConfig


@dataclass
class CheckContext:
    """What a method may use at a check, beside the model."""

    step: int
    total_steps: int
    """The length of the run, as ``check_steps`` is told it."""
    length: int
    """Steps of the longest sequence."""
    generator: torch.Generator
    """For random choices; its state is part of a checkpoint."""
    calibrate: Callable[[Mapping[str, Statistic], int], None]
    """``calibrate(statistics, batches)`` shows each statistic, by the name of its layer, what that layer sees on so
    many batches of the training split, in evaluation mode; the order of the training data is not disturbed.

    The batches, the same at each call of one check, are passed through the model in parts of as many rows as in
    training: at once in memory are no more than the activations of a part and the statistics themselves."""
    position: float | None = None
    """Where the run is between 0 and ``total_steps`` by its budget; None where it has none, and is at its step."""

    @property
    def reached(self) -> float:
        """Where the run is between 0 and ``total_steps``."""
        return self.step if self.position is None else self.position


@dataclass(frozen=True)
class SetupContext:
    """What a method may know before the first step, beside the model."""

    length: int
    """Steps of the longest sequence."""
    sizes: Mapping[str, int]
    """How many units each axis had when the run began, however many are left where it is gone on with."""
    generator: torch.Generator
    """For random choices, the same in all processes."""


@dataclass(frozen=True)
class StepContext:
    """What a method may use at a step of training, beside what it remembers."""

    step: int
    """Counted from 1."""
    total_steps: int
    model: nn.Module
    generator: torch.Generator
    """For random choices, and nothing else: torch's own random state belongs to the training."""
    position: float | None = None
    """As in ``CheckContext``."""

    @property
    def reached(self) -> float:
        """Where the run is between 0 and ``total_steps``."""
        return self.step if self.position is None else self.position


class Method(ABC):
    """One in-training compression method. To add one: subclass, declare ``Config``, name it in ``METHODS``."""

    Config: ClassVar[type["MethodConfig"]]

    Details: ClassVar[Any] = None
    """What the ``details`` of its records are, plain data: a subclass of ``Config``, say; None asks for no more."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def setup(self, model: nn.Module, structure: StructureMap, context: SetupContext) -> None:
        """Once a run, in all its processes, before its first step and before ``load_state_dict``: make what it needs.

        Whoever overrides this or one of the next two cannot have a model in parts (``train.parallel: fsdp``).
        """

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        """Hooks on modules of the model, which the caller removes: after ``setup``, and where modules are other ones.

        Blocks and sub-layers that are woken are others than those that were parked; cuts leave modules as they are.
        """
        return []

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameters of the method's own, which are optimized with the model, each time the same ones.

        In groups of ``params`` (a list), and perhaps ``factor`` on the learning rate (1) and ``weight_decay`` (0).
        Float32, of one shape for all of the run, where the model is. They are part of checkpoints, of what a rejected
        cut goes back to and of clipping; gradients are averaged over processes. Asked after ``setup``.
        """
        return []

    def check_steps(self, total: int) -> list[int]:
        """The steps at which ``plan`` is called in a run of ``total`` steps, ascending, counted from 1.

        With a budget they are moments of it: step s is where s/total of it is spent.
        """
        return self.config.schedule.steps(total)

    def penalty(self, step: StepContext) -> Tensor | None:
        """A term that is added to the loss of each batch, a number with a gradient; not to the loss that is logged."""
        return None

    def after_backward(self, step: StepContext) -> None:
        """The gradients of a batch are there, of all processes, before they are clipped: to be read, not changed."""

    def after_step(self, step: StepContext) -> Plan | None:
        """The optimizer has made its step; edits that are due right now, such as masks, or units to park and wake.

        They are carried out at once, without a trial. Called in the main process. Whoever overrides this cannot have a
        model in parts (``train.parallel: fsdp``).
        """
        return None

    @property
    def needs_whole_model(self) -> bool:
        """Whether it cannot do with a part of the model in each process."""
        own = (type(self).setup, type(self).attach, type(self).parameter_groups)
        return self.acts_each_step or own != (Method.setup, Method.attach, Method.parameter_groups)

    @property
    def acts_each_step(self) -> bool:
        """Whether ``after_step`` may ask for something."""
        return type(self).after_step is not Method.after_step

    @abstractmethod
    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        """Read the model, decide, and say why; changes nothing."""

    def calibration_bytes(self, model: nn.Module, rows: int, length: int) -> tuple[int, int]:
        """About what ``plan`` holds, for the forecast of a run that passes so many rows of a length at once.

        What stays for all layers together, and the most that it takes in passing, while it looks at one of them.
        """
        return 0, 0

    def accepted(self, records: list[UnitRecord]) -> None:
        """The loop kept the plan that came with these records."""

    def rejected(self, records: list[UnitRecord]) -> None:
        """The loop undid the plan that came with these records: be gentler, or stop, as the recipe says."""

    def refused(self, records: list[UnitRecord], why: str) -> None:
        """The plan could not be carried out, and nothing was changed: its records are to say so."""
        for record in records:
            if record.is_change:
                record.after, record.reason = record.before, f"nothing cut: refused: {why}"

    def no_details(self) -> dict[str, Any]:
        """The details of a record where the method did not look."""
        return {}

    @classmethod
    def require_details(cls, details: Any) -> None:
        """ValueError, in one clause, unless a record of the method may have such details."""
        from pydantic import JsonValue, TypeAdapter, ValidationError

        schema: Any = dict[str, JsonValue] if cls.Details is None else cls.Details
        try:
            TypeAdapter(schema).validate_python(details, strict=True)
            json.dumps(details, allow_nan=False)
        except ValidationError as error:
            first = error.errors()[0]
            raise ValueError(".".join(map(str, ("details", *first["loc"]))) + f": {first['msg']}") from None
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"details: not plain data of finite numbers: {error}") from None
        if taken := sorted(LINE.intersection(details)):
            raise ValueError(f"details: {taken[0]!r} is a key of every record")

    def state_dict(self) -> dict[str, Any]:
        """What the method remembers between checks: plain data and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore ``state_dict``'s result."""

    def validate(self, state: dict[str, Any], model: nn.Module) -> None:
        """ValueError, in one clause, for a ``state`` from a checkpoint that ``load_state_dict`` could not restore.

        ``model`` is the checkpoint's, without values. Asked before anything of a run is touched.
        """
