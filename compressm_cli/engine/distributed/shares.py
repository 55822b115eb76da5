"""This process's part of a model and of its optimizer, as a module and apart from any (FSDP2, ``fully_shard``).

FSDP2 fixes the shapes of what it shards: a model of other shapes is put together anew from parts.
"""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.distributed.scattering import scattered
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.models import blocks_of
from compressm_cli.structure import surgery
from compressm_cli.structure.masks import masks_of, own_buffers, set_masks

_SHARDING = "_sharding"


@dataclass(frozen=True)
class Sharding:
    """What it takes to shard a model of other shapes in the same way."""

    group: Group
    mesh: DeviceMesh
    skeleton: nn.Module
    """The plain model, of the shapes it has now, on the meta device."""

    def scattered(self, whole: Tensor) -> DTensor:
        """This process's part of the main one's tensor."""
        return scattered(whole, self.group, self.mesh)

    def same(self, buffer: Tensor) -> Tensor:
        """The main process's, of which each process has a copy."""
        value = torch.empty_like(buffer, device=self.mesh.device_type)
        if self.group.is_main:
            value.copy_(buffer)
        dist.broadcast(value, src=0)
        return value


@dataclass
class Share:
    """This process's share of a model and of its optimizer, apart from any module, by names of parameters."""

    skeleton: nn.Module
    parameters: dict[str, DTensor]
    buffers: dict[str, Tensor]
    masks: dict[str, DTensor]
    groups: list[list[str]] | None
    """Which parameters are in each of the optimizer's groups; None without an optimizer."""
    moments: dict[str, dict[str, Tensor]]


def sharding_of(model: nn.Module) -> Sharding:
    """How a model was sharded; ValueError for one that was not."""
    sharding = getattr(model, _SHARDING, None)
    if not isinstance(sharding, Sharding):
        raise ValueError("the model is not sharded; give what shard(model, group) returned")
    return sharding


def parameter_now(model: nn.Module, name: str) -> Tensor:
    """A parameter as it is in the model now: this process's part of it, or all of it, gathered for a pass."""
    place, _, leaf = name.rpartition(".")
    value = model.get_submodule(place)._parameters[leaf]
    assert value is not None
    return value


def reshard(model: nn.Module) -> None:
    """Put the shares back in place of what an evaluation has gathered and left so."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def taken(model: nn.Module, optimizer: Optimizer | None) -> Share:
    """The shares of a model and its optimizer as they are; the buffers are the main process's."""
    sharding = sharding_of(model)
    reshard(model)
    _follow_main(own_buffers(model).values())
    names = {id(p): name for name, p in model.named_parameters()}
    state = {} if optimizer is None else optimizer.state
    skeleton = copied(sharding.skeleton, {}, {})
    surgery.restore_constraints(skeleton, {}, surgery.frozen(model))
    return Share(
        skeleton=skeleton,
        parameters={name: p.detach() for name, p in model.named_parameters()},  # type: ignore[misc]
        buffers=own_buffers(model),
        masks=dict(masks_of(model)),  # type: ignore[arg-type]
        groups=names_of_groups(model, optimizer),
        moments={names[id(p)]: values for p, values in state.items()},
    )


def names_of_groups(model: nn.Module, optimizer: Optimizer | None) -> list[list[str]] | None:
    """Which of the model's parameters are in each of the optimizer's groups; None without an optimizer."""
    if optimizer is None:
        return None
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def _follow_main(buffers: Iterable[Tensor]) -> None:
    for buffer in buffers:
        dist.broadcast(buffer, src=0)


def copied(
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
        twins[id(b)] = buffers.get(name, torch.empty(b.shape, dtype=b.dtype, device="meta"))
    twin = copy.deepcopy(module, twins)
    set_masks(twin, {})
    return twin


def assembled(share: Share, sharding: Sharding) -> nn.Module:
    """A sharded model of the shares, in training mode as the skeleton is."""
    blocks: dict[nn.Module, nn.Module] = {}
    for name, block in blocks_of(share.skeleton).items():
        blocks[block] = _sharded(block, f"{name}.", share, sharding, {})
    model = _sharded(share.skeleton, "", share, sharding, blocks)
    if sharding.mesh.device_type == "cpu":
        for layer in state_space_layers(model).values():
            layer.register_forward_pre_hook(_lend_copies)
    surgery.restore_constraints(model, dict(share.masks), surgery.frozen(share.skeleton))
    if any(b.is_floating_point() for b in own_buffers(model).values()):
        # Statistics of batches: as with DistributedDataParallel, all go on from the main process's.
        model.register_forward_pre_hook(lambda module, _: _follow_main(own_buffers(module).values()))
    setattr(model, _SHARDING, replace(sharding, skeleton=share.skeleton))
    return model


def _sharded(
    module: nn.Module, prefix: str, share: Share, sharding: Sharding, done: dict[nn.Module, nn.Module]
) -> nn.Module:
    """A part of the skeleton with the values of the share, sharded; ``done`` are its parts that are so already."""
    elsewhere = {id(p) for part in done for p in part.parameters()}
    device = sharding.mesh.device_type
    empty = {
        name: torch.empty_like(p, device=device)
        for name, p in module.named_parameters()
        if id(p) not in elsewhere
    }
    buffers = {name: share.buffers[prefix + name] for name in own_buffers(module)}
    twin = copied(module, empty, buffers, done)
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


def replaced(model: nn.Module, optimizer: Optimizer | None, share: Share) -> nn.Module:
    """The model put together anew from a share, in place of another one in the optimizer, too."""
    new = assembled(share, sharding_of(model)).train(model.training)
    if optimizer is not None:
        named = dict(new.named_parameters())
        assert share.groups is not None
        for group, names in zip(optimizer.param_groups, share.groups, strict=True):
            group["params"] = [named[name] for name in names]
        optimizer.state.clear()
        optimizer.state.update({named[name]: values for name, values in share.moments.items()})
    return new
