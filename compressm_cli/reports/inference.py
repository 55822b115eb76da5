"""Inference speed of several models, measured side by side on this machine."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.trainee import random_batch
from compressm_cli.measure.clock import mean_seconds
from compressm_cli.ops.machine import is_busy
from compressm_cli.reports.estimates import Estimate, median

ROUNDS = 21
LARGE_BATCH = 64
SECONDS = 4.0
"""Aim for one batch size, all models together; slow models take a smaller batch rather than fewer rounds."""


@dataclass(frozen=True)
class BatchSpeed:
    """Seconds of one forward pass at one batch size; entries are in the order of the models."""

    batch: int
    seconds: list[float]
    """Medians over the rounds."""
    ratios: list[Estimate]
    """Median over the rounds of this model's time over the first one's, with its interval."""


@dataclass(frozen=True)
class SpeedReport:
    """How it was measured, and what came out at each batch size."""

    device: str
    threads: int
    length: int
    rounds: int
    batches: list[BatchSpeed]
    busy: bool
    """Whether other work kept the machine busy meanwhile."""


def inference_speed(models: Sequence[nn.Module], data: DataSpec, device: torch.device) -> SpeedReport:
    """Time the models in alternation (first, second, ..., first, second, ...) on random full sequences.

    Each round times every model once, so a change of the machine's pace hits all of them; the ratios are
    paired by round. Batches of 1 and of up to 64 sequences.
    """
    busy = is_busy()
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(in_evaluation_mode(model.to(device)))
        batches = [_measure(models, data, device, 1)]
        if (large := _affordable_batch(batches[0].seconds)) > 1:
            batches.append(_measure(models, data, device, large))
    return SpeedReport(str(device), torch.get_num_threads(), data.length, ROUNDS, batches, busy)


def resolve_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is one; BadInputError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise BadInputError("--device cuda: PyTorch finds no CUDA device here; write --device cpu")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def _affordable_batch(single: list[float]) -> int:
    """The largest power of two, up to 64, that fits the time, if rows cost what a single one does."""
    batch = LARGE_BATCH
    while batch > 1 and batch * sum(single) * ROUNDS > 2 * SECONDS:
        batch //= 2
    return batch


def _measure(models: Sequence[nn.Module], data: DataSpec, device: torch.device, batch: int) -> BatchSpeed:
    inputs = random_batch(data, batch, device).inputs
    by_model = in_alternation([_timed(model, inputs, device) for model in models], SECONDS / 2, ROUNDS)
    ratios = [median([t / first for t, first in zip(times, by_model[0], strict=True)]) for times in by_model]
    return BatchSpeed(batch, [statistics.median(times) for times in by_model], ratios)


def in_alternation(
    calls: Sequence[Callable[[int], float]], seconds: float, rounds: int
) -> list[tuple[float, ...]]:
    """What each of several calls gives for a number of repeats, by round: in all so many seconds, or one each."""
    for call in calls:
        call(2)  # compiles kernels, fills caches
    once = sum(call(2) for call in calls)
    repeats = max(1, min(200, int(seconds / rounds / once)))
    return list(zip(*([call(repeats) for call in calls] for _ in range(rounds)), strict=True))


def _timed(model: nn.Module, inputs: Tensor, device: torch.device) -> Callable[[int], float]:
    """Repeats -> mean seconds of one forward pass."""

    @torch.inference_mode()
    def call(repeats: int) -> float:
        return mean_seconds(lambda: model(inputs, None), repeats, device)

    return call
