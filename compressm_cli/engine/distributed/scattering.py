"""Tensors of which each process has a part, as FSDP2 parts them: consecutive rows, the same number but for the last."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from compressm_cli.engine.distributed.group import Group


@torch.no_grad()
def scattered(whole: Tensor, group: Group, mesh: DeviceMesh) -> DTensor:
    """This process's part of the main one's tensor; in the others ``whole`` tells shape and type alone. Collective.

    No other process ever has room for more than its part.
    """
    rows, each = len(whole), _rows_of_a_part(whole, group)
    part = torch.empty(each, *whole.shape[1:], dtype=whole.dtype, device=mesh.device_type)
    pieces = None
    if group.is_main:
        full = whole.detach().to(mesh.device_type).contiguous()
        pieces = [_padded(full[i * each : (i + 1) * each], each) for i in range(group.size)]
    dist.scatter(part, pieces, src=0)
    own = max(0, min(each, rows - group.rank * each))
    local = part if own == each else part[:own].clone()
    like = torch.empty(whole.shape, device="meta")
    return DTensor.from_local(
        local, mesh, [Shard(0)], run_check=False, shape=like.shape, stride=like.stride()
    )


@torch.no_grad()
def gathered(value: Any, group: Group) -> Any:
    """A whole tensor on the CPU in the main process, None in the others; what is no tensor as it is. Collective."""
    if not isinstance(value, Tensor):
        return value
    if not isinstance(value, DTensor):
        return value.detach().cpu().clone() if group.is_main else None
    local, each = value.to_local().detach(), _rows_of_a_part(value, group)
    pieces = None
    if group.is_main:
        pieces = [local.new_empty(each, *local.shape[1:]) for _ in range(group.size)]
    dist.gather(_padded(local, each), pieces, dst=0)
    return None if pieces is None else torch.cat([piece.cpu() for piece in pieces])[: len(value)].clone()


def _rows_of_a_part(whole: Tensor, group: Group) -> int:
    return -(-len(whole) // group.size)


def _padded(part: Tensor, rows: int) -> Tensor:
    """The part with rows added that mean nothing, up to so many; all parts are sent alike."""
    part = part.contiguous()
    if len(part) == rows:
        return part
    return torch.cat([part, part.new_zeros(rows - len(part), *part.shape[1:])])
