"""One model in parts: every process holds a share of each parameter and of its moments (FSDP2, ``fully_shard``).

FSDP2 fixes the shapes of what it shards, so a model of other shapes is put together anew from the shares: the functions
here that change shapes return the model to go on with. None of them makes a process hold more than one layer's values
and moments in full, or room for one block, but one in the main process's CPU memory: a gathered state is whole.

All functions but ``without_values`` are collective: every process of the group calls them, in the same order.
"""

import copy
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from compressm_cli.compression import surgery
from compressm_cli.compression.calibration import OnCpu, Statistic
from compressm_cli.compression.method import CheckContext, Edit, Freeze, Mask, Method, Plan
from compressm_cli.distributed import agreement
from compressm_cli.distributed.group import Group
from compressm_cli.distributed.lazy import Reader
from compressm_cli.distributed.parting import collected, parted

_SHARDING = "_sharding"


@dataclass(frozen=True)
class _Sharding:
    """What it takes to shard a model of other shapes in the same way."""

    group: Group
    mesh: DeviceMesh
    skeleton: nn.Module
    """The plain model, of the shapes it has now, on the meta device."""

    def parted(self, whole: Tensor) -> DTensor:
        """This process's part of the main one's tensor."""
        return parted(whole, self.group, self.mesh)

    def same(self, buffer: Tensor) -> Tensor:
        """The main process's, of which each process has a copy."""
        value = torch.empty_like(buffer, device=self.mesh.device_type)
        if self.group.is_main:
            value.copy_(buffer)
        dist.broadcast(value, src=0)
        return value


@dataclass
class _Share:
    """This process's share of a model and of its optimizer, apart from any module, by names of parameters."""

    skeleton: nn.Module
    parameters: dict[str, DTensor]
    buffers: dict[str, Tensor]
    masks: dict[str, DTensor]
    groups: list[list[str]] | None
    """Which parameters are in each of the optimizer's groups; None without an optimizer."""
    moments: dict[str, dict[str, Tensor]]


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
    sharding = _Sharding(group, mesh, _copied(model, {}, {}))
    share = _Share(
        skeleton=sharding.skeleton,
        parameters={name: sharding.parted(p) for name, p in model.named_parameters()},
        buffers={name: sharding.same(b) for name, b in model.named_buffers()},
        masks={name: sharding.parted(mask) for name, mask in surgery.masks(model).items()},
        groups=None,
        moments={},
    )
    return _assembled(share, sharding).train(model.training)


def without_values(model: nn.Module) -> nn.Module:
    """A plain copy of a sharded model on the meta device: its names and shapes, to count parameters and FLOPs of."""
    return _copied(_sharding(model).skeleton, {}, {})


@torch.no_grad()
def apply_plan(model: nn.Module, optimizer: Optimizer | None, plan: Plan) -> nn.Module:
    """``surgery.apply_plan`` on the sharded model, a layer at a time; returns the model to go on with.

    Every process gathers the layer and its moments, cuts them on its CPU, where the plan's tensors are, and keeps its
    share of what the main one got. The optimizer, changed in place, belongs to the returned model then. Raises
    ValueError in all processes, with nothing changed, where the plan gives non-finite parameters.
    """
    sharding = _sharding(model)
    share = _taken(model, optimizer)
    for edit in plan.edits:
        share = _edited(share, edit, sharding)
    return _replaced(model, optimizer, share)


def plan(method: Method, model: nn.Module, context: CheckContext) -> Plan:
    """What ``method`` decides in the main process, in all of them; its memory and random state go round too.

    The method reads a plain model on the main process's CPU, where its statistics are too. In memory are the parameters
    of a state space layer, or another module's, from when they are looked at until those of another one are: never more
    of the model than that, beside its buffers and masks. The layers' inputs come from forward passes of the sharded
    model, in which all processes take part, all with the same rows; meanwhile a statistic may look at its own layer
    alone. Where the method fails, the others raise ElsewhereError.
    """
    group, share = _sharding(model).group, _taken(model, None)
    masks = {name: collected(mask, group) for name, mask in share.masks.items()}
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
        here = {name: _now(model, name) for name in names}
        if not any(isinstance(p, DTensor) for p in here.values()):
            return {name: p.detach().cpu().clone() for name, p in here.items()}
        if in_passes:
            raise RuntimeError(f"{names[0]} is looked at while the inputs of another layer are shown")
        group.broadcast(names)
        return gather(names)

    def gather(names: list[str]) -> dict[str, Tensor]:
        return {name: collected(share.parameters[name], group) for name in names}

    def decide() -> Plan:
        plain = _copied(share.skeleton, {}, {name: b.cpu() for name, b in share.buffers.items()})
        surgery.restore_constraints(plain, {}, surgery.frozen(share.skeleton))
        surgery.masks(plain).update(masks)
        Reader(plain.train(model.training), fetch)
        try:
            decided = method.plan(plain, replace(context, calibrate=calibrate))
        except Exception:
            group.broadcast(None)
            raise
        group.broadcast(None)
        return decided

    if not group.is_main:
        while (asked := group.broadcast(None)) is not None:
            context.calibrate({}, asked) if isinstance(asked, int) else gather(asked)
    decided = group.from_main(decide)
    method.load_state_dict(group.broadcast(method.state_dict()))
    context.generator.set_state(group.broadcast(context.generator.get_state()))
    return decided


@torch.no_grad()
def gather_state(model: nn.Module, optimizer: Optimizer | None) -> dict[str, Any] | None:
    """Weights, masks, frozen parameters and optimizer state as of the plain model, a tensor at a time.

    In the main process a dictionary of full tensors on the CPU, with the names and the order of a model in one
    process; None in the others. The random state is each process's own, and not in it.
    """
    share = _taken(model, optimizer)
    group = _sharding(model).group
    saved = None if optimizer is None else optimizer.state_dict()
    state = {
        "weights": {name: collected(value, group) for name, value in model.state_dict().items()},
        "masks": {name: collected(mask, group) for name, mask in share.masks.items()},
        "frozen": surgery.frozen(share.skeleton),
        "optimizer": saved
        and {
            "state": {
                i: {key: collected(value, group) for key, value in values.items()}
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
    sharding = _sharding(model)
    given = state or {}
    outline: dict[str, Any] = sharding.group.broadcast(surgery.outlined(given))
    skeleton, shadow = _plain(_taken(model, optimizer), [])
    surgery.resize(skeleton, shadow, outline["weights"])
    surgery.restore_constraints(skeleton, {}, outline["frozen"])
    tensors = [name for name, _ in skeleton.named_parameters()]
    weights = _received({name: outline["weights"][name] for name in tensors}, given.get("weights"), sharding)
    share = _Share(
        skeleton=_copied(skeleton, {}, {}),
        parameters=weights,
        buffers={
            name: sharding.same(given["weights"][name] if given else outline["weights"][name])
            for name, _ in skeleton.named_buffers()
        },
        masks=_received(outline["masks"], given.get("masks"), sharding),
        groups=_names_of_groups(skeleton, shadow),
        moments={},
    )
    new = _replaced(model, optimizer, share)
    saved, moments = outline["optimizer"], given.get("optimizer", {}).get("state", {})
    received = {i: _received(like, moments.get(i), sharding) for i, like in saved["state"].items()}
    optimizer.load_state_dict({"state": received, "param_groups": saved["param_groups"]})
    return new


@torch.no_grad()
def checksum(model: nn.Module, optimizer: Optimizer) -> str:
    """What ``agreement.checksum`` gives of the plain model with the same values, gathered a tensor at a time."""
    _reshard(model)
    return agreement.checksum(model, optimizer)


# ---- shares ------------------------------------------------------------------------------------------------


def _sharding(model: nn.Module) -> _Sharding:
    sharding = getattr(model, _SHARDING, None)
    if not isinstance(sharding, _Sharding):
        raise ValueError("the model is not sharded; give what shard(model, group) returned")
    return sharding


def _full(value: Tensor) -> Tensor:
    return agreement.gathered(value.detach())


def _received(outline: dict[Any, Tensor], values: Any, sharding: _Sharding) -> dict[Any, Any]:
    """This process's parts of the main one's ``values``; numbers are in their ``outline`` already."""
    device = sharding.mesh.device_type

    def received(key: Any, like: Tensor) -> Tensor:
        if not like.ndim:
            return like.to(device, copy=True)
        return sharding.parted(values[key] if sharding.group.is_main else like)

    return {key: received(key, like) for key, like in outline.items()}


def _now(model: nn.Module, name: str) -> Tensor:
    """A parameter as it is in the model now: this process's part of it, or all of it, gathered for a pass."""
    place, _, leaf = name.rpartition(".")
    value = model.get_submodule(place)._parameters[leaf]
    assert value is not None
    return value


def _reshard(model: nn.Module) -> None:
    """Put the shares back in place of what an evaluation has gathered and left so."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def _taken(model: nn.Module, optimizer: Optimizer | None) -> _Share:
    """The shares of a model and its optimizer as they are; the buffers are the main process's."""
    sharding = _sharding(model)
    _reshard(model)
    _follow_main(model.buffers())
    names = {id(p): name for name, p in model.named_parameters()}
    state = {} if optimizer is None else optimizer.state
    skeleton = _copied(sharding.skeleton, {}, {})
    surgery.restore_constraints(skeleton, {}, surgery.frozen(model))
    return _Share(
        skeleton=skeleton,
        parameters={name: p.detach() for name, p in model.named_parameters()},  # type: ignore[misc]
        buffers=dict(model.named_buffers()),
        masks=dict(surgery.masks(model)),  # type: ignore[arg-type]
        groups=_names_of_groups(model, optimizer),
        moments={names[id(p)]: values for p, values in state.items()},
    )


def _names_of_groups(model: nn.Module, optimizer: Optimizer | None) -> list[list[str]] | None:
    if optimizer is None:
        return None
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _follow_main(buffers: Iterable[Tensor]) -> None:
    for buffer in buffers:
        dist.broadcast(buffer, src=0)


# ---- edits -------------------------------------------------------------------------------------------------


def _edited(share: _Share, edit: Edit, sharding: _Sharding) -> _Share:
    """The share after one edit, for which what it touches is gathered."""
    plain, shadow = _plain(share, _touched(share, edit))
    failure = None
    try:
        surgery.apply_plan(plain, shadow, Plan([edit]))
    except ValueError as error:
        failure = str(error)
    if failures := [told for told in sharding.group.gather(failure) if told is not None]:
        raise ValueError(failures[0])
    return _shared_out(plain, shadow, share, sharding)


def _touched(share: _Share, edit: Edit) -> list[str]:
    """Names of the parameters that an edit reads or changes the values of, in one order in all processes."""
    if isinstance(edit, Freeze):
        return []
    if isinstance(edit, Mask):
        return [edit.parameter]
    return [name for name in share.parameters if name.startswith(f"{edit.layer}.")]


def _plain(share: _Share, names: list[str]) -> tuple[nn.Module, Optimizer | None]:
    """A plain model and optimizer on the CPU, with values, moments and masks of the named parameters alone."""
    values = {name: _full(share.parameters[name]).cpu() for name in names}
    plain = _copied(share.skeleton, values, {name: b.cpu() for name, b in share.buffers.items()})
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


def _shared_out(plain: nn.Module, shadow: Optimizer | None, share: _Share, sharding: _Sharding) -> _Share:
    """The share of a plain model: parts of the tensors it has values of, and as before of the others."""

    def parted(value: Tensor, before: Tensor) -> Tensor:
        return sharding.parted(value) if value.ndim else value.to(before.device)

    parameters, moments = {}, {}
    for name, p in plain.named_parameters():
        before = share.moments.get(name, {})
        if p.is_meta:
            parameters[name], state = share.parameters[name], before
        else:
            parameters[name] = sharding.parted(p)
            found = {} if shadow is None else shadow.state.get(p, {})
            state = {key: parted(value, before[key]) for key, value in found.items()}
        if state:
            moments[name] = state
    return _Share(
        skeleton=_copied(plain, {}, {}),
        parameters=parameters,
        buffers={name: b.to(sharding.mesh.device_type) for name, b in plain.named_buffers()},
        masks={
            name: share.masks[name] if mask.is_meta else sharding.parted(mask)
            for name, mask in surgery.masks(plain).items()
        },
        groups=_names_of_groups(plain, shadow),
        moments=moments,
    )


# ---- modules -----------------------------------------------------------------------------------------------


def _copied(
    module: nn.Module,
    values: dict[str, Tensor],
    buffers: dict[str, Tensor],
    done: dict[nn.Module, nn.Module] | None = None,
) -> nn.Module:
    """A copy of a plain module with other values and without masks; what is given none is on the meta device.

    ``done`` are copies of some of its parts, to be taken as they are.
    """
    # Tensors are handed to deepcopy as if copied already, so that no second set of them ever exists.
    twins: dict[int, Any] = {id(part): twin for part, twin in (done or {}).items()}
    for name, p in module.named_parameters():
        value = values.get(name, torch.empty(p.shape, dtype=p.dtype, device="meta"))
        twins[id(p)] = nn.Parameter(value, requires_grad=p.requires_grad)
    for name, b in module.named_buffers():
        twins[id(b)] = buffers.get(name, torch.empty_like(b, device="meta"))
    masks = surgery.masks(module)
    twins[id(masks)] = {}
    return copy.deepcopy(module, twins)


def _assembled(share: _Share, sharding: _Sharding) -> nn.Module:
    """A sharded model of the shares, in training mode as the skeleton is."""
    blocks: dict[nn.Module, nn.Module] = {}
    for name, block in share.skeleton.get_submodule("blocks").named_children():
        blocks[block] = _sharded(block, f"blocks.{name}.", share, sharding, {})
        if sharding.mesh.device_type == "cpu":
            blocks[block].get_submodule("layer").register_forward_pre_hook(_lend_copies)
    model = _sharded(share.skeleton, "", share, sharding, blocks)
    surgery.restore_constraints(model, dict(share.masks), surgery.frozen(share.skeleton))
    if any(b.is_floating_point() for b in model.buffers()):
        # Statistics of batches: as with DistributedDataParallel, all go on from the main process's.
        model.register_forward_pre_hook(lambda module, _: _follow_main(module.buffers()))
    setattr(model, _SHARDING, replace(sharding, skeleton=share.skeleton))
    return model


def _sharded(
    module: nn.Module, prefix: str, share: _Share, sharding: _Sharding, done: dict[nn.Module, nn.Module]
) -> nn.Module:
    """A part of the skeleton with the values of the share, sharded; ``done`` are its parts that are so already."""
    elsewhere = {id(p) for part in done for p in part.parameters()}
    device = sharding.mesh.device_type
    empty = {
        name: torch.empty_like(p, device=device)
        for name, p in module.named_parameters()
        if id(p) not in elsewhere
    }
    buffers = {name: share.buffers[prefix + name] for name, _ in module.named_buffers()}
    twin = _copied(module, empty, buffers, done)
    fully_shard(twin, mesh=sharding.mesh)
    for name in empty:
        part = twin.get_parameter(name)
        assert isinstance(part, DTensor)
        part.to_local().copy_(share.parameters[prefix + name].to_local())
    return twin


def _lend_copies(layer: nn.Module, _: Any) -> None:
    """Let a layer compute with copies of its gathered parameters; FSDP2 takes them away again after the block.

    Our CPU kernels look at tensors through NumPy. PyTorch no longer resizes memory that NumPy has seen, and that is
    how FSDP2 frees gathered parameters.
    """
    for module in layer.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = parameter.clone()  # type: ignore[assignment]


def _replaced(model: nn.Module, optimizer: Optimizer | None, share: _Share) -> nn.Module:
    """The model put together anew from a share, in place of another one in the optimizer, too."""
    new = _assembled(share, _sharding(model)).train(model.training)
    if optimizer is not None:
        named = dict(new.named_parameters())
        assert share.groups is not None
        for group, names in zip(optimizer.param_groups, share.groups, strict=True):
            group["params"] = [named[name] for name in names]
        optimizer.state.clear()
        optimizer.state.update({named[name]: values for name, values in share.moments.items()})
    return new
