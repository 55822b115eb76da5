"""A cut in rounds: units are judged anew in what the rounds before left, folds included; all of it is one plan."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.structure.edits import Add, Keep
from compressm_cli.structure.plan import Plan, UnitRecord
from compressm_cli.structure.surgery import apply_edits

if TYPE_CHECKING:
    from compressm_cli.pruning.pruning import Pruned


def in_rounds(
    model: nn.Module, once: Callable[[nn.Module, float], "Pruned"], flops: float, rounds: int
) -> "Pruned":
    """What ``once``, which plans a cut of a network to a share of its FLOPs, makes of it in several equal parts.

    The model is left as it is. Raises what ``once`` raises.
    """
    twin, done = copy.deepcopy(model), list["Pruned"]()
    for number in range(1, rounds + 1):
        left = done[-1].after.flops / done[0].before.flops if done else 1.0
        wanted = 1 - (1 - flops) * number / rounds if number < rounds else flops
        if wanted >= left:  # a round before had to take more, since units leave several at once
            continue
        try:
            one = once(twin, wanted / left)
        except BadInputError as error:
            raise BadInputError(f"round {number} of {rounds}, of what is left then: {error}") from error
        apply_edits(twin, None, one.plan.edits)
        done.append(one)
    first, keeps = done[0], _kept(done)
    plan = Plan([*keeps, *_changes(model, twin, keeps, done)], _records(done, keeps))
    price = None if first.price is None else sum(one.price or 0.0 for one in done)
    return replace(
        first,
        plan=plan,
        after=done[-1].after,
        price=price,
        folds=[fold for one in done for fold in one.folds],
    )


def _kept(done: Sequence["Pruned"]) -> list[Keep]:
    """The units that stay after all rounds, by the numbers that they had before the first."""
    kept: dict[str, Tensor] = {}
    for one in done:
        for edit in one.plan.edits:
            if isinstance(edit, Keep):
                units = torch.tensor(edit.units)
                kept[edit.axis] = kept[edit.axis][units] if edit.axis in kept else units
    return [Keep(name, units.tolist()) for name, units in kept.items()]


def _changes(model: nn.Module, twin: nn.Module, keeps: Sequence[Keep], done: Sequence["Pruned"]) -> list[Add]:
    """What all folds together add to the entries that stay."""
    names = list(dict.fromkeys(e.parameter for one in done for e in one.plan.edits if isinstance(e, Add)))
    places = copy.deepcopy(model)
    for name in names:  # each entry becomes its own number, and the cut leaves those that stay
        entries = places.get_parameter(name)
        numbers = torch.arange(entries.numel(), dtype=torch.float64, device=entries.device)
        entries.data = numbers.view(entries.shape)
    apply_edits(places, None, keeps)
    made = []
    for name in names:
        whole, left = model.get_parameter(name).detach().double(), places.get_parameter(name).detach().long()
        change = torch.zeros_like(whole).flatten()
        change[left.flatten()] = (
            twin.get_parameter(name).detach().double().flatten() - whole.flatten()[left.flatten()]
        )
        made.append(Add(name, change.view(whole.shape).cpu()))
    return made


def _records(done: Sequence["Pruned"], keeps: Sequence[Keep]) -> list[UnitRecord]:
    """One a group of axes: what all rounds did to it, with the scores of the first."""
    sizes: Mapping[str, int] = {keep.axis: len(keep.units) for keep in keeps}
    found = []
    for record in done[0].plan.records:
        parts = [r for one in done for r in one.plan.records if r.unit == record.unit and r.is_change]
        if parts:
            what = parts[0].reason.partition(", ")[2]
            after = sizes[record.unit]
            told = {key: [part.details[key] for part in parts] for key in parts[0].details}
            record = replace(
                record,
                after=after,
                reason=f"cut from {record.before} to {after} in rounds, {what}",
                details={key: None if None in values else sum(values) for key, values in told.items()},
            )
        found.append(record)
    return found
