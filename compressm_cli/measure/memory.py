"""Peak memory: measured in a run, estimated before one."""

import resource
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from compressm_cli.data.interface import Split
from compressm_cli.measure.probe import inference, on_copy, training_step
from compressm_cli.objectives.objective import Objective


class PeakMemory:
    """Peak memory from ``start`` on: what PyTorch allocated on the GPU, or the process's resident set."""

    def __init__(self, device: torch.device, process: Path = Path("/proc/self")) -> None:
        self._device = device
        self._process = process
        self._reset = False

    def start(self) -> None:
        """Forget earlier peaks, where the system lets us."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        try:
            (self._process / "clear_refs").write_text("5")
            self._reset = self._high_water_mark() is not None
        except OSError:
            self._reset = False

    def result(self) -> dict[str, Any]:
        """``bytes`` and ``kind``, which says what these bytes are and since when."""
        if self._device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(self._device)
            return {"bytes": peak, "kind": "allocated by PyTorch on the GPU"}
        if self._reset and (peak_resident := self._high_water_mark()) is not None:
            return {"bytes": peak_resident, "kind": "resident set of the process"}
        kind = "resident set of the process since it began (the system does not let its peak be reset)"
        return {"bytes": _resident_since_start(), "kind": kind}

    def _high_water_mark(self) -> int | None:
        try:
            status = (self._process / "status").read_text()
        except OSError:
            return None
        for line in status.splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        return None


def free_bytes(device: torch.device) -> int | None:
    """What PyTorch can still allocate on a GPU; None on a CPU, where tensors that there are need no other place."""
    if device.type != "cuda":
        return None
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def largest(peaks: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the results of several processes, that of the largest one, which says so."""
    peak = max(peaks, key=lambda p: int(p["bytes"]))
    return peak if len(peaks) == 1 else {**peak, "kind": f"{peak['kind']}, the largest of {len(peaks)}"}


def held_bytes(model: nn.Module) -> int:
    """Of parameters and buffers."""
    return sum(_size(t) for t in [*model.parameters(), *model.buffers()])


def trained_bytes(model: nn.Module) -> int:
    """Of the parameters that are trained: as much as their gradients, and half as much as AdamW's moments, take."""
    return sum(_size(p) for p in model.parameters() if p.requires_grad)


def batch_bytes(batch: Split) -> int:
    """Of inputs, labels and lengths."""
    return sum(_size(t) for t in (batch.inputs, batch.labels, batch.lengths) if t is not None)


def estimate_training_bytes(model: nn.Module, batch: Split, objective: Objective | None = None) -> int:
    """Bytes of tensors that one training step with AdamW holds at its peak, in one process and in one pass.

    Parameters, buffers, two moments for every trained parameter, and ``step_bytes``.
    """
    return held_bytes(model) + 2 * trained_bytes(model) + step_bytes(model, batch, objective=objective)


def step_bytes(
    model: nn.Module,
    batch: Split,
    passes: int = 1,
    gradients: bool = True,
    objective: Objective | None = None,
) -> int:
    """Peak of all tensors that exist at once between the first operator of a step and the last of its backward.

    ``passes`` of ``batch`` one after the other add up their gradients, which count where ``gradients`` says so; the
    model and the batch do not. All is in the precision of the parameters. Not included: short-lived buffers inside
    operators and the optimizer, the allocator's reserve, the data set, and PyTorch itself (some 300 MB of resident
    memory, more with CUDA).
    """

    def steps(copy: nn.Module, part: Split) -> None:
        if not gradients:
            for p in copy.parameters():
                if p.requires_grad:
                    p.register_post_accumulate_grad_hook(_without_gradient)
        # From the second pass on all gradients are there.
        for _ in range(min(2, passes)):
            training_step(copy, part, objective)

    return on_copy(model, batch, lambda copy, part: _peak(copy, part, steps))


def inference_bytes(model: nn.Module, batch: Split) -> int:
    """Peak of all tensors that exist at once in a forward pass without gradients, beside the model and the batch."""
    return on_copy(model, batch, lambda copy, part: _peak(copy, part, inference))


def _without_gradient(parameter: Tensor) -> None:
    parameter.grad = None


def _peak(model: nn.Module, batch: Split, work: Callable[[nn.Module, Split], None]) -> int:
    given = [t for t in (batch.inputs, batch.labels, batch.lengths) if t is not None]
    with _LiveTensors([*model.parameters(), *model.buffers(), *given]) as live:
        work(model, batch)
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Follows the storages that operators create, each from its creation until nothing refers to it.

    Those on the meta device take no memory; fake tensors stand for those that do.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.peak = 0
        self._now = 0
        self._known = weakref.WeakSet(t.untyped_storage() for t in known)

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, result)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if not tensor.is_meta and storage not in self._known:
            self._known.add(storage)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, storage.nbytes())

    def _forget(self, size: int) -> None:
        self._now -= size


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _resident_since_start() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
