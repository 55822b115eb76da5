"""One model in parts: every process holds a share of each parameter and of its moments (FSDP2, ``fully_shard``).

FSDP2 fixes the shapes of what it shards, so a model of other shapes is put together anew from the shares: the functions
here that change shapes return the model to go on with. None of them makes a process hold more than one layer's values
and moments in full, or room for one block, but one in the main process's CPU memory: a gathered state is whole.

All functions but ``without_values`` are collective: every process of the group calls them, in the same order.
"""

import copy
import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from compressm_cli.core.outlines import attach_outline
from compressm_cli.engine.distributed import agreement
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.distributed.lazy import Reader
from compressm_cli.engine.distributed.scattering import gathered
from compressm_cli.engine.distributed.shares import (
    Sharding,
    Share,
    assembled,
    copied,
    names_of_groups,
    parameter_now,
    replaced,
    reshard,
    sharding_of,
    taken,
)
from compressm_cli.methods.calibration import OnCpu, Statistic
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.structure import surgery
from compressm_cli.structure.draft import Draft
from compressm_cli.structure.edits import Edit, Keep, Park, Wake
from compressm_cli.structure.masks import masks_of, own_buffers, set_mask
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.plan import Plan


@torch.no_grad()
def shard(model: nn.Module, group: Group, mesh: DeviceMesh | None = None) -> nn.Module:
    """A sharded copy of a plain ``SequenceModel``, with the main process's values; the plain one can be dropped.

    In the other processes the plain one need not have memory. All of them get their parts, a tensor at a time.
    Each block is sharded by itself, then what is left. ``mesh`` (one axis) is by default one of the whole group on
    the model's kind of device. Everything is in the model's own precision; bfloat16 is autocast's, as in one process:
    a mixed-precision policy of FSDP2 would round the poles.
    """
    # What a block returns may be a view; nobody changes it in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    mesh = mesh or init_device_mesh(group.broadcast(next(model.parameters()).device.type), (group.size,))
    sharding = Sharding(group, mesh, copied(model, {}, {}))
    share = Share(
        skeleton=sharding.skeleton,
        parameters={name: sharding.scattered(p) for name, p in model.named_parameters()},
        buffers={name: sharding.same(b) for name, b in own_buffers(model).items()},
        masks={name: sharding.scattered(mask) for name, mask in masks_of(model).items()},
        groups=None,
        moments={},
    )
    return assembled(share, sharding).train(model.training)


def without_values(model: nn.Module) -> nn.Module:
    """A plain copy of a sharded model on the meta device: its names and shapes, to count parameters and FLOPs of."""
    return copied(sharding_of(model).skeleton, {}, {})


@torch.no_grad()
def apply_plan(model: nn.Module, optimizer: Optimizer | None, plan: Plan) -> nn.Module:
    """``surgery.apply_plan`` on the sharded model, a layer at a time; returns the model to go on with.

    Every process gathers the layer and its moments, cuts them on its CPU, where the plan's tensors are, and keeps its
    share of what the main one got. The optimizer, changed in place, belongs to the returned model then. Raises
    ValueError in all processes, with nothing changed, where the plan gives non-finite parameters.
    """
    sharding = sharding_of(model)
    share = taken(model, optimizer)
    for edit in plan.edits:
        share = _edited(share, edit, sharding)
    return replaced(model, optimizer, share)


def plan(method: Method, model: nn.Module, context: CheckContext) -> Plan:
    """What ``method`` decides in the main process, in all of them; its memory and random state go round too.

    The method reads a plain model on the main process's CPU, where its statistics are too. In memory are the parameters
    of a state space layer, or another module's, from when they are looked at until those of another one are: never more
    of the model than that, beside its buffers and masks. The layers' inputs come from forward passes of the sharded
    model, in which all processes take part, all with the same rows; meanwhile a statistic may look at its own layer
    alone. Where the method fails, the others raise ElsewhereError.
    """
    group, share = sharding_of(model).group, taken(model, None)
    masks = {name: gathered(mask, group) for name, mask in share.masks.items()}
    in_passes = False

    def calibrate(statistics: Mapping[str, Statistic], batches: int) -> None:
        nonlocal in_passes
        group.broadcast(batches)
        shown, in_passes = {name: OnCpu(statistic) for name, statistic in statistics.items()}, True
        try:
            context.calibrate(shown, batches)
        except Exception as error:
            if any(error is statistic.failure for statistic in shown.values()):
                raise  # when all passes were through
            with group.watched():  # the others are in the middle of one
                raise
        finally:
            in_passes = False

    def fetch(names: list[str]) -> dict[str, Tensor]:
        """To the main process's CPU; from all of them, unless the pass under way has just gathered them here."""
        here = {name: parameter_now(model, name) for name in names}
        if not any(isinstance(p, DTensor) for p in here.values()):
            return {name: p.detach().cpu().clone() for name, p in here.items()}
        if in_passes:
            raise RuntimeError(f"{names[0]} is looked at while the inputs of another layer are shown")
        group.broadcast(names)
        return gather(names)

    def gather(names: list[str]) -> dict[str, Tensor]:
        return {name: gathered(share.parameters[name], group) for name in names}

    def decide() -> Plan:
        plain = copied(share.skeleton, {}, {name: b.cpu() for name, b in share.buffers.items()})
        surgery.restore_constraints(plain, {}, surgery.frozen(share.skeleton))
        for name, mask in masks.items():  # which are read without their parameters
            set_mask(plain, name, mask)
        Reader(plain.train(model.training), fetch)
        attach_outline(plain, share.skeleton)
        try:
            decided = ask(method, Method.plan, plain, replace(context, calibrate=calibrate))
        except Exception:
            group.broadcast(None)
            raise
        group.broadcast(None)
        return decided

    if not group.is_main:
        while (asked := group.broadcast(None)) is not None:
            context.calibrate({}, asked) if isinstance(asked, int) else gather(asked)
    decided = group.from_main(decide)
    agreement.share_memory(method, context.generator, group)
    return decided


@torch.no_grad()
def gather_state(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any] | None:
    """Weights, masks, frozen parameters and optimizer state as of the plain model, a tensor at a time.

    In the main process a dictionary of full tensors on the CPU, with the names and the order of a model in one
    process; None in the others. The random state is each process's own, and not in it.
    """
    share = taken(model, optimizer)
    group = sharding_of(model).group
    saved = None if optimizer is None else optimizer.state_dict()
    state = {
        "weights": {name: gathered(value, group) for name, value in model.state_dict().items()},
        "masks": {name: gathered(mask, group) for name, mask in share.masks.items()},
        "frozen": surgery.frozen(share.skeleton),
        "sizes": surgery.sizes(share.skeleton),
        "parked": None,
        "parameters": [],
        "optimizer": saved
        and {
            "state": {
                i: {key: gathered(value, group) for key, value in values.items()}
                for i, values in saved["state"].items()
            },
            "param_groups": copy.deepcopy(saved["param_groups"]),
        },
    }
    return state if group.is_main else None


@torch.no_grad()
def scatter_state(model: nn.Module, optimizer: Optimizer, state: dict[str, Any] | None) -> nn.Module:
    """Put back what ``gather_state`` gave, shapes included; returns the model to go on with.

    Only the main process's ``state`` counts. The optimizer, changed in place, belongs to the returned model then.
    """
    sharding = sharding_of(model)
    given = state or {}
    outline: dict[str, Any] = sharding.group.broadcast(surgery.outlined(given))
    skeleton, shadow = _plain(taken(model, optimizer), [])
    surgery.resize(skeleton, shadow, outline["weights"])
    surgery.restore_constraints(skeleton, {}, outline["frozen"])
    tensors = [name for name, _ in skeleton.named_parameters()]
    weights = _received({name: outline["weights"][name] for name in tensors}, given.get("weights"), sharding)
    share = Share(
        skeleton=copied(skeleton, {}, {}),
        parameters=weights,
        buffers={
            name: sharding.same(given["weights"][name] if given else outline["weights"][name])
            for name in own_buffers(skeleton)
        },
        masks=_received(outline["masks"], given.get("masks"), sharding),
        groups=names_of_groups(skeleton, shadow),
        moments={},
    )
    new = replaced(model, optimizer, share)
    saved, moments = outline["optimizer"], given.get("optimizer", {}).get("state", {})
    received = {i: _received(like, moments.get(i), sharding) for i, like in saved["state"].items()}
    optimizer.load_state_dict({"state": received, "param_groups": saved["param_groups"]})
    return new


@torch.no_grad()
def checksum(model: nn.Module, optimizer: Optimizer) -> str:
    """What ``agreement.checksum`` gives of the plain model with the same values, gathered a tensor at a time."""
    reshard(model)
    return agreement.checksum(model, optimizer)


# ---- shares ------------------------------------------------------------------------------------------------


def _full(value: Tensor) -> Tensor:
    return agreement.gathered(value.detach())


def _received(outline: dict[Any, Tensor], values: Any, sharding: Sharding) -> dict[Any, Any]:
    """This process's parts of the main one's ``values``; numbers are in their ``outline`` already."""
    device = sharding.mesh.device_type

    def received(key: Any, like: Tensor) -> Tensor:
        if not like.ndim:
            return like.to(device, copy=True)
        return sharding.scattered(values[key] if sharding.group.is_main else like)

    return {key: received(key, like) for key, like in outline.items()}


# ---- edits -------------------------------------------------------------------------------------------------


def _edited(share: Share, edit: Edit, sharding: Sharding) -> Share:
    """The share after one edit, for which what it touches is gathered."""
    plain, shadow = _plain(share, _touched(share, edit))
    failure = None
    try:
        surgery.apply_edits(plain, shadow, [edit])
    except ValueError as error:
        failure = str(error)
    if failures := [told for told in sharding.group.gather(failure) if told is not None]:
        raise ValueError(failures[0])
    return _shared_out(plain, shadow, share, sharding)


def _touched(share: Share, edit: Edit) -> list[str]:
    """Names of the parameters that an edit reads or changes the values of, in one order in all processes.

    Raises ValueError for an edit that does not fit the model.
    """
    if isinstance(edit, Park | Wake):
        raise ValueError(
            f"{edit}: units of a model in parts (train.parallel: fsdp) cannot be parked; write ddp"
        )
    draft = Draft(share.skeleton, None)
    leaves = isinstance(edit, Keep) and any(axis.modules for axis in draft.structure.together(edit.axis))
    if leaves or isinstance(edit, Insert | Replace):
        raise ValueError(
            f"{edit}: a model in parts (train.parallel: fsdp) cannot lose or gain modules; write ddp"
        )
    names = {draft.canonical(name) for name in edit.touched(draft)}
    return [name for name in share.parameters if name in names]


def _plain(share: Share, names: list[str]) -> tuple[nn.Module, Optimizer | None]:
    """A plain model and optimizer on the CPU, with values, moments and masks of the named parameters alone."""
    values = {name: _full(share.parameters[name]).cpu() for name in names}
    plain = copied(share.skeleton, values, {name: b.cpu() for name, b in share.buffers.items()})
    masks = {
        name: _full(mask).cpu() if name in names else torch.empty(mask.shape, dtype=mask.dtype, device="meta")
        for name, mask in share.masks.items()
    }
    surgery.restore_constraints(plain, masks, surgery.frozen(share.skeleton))
    if share.groups is None:
        return plain, None
    named = dict(plain.named_parameters())
    # Surgery needs no more of an optimizer than its groups and its state.
    shadow = Optimizer([{"params": [named[name] for name in group]} for group in share.groups], {})
    for name in names:
        if name in share.moments:
            shadow.state[named[name]] = {k: _full(v).cpu() for k, v in share.moments[name].items()}
    return plain, shadow


def _shared_out(plain: nn.Module, shadow: Optimizer | None, share: Share, sharding: Sharding) -> Share:
    """The share of a plain model: parts of the tensors it has values of, and as before of the others."""

    def scattered(value: Tensor, before: Tensor) -> Tensor:
        return sharding.scattered(value) if value.ndim else value.to(before.device)

    parameters, moments = {}, {}
    for name, p in plain.named_parameters():
        before = share.moments.get(name, {})
        if p.is_meta:
            parameters[name], state = share.parameters[name], before
        else:
            parameters[name] = sharding.scattered(p)
            found = {} if shadow is None else shadow.state.get(p, {})
            state = {key: scattered(value, before[key]) for key, value in found.items()}
        if state:
            moments[name] = state
    return Share(
        skeleton=copied(plain, {}, {}),
        parameters=parameters,
        buffers={name: b.to(sharding.mesh.device_type) for name, b in own_buffers(plain).items()},
        masks={
            name: share.masks[name] if mask.is_meta else sharding.scattered(mask)
            for name, mask in masks_of(plain).items()
        },
        groups=names_of_groups(plain, shadow),
        moments=moments,
    )
