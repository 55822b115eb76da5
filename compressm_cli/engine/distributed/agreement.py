"""That all processes of a run have the same model: made so after each change of it, and confirmed by a checksum."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.core.errors import RunFailedError
from compressm_cli.engine.distributed.group import Group
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.optimizers import method_parameters
from compressm_cli.structure.store import parked_units


def state_tensors(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and optimizer state with their names, in one order in every process; a method's own, too."""
    yield from model.state_dict().items()
    own = [(f"parameter {i} of the method", p) for i, p in enumerate(method_parameters(optimizer))]
    yield from own
    for name, parameter in [*model.named_parameters(), *own]:
        for key, value in sorted(optimizer.state.get(parameter, {}).items()):
            if isinstance(value, Tensor):
                yield f"{name}: {key}", value


@torch.no_grad()
def synchronize(model: nn.Module, optimizer: Optimizer, group: Group) -> None:
    """Give every process the main one's parameters, buffers, masks, optimizer state and parked units, of equal shapes.

    A cut is computed from the same plan everywhere, but processors differ in the last bits of a product.
    """
    if not group.is_alone:
        parked = parked_units(model).tensors()
        known = (*dict(state_tensors(model, optimizer)).values(), *masks_of(model).values(), *parked)
        for tensor in known:
            dist.broadcast(tensor, src=0)


def share_memory(method: Method, generator: torch.Generator, group: Group) -> None:
    """Give every process what the main one's method remembers, and its random numbers to come, after it has decided."""
    if not group.is_alone:
        known = (ask(method, Method.state_dict), generator.get_state()) if group.is_main else None
        known = group.broadcast(known)
        if not group.is_main and known is not None:
            ask(method, Method.load_state_dict, known[0])
            generator.set_state(known[1])


def is_part(tensor: Tensor) -> bool:
    """Whether each process has a part of it: a DTensor, whose import takes long."""
    return hasattr(tensor, "full_tensor")


def gathered(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process has a part; another one as it is."""
    return tensor.full_tensor() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def own_part(tensor: Tensor) -> Tensor:
    """What this process has of a tensor, which may have no entries; another one as it is."""
    return tensor.to_local() if is_part(tensor) else tensor  # type: ignore[attr-defined]


def in_any(flag: Tensor, tensors: Iterable[Tensor]) -> Tensor:
    """Whether ``flag`` is true in any process, where they have parts of one of these tensors; else as it is."""
    if not any(map(is_part, tensors)):
        return flag
    flags = flag.to(torch.int32)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return flags > 0


@torch.no_grad()
def checksum(model: nn.Module, optimizer: Optimizer) -> str:
    """Of names, shapes, types and bits of parameters, buffers and optimizer state; collective for a sharded model."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in state_tensors(model, optimizer):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(gathered(tensor.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def confirm(model: nn.Module, optimizer: Optimizer, group: Group, when: str) -> str:
    """The checksum that all processes have; RunFailedError where they do not have the same."""
    sums = group.gather(checksum(model, optimizer))
    return str(_same(sums, f"the weights or the optimizer's state {when}"))


def agreed(value: Any, group: Group, what: str) -> Any:
    """A value that all processes must have come to; RunFailedError where they have not."""
    return _same(group.gather(value), what)


def _same(values: list[Any], what: str) -> Any:
    other = next((rank for rank, value in enumerate(values) if value != values[0]), None)
    if other is not None:
        raise RunFailedError(
            f"process {other} differs from process 0 in {what}; go on from the last checkpoint with "
            "compressm train --resume RUN, with the same versions of everything on each machine"
        )
    return values[0]


class Vote:
    """Whether any process asks for something, told a step late so that none waits for the others."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._pending: tuple[dist.Work, Tensor] | None = None
        self.amounts: list[list[int]] | None = None
        """What each process told at the call before; None where nothing was told yet."""

    def __call__(self, asked: int, told: Sequence[int] = ()) -> int:
        """Ask with a number above zero; returns the largest that anybody asked with at the call before.

        ``told`` are numbers of at least zero, as many in each process, which the others learn in the same way.
        """
        if self._group.is_alone:
            self.amounts = [list(told)]
            return asked
        earlier = self._take()
        place = self._group.rank * len(told)
        flag = torch.zeros(1 + self._group.size * len(told), dtype=torch.int64)
        flag[0] = asked
        flag[1 + place : 1 + place + len(told)] = torch.tensor(told, dtype=torch.int64)
        work = dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
        self._pending = (work, flag)
        return earlier

    def now(self, asked: int) -> int:
        """The largest number that anybody asks with at this call; waits for the others."""
        if self._group.is_alone:
            return asked
        return max(self._take(), *self._group.gather(asked))

    def _take(self) -> int:
        if self._pending is None:
            return 0
        work, flag = self._pending
        work.wait()
        self._pending = None
        asked, *amounts = flag.tolist()
        if amounts:
            count = len(amounts) // self._group.size
            self.amounts = [amounts[i : i + count] for i in range(0, len(amounts), count)]
        return int(asked)
