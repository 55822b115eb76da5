"""One copy of the model a process, trained with DistributedDataParallel."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compressm_cli.engine.distributed.group import Group


def replicated(model: nn.Module, group: Group, device: torch.device) -> nn.Module:
    """The model, wrapped so that a backward pass averages the gradients over the processes.

    To be wrapped anew after each change of its parameters or of what is trained. Alone, the model itself.
    """
    if group.is_alone:
        return model
    if device.type == "cuda":
        devices = [torch.cuda.current_device()]
        return DistributedDataParallel(model, device_ids=devices, gradient_as_bucket_view=True)
    # After its first pass a wrapper puts the gradients into another order, and with it that of sums over more than
    # two processes: a resumed run would differ from an undisturbed one in the last bits. It does not with this flag.
    return DistributedDataParallel(_Beside(model), find_unused_parameters=True, gradient_as_bucket_view=True)


class _Beside(nn.Module):
    """A model beside a parameter that no pass uses: without one, each process warns that the flag is needless."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, inputs: Tensor, lengths: Tensor | None) -> Tensor:
        logits: Tensor = self.model(inputs, lengths)
        return logits


def without_exchange(forward: object) -> AbstractContextManager[None]:
    """The context of a pass after which another one follows before the gradients are averaged."""
    inner = getattr(forward, "_orig_mod", forward)  # of a compiled one
    return inner.no_sync() if isinstance(inner, DistributedDataParallel) else nullcontext()
