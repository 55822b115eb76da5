"""Peak memory of training steps at several orders, each measured on its own."""

import gc
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace

import torch

from compressm_cli.engine.failures import reason
from compressm_cli.engine.precision import prepare
from compressm_cli.engine.trainee import Setting, Trainee
from compressm_cli.measure.memory import PeakMemory

STEPS = 3
"""From the second one on, the optimizer's moments are there too."""

KIND = {
    "cpu": "growth of the peak resident set of a fresh process: model, optimizer, batch and three training steps, "
    "without Python and PyTorch themselves",
    "cuda": "most that PyTorch allocated on the GPU at once: model, optimizer, batch and three training steps",
}
"""What the bytes are, by type of device."""


@dataclass(frozen=True)
class StepMemory:
    """Peak of one model; ``bytes`` is None where it was not measured, for the ``reason`` given."""

    bytes: int | None
    kind: str
    reason: str | None


def step_memory(setting: Setting, orders: Sequence[dict[str, int]]) -> list[StepMemory]:
    """Measure a training step at each of some orders, one after the other.

    On CUDA in this process; on a CPU in a new process for each order, since a process does not give all memory
    back. Processes are forked from one that has trained nothing (``engine.preloaded``), so they cost little time.
    """
    kind = KIND[setting.device.type]
    if setting.device.type == "cuda":
        return [StepMemory(_growth(setting, each), kind, None) for each in orders]
    if setting.recipe.train.compile:
        reason = "with train.compile the compiler's own memory would be counted too"
        return [StepMemory(None, kind, reason) for _ in orders]
    return [_in_fresh_process(setting, each, kind) for each in orders]


def _in_fresh_process(setting: Setting, orders: dict[str, int], kind: str) -> StepMemory:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "compressm_cli.engine.preloaded"])
    try:
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            found = pool.submit(_growth, setting, orders, torch.get_num_threads()).result()
    except BrokenProcessPool:
        return StepMemory(None, kind, "the process that measured it was killed")
    except (OSError, ImportError) as error:  # no semaphores, no temporary files, or only in too long a path
        return StepMemory(None, kind, f"there is no process that could measure it ({reason(error)})")
    if found <= 0:
        return StepMemory(None, kind, "too little to show in the resident set of a process")
    return StepMemory(found, kind, None)


def _growth(setting: Setting, orders: dict[str, int], threads: int | None = None) -> int:
    """Bytes by which the peak of this process, or of its GPU, grows when a model is built and trained."""
    if threads is not None:
        torch.set_num_threads(threads)
    recipe, device = setting.recipe, setting.device
    prepare(device, recipe.train.precision)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # A step with a single row loads libraries and kernels, which are not what is measured.
        plain = recipe.model_copy(update={"train": recipe.train.model_copy(update={"compile": False})})
        Trainee(replace(setting, recipe=plain), orders, rows=1).train(1)
        gc.collect()
        peak = PeakMemory(device)
        peak.start()
        before: int = peak.result()["bytes"]
        trainee = Trainee(setting, orders)
        trainee.train(STEPS)
        after: int = peak.result()["bytes"]
    return after - before
