"""Compression in a training loop of one's own: five lines, with any optimizer."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from compressm_cli.compressor.arguments import (
    Batches,
    batches_of,
    called_with,
    copies_of,
    iterable_of,
    method_of_settings,
    require_number,
    require_optimizer,
)
from compressm_cli.compressor.state import own_state, read_state
from compressm_cli.compressor.wrapper import wrapped_anew
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.methods.calibration import Statistic, seeing_inputs
from compressm_cli.methods.faults import MethodFaultError, ask
from compressm_cli.methods.hooks import Hooks
from compressm_cli.methods.method import CheckContext, Method, SetupContext, StepContext
from compressm_cli.methods.parameters import average_gradients, groups_of_method
from compressm_cli.structure.edits import Train
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.masks import enforce_masks, mask_gradients
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.store import set_parked_units
from compressm_cli.structure.surgery import (
    apply_edits,
    frozen,
    restore_constraints,
    sizes,
)

BATCHES = 4
"""Calibration batches of a method that does not say how many it takes."""


@dataclass(frozen=True)
class Change:
    """What came of a step."""

    shapes_changed: bool = False
    """Whether parameters are other ones now: what was compiled or wrapped around the model before is out of date."""
    records: list[UnitRecord] = field(default_factory=list)
    """What the method found at each layer, where it looked, and why it did what it did."""
    refused: str | None = None
    """Why a plan could not be carried out, which changed nothing then; its records and a warning say so, too."""

    def __bool__(self) -> bool:
        return self.shapes_changed


class Compressor:
    """Makes a model smaller while a loop of yours trains it.

        compressor = Compressor(model, optimizer, {"method": "hankel", "energy_threshold": 0.99}, total_steps=10_000)
        for step, (inputs, labels) in enumerate(loader):
            loss = loss_of(compressor.model(inputs), labels) + compressor.penalty()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            compressor.after_step()

    The optimizer keeps its groups, so that schedulers of learning rates go on; its state is cut with the parameters.
    ``copies`` of the model, such as moving averages of its weights, are cut by the same plans. A model that is wrapped
    in ``DistributedDataParallel`` is wrapped anew after each change of shapes: call ``compressor.model``. In several
    processes every one calls the same methods, and each must come to the same plan: give all the same calibration
    batches.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer | None,
        method: Method | Mapping[str, Any],
        *,
        total_steps: int,
        calibration: Batches | None = None,
        length: int | None = None,
        copies: Sequence[nn.Module] = (),
        seed: int = 0,
    ) -> None:
        """``method`` is one, or what a recipe says under ``compression:``.

        ``calibration`` is for methods that measure on data; padding must not be in it. ``length``, the steps of the
        longest sequence, is for Gramians over a finite horizon; without it, it is that of the calibration batches that
        a check uses. Where the method has parameters of its own, the optimizer gets them here, in groups at its end.
        Raises ValueError for settings that are none of the method's, and where the method asks for a length that
        nothing tells.
        """
        if not isinstance(model, nn.Module):
            raise ValueError(f"model: {type(model).__name__} is no torch.nn.Module")
        require_number("total_steps", total_steps, 1, "how many steps the loop makes")
        require_number("seed", seed, 0, "a seed of random numbers")
        if length is not None:
            require_number("length", length, 1, "the steps of the longest sequence")
        require_optimizer(optimizer, model)
        self._wrapped, self._optimizer = model, optimizer
        self.method = method if isinstance(method, Method) else method_of_settings(method)
        self._calibration, self._length, self._copies = (
            batches_of(calibration),
            length,
            copies_of(copies, self.plain),
        )
        self._total, self._averaged = total_steps, False
        self._checks = set(ask(self.method, Method.check_steps, total_steps))
        self._generator = torch.Generator().manual_seed(seed)
        self.step = 0
        """Steps that were made."""
        context = _Setup(self._longest, sizes=sizes(self.plain), generator=self._generator)
        ask(self.method, Method.setup, self.plain, StructureMap.of(self.plain), context)
        groups = groups_of_method(self.method, self.plain)
        self._hooks = Hooks(self.method)
        self._hooks.follow(self.plain)
        self._own: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        if self._own and optimizer is None:
            raise ValueError(
                f"optimizer: {type(self.method).__name__} has parameters of its own, which are to be trained; give one"
            )
        if optimizer is not None:
            for group in groups:
                optimizer.add_param_group({**group, "lr": optimizer.defaults["lr"] * group["factor"]})

    @property
    def model(self) -> nn.Module:
        """What to call in training: the model, wrapped as it was given."""
        return self._wrapped

    @property
    def plain(self) -> nn.Module:
        """The model without a wrapper."""
        wrapped = self._wrapped
        return wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped

    def penalty(self) -> Tensor | float:
        """What to add to the loss of the next step; 0.0 where the method wants nothing."""
        found = ask(self.method, Method.penalty, self._context(self.step + 1))
        return 0.0 if found is None else found

    def after_backward(self) -> None:
        """Let the method look at the gradients, before they are clipped; masked entries are taken out of them."""
        mask_gradients(self.plain)
        if self._own and isinstance(self._wrapped, DistributedDataParallel):
            average_gradients(self._own)
        self._averaged = True
        ask(self.method, Method.after_backward, self._context(self.step + 1))

    def after_step(self) -> Change:
        """Call it after the optimizer's step: carries out what the method wants. Gradients of what is cut are gone.

        A plan that cannot be carried out changes nothing, and ends nothing: a warning tells why (``Change.refused``).
        """
        if not self._averaged and self._own:
            raise RuntimeError(
                "the method has parameters of its own: call after_backward() before the optimizer's step"
            )
        self._averaged = False
        self.step += 1
        enforce_masks(self.plain)
        change = self._apply(ask(self.method, Method.after_step, self._context(self.step)))
        if self.step not in self._checks:
            return change
        plan = ask(self.method, Method.plan, self.plain, self._check())
        checked = self._apply(plan)
        if not (plan.edits or plan.records):
            warnings.warn(_nothing_found(self.method, self.plain), stacklevel=2)
        if plan and checked.refused is None:
            ask(self.method, Method.accepted, plan.records)
        return Change(
            change.shapes_changed or checked.shapes_changed,
            [*change.records, *checked.records],
            checked.refused or change.refused,
        )

    def state_dict(self) -> dict[str, Any]:
        """What the compressor remembers, beside the model and its optimizer: plain data and tensors."""
        return {
            "step": self.step,
            # What it remembers may be changed in place from here on.
            "method": copy.deepcopy(ask(self.method, Method.state_dict)),
            "generator": self._generator.get_state(),
            "parameters": [p.detach().clone() for p in self._own],
            **own_state(self.plain),
            "copies": [own_state(twin) for twin in self._copies],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``; the model and its copies must have the shapes that they had then (``resize``).

        ValueError, with nothing changed, for what is no such state, or one of another model, of another method's
        parameters or of another number of copies.
        """
        held = read_state(state, [self.plain, *self._copies], self._own)
        ask(self.method, Method.load_state_dict, copy.deepcopy(state["method"]))
        self.step, self._averaged = state["step"], False
        self._generator.set_state(state["generator"])
        self._hooks.follow(self.plain)
        before = frozen(self.plain)
        for model, saved in zip([self.plain, *self._copies], held, strict=False):
            set_parked_units(model, saved.parked)
            if saved.masks is not None:
                restore_constraints(model, saved.masks, saved.frozen)
        if isinstance(self._wrapped, DistributedDataParallel) and frozen(self.plain) != before:
            self._wrapped = wrapped_anew(self._wrapped)
        with torch.no_grad():
            for parameter, value in zip(self._own, state.get("parameters", []), strict=True):
                parameter.copy_(value)

    # ---- within --------------------------------------------------------------------------------------------

    def _context(self, step: int) -> StepContext:
        return StepContext(step, self._total, self.plain, self._generator)

    def _check(self) -> CheckContext:
        return _Check(
            self._longest,
            step=self.step,
            total_steps=self._total,
            generator=self._generator,
            calibrate=self._calibrate,
        )

    def _longest(self) -> int:
        """Steps of the longest sequence: as told, or of the batches that a check uses."""
        if self._length is not None:
            return self._length
        if self._calibration is None:
            raise ValueError(
                "the length of the sequences is not known: give Compressor(..., calibration=...), batches of what the "
                "model is called with, or length=..., the steps of the longest one"
            )
        seen = _Longest()
        self._calibrate(
            dict.fromkeys(state_space_layers(self.plain), seen),
            getattr(self.method.config, "calibration_batches", BATCHES),
        )
        return seen.result()

    def _apply(self, plan: Plan | None) -> Change:
        if plan is None:
            return Change()
        if not plan.edits:
            return Change(records=plan.records)
        before = [id(p) for p in self.plain.parameters()]
        try:
            apply_edits(self.plain, self._optimizer, plan.edits, self._copies)
        except ValueError as error:
            return self._refused(plan, str(error))
        self._hooks.follow(self.plain)
        changed = [id(p) for p in self.plain.parameters()] != before
        if isinstance(self._wrapped, DistributedDataParallel) and (changed or _trains(plan)):
            self._wrapped = wrapped_anew(self._wrapped)
        return Change(changed, plan.records)

    def _refused(self, plan: Plan, why: str) -> Change:
        """Tell of a plan that could not be carried out, which left the model as it was."""
        name = type(self.method).__name__
        warnings.warn(
            f"what {name} wanted after step {self.step} cannot be done, and was left: {why}", stacklevel=4
        )
        ask(self.method, Method.refused, plan.records, why)
        return Change(records=plan.records, refused=why)

    @torch.no_grad()
    def _calibrate(self, statistics: Mapping[str, Statistic], batches: int) -> None:
        if self._calibration is None:
            raise MethodFaultError(
                "the method measures on data: give Compressor(..., calibration=...), batches of what the model is "
                "called with"
            )
        model, is_empty = self.plain, True
        with seeing_inputs(model, statistics):
            for batch in islice(iterable_of(self._calibration()), batches):
                is_empty = False
                called_with(model, batch)
                for statistic in statistics.values():
                    statistic.end_batch()
        if is_empty:
            raise ValueError(
                "calibration: there was no batch; each check asks for them, and needs at least one"
            )


class _Longest(Statistic):
    """Steps of the longest sequence that a layer saw."""

    def __init__(self) -> None:
        self.steps = 0

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        self.steps = max(self.steps, u.shape[1])

    def result(self) -> int:
        if not self.steps:
            raise ValueError(
                "the length of the sequences is not known: write length=..., the steps of the longest"
            )
        return self.steps


class _Lazily:
    """A context whose length is looked for when a method asks for it."""

    def __init__(self, longest: Callable[[], int], **known: Any) -> None:
        vars(self).update(known, longest=longest)

    def __getattr__(self, name: str) -> Any:
        if name != "length":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        vars(self)["length"] = found = vars(self)["longest"]()
        return found


class _Setup(_Lazily, SetupContext):
    pass


class _Check(_Lazily, CheckContext):
    pass


def compress(
    model: nn.Module,
    method: Method | Mapping[str, Any],
    *,
    calibration: Batches | None = None,
    length: int | None = None,
    seed: int = 0,
) -> list[UnitRecord]:
    """Cut a trained model once, in place, without an optimizer; returns what was found and done at each layer."""
    settings = (
        {**method, "schedule": {"kind": "listed", "at_steps": [1]}} if isinstance(method, Mapping) else method
    )
    compressor = Compressor(
        model, None, settings, total_steps=1, calibration=calibration, length=length, seed=seed
    )
    return compressor.after_step().records


def _nothing_found(method: Method, model: nn.Module) -> str:
    structure = StructureMap.of(model)
    axes = list(structure)
    there = f"its axes are {', '.join(axes[:3])}{', ...' if len(axes) > 3 else ''}"
    why = there if axes else "no module of it declares axes; compressm.discover finds those of other networks"
    for name, reason in structure.left_out.items():
        why += f"; {name} is left out: {reason}"
    return f"there is nothing to cut: {type(method).__name__} finds none of its units in the model; {why}"


def _trains(plan: Plan) -> bool:
    """Whether it says what is trained, which a wrapper for several processes must know."""
    return any(isinstance(edit, Train) for edit in plan.edits)
