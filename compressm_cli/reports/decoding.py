"""Decoding of several models, one time step at a time, measured side by side on this machine."""

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.trainee import random_batch
from compressm_cli.measure.clock import mean_seconds
from compressm_cli.models.interface import Model
from compressm_cli.ops.machine import is_busy
from compressm_cli.reports.estimates import Estimate, median
from compressm_cli.reports.inference import LARGE_BATCH, in_alternation

ROUNDS = 21
SECONDS = 1.0
"""Aim for one batch size, and for the prompts, all models together."""


@dataclass(frozen=True)
class DecodingSpeed:
    """Steps at one batch size; entries are in the order of the models."""

    batch: int
    tokens_per_second: list[float]
    """Of all sequences together: batch / median seconds of a step."""
    ratios: list[Estimate]
    """Median over the rounds of this model's tokens a second over the first one's, with its interval."""


@dataclass(frozen=True)
class DecodingReport:
    """How it was measured, and what came out; entries are in the order of the models."""

    device: str
    threads: int
    prompt: int
    """Time steps of the prompt."""
    rounds: int
    state_bytes: list[int]
    """What is kept of a sequence between two steps, after the prompt."""
    first_token_seconds: list[float]
    """From the prompt of one sequence to the scores after it: the median."""
    first_token_ratios: list[Estimate]
    """Median over the rounds of this model's seconds over the first one's, with its interval."""
    batches: list[DecodingSpeed]
    busy: bool
    """Whether other work kept the machine busy meanwhile."""


def obstacle(models: Sequence[nn.Module]) -> str | None:
    """Why some of the models cannot be measured, None where all can."""
    for model in models:
        if not isinstance(model, Model):
            return f"{type(model).__name__} has no step by step form"
        if model.start_obstacle is not None:
            return model.start_obstacle
    return None


def decoding_speed(
    models: Sequence[Any], data: DataSpec, device: torch.device, rounds: int = ROUNDS
) -> DecodingReport:
    """Time the models in alternation: a prompt of the data's length, and steps of one and of 64 sequences.

    Each round times every model, so that a change of the machine's pace hits all of them; ratios are paired by round.
    All are a ``Model`` that can be stepped from its first step on (``obstacle``).
    """
    busy = is_busy()
    with ExitStack() as stack, torch.inference_mode():
        for model in models:
            stack.enter_context(in_evaluation_mode(model.to(device)))
        inputs = random_batch(data, LARGE_BATCH, device).inputs
        prompts = [_prompt(model, inputs[:1], device) for model in models]
        times = in_alternation(prompts, SECONDS, rounds)
        batches = [_steps(models, inputs[:rows], device, rounds) for rows in (1, LARGE_BATCH)]
        kept = [model.prefill(inputs[:1])[1].nbytes for model in models]
    return DecodingReport(
        device=str(device),
        threads=torch.get_num_threads(),
        prompt=data.length,
        rounds=rounds,
        state_bytes=kept,
        first_token_seconds=[statistics.median(seconds) for seconds in times],
        first_token_ratios=[_ratio(seconds, times[0]) for seconds in times],
        batches=batches,
        busy=busy,
    )


def _steps(models: Sequence[Model], inputs: Tensor, device: torch.device, rounds: int) -> DecodingSpeed:
    times = in_alternation([_stepping(model, inputs, device) for model in models], SECONDS, rounds)
    speeds = [len(inputs) / statistics.median(seconds) for seconds in times]
    return DecodingSpeed(len(inputs), speeds, [_ratio(times[0], seconds) for seconds in times])


def _ratio(above: Sequence[float], below: Sequence[float]) -> Estimate:
    return median([a / b for a, b in zip(above, below, strict=True)])


def _prompt(model: Model, inputs: Tensor, device: torch.device) -> Callable[[int], float]:
    """Repeats -> mean seconds of a prompt."""
    return lambda repeats: mean_seconds(lambda: model.prefill(inputs), repeats, device)


def _stepping(model: Model, inputs: Tensor, device: torch.device) -> Callable[[int], float]:
    """Repeats -> mean seconds of a step, each of which goes on from the one before.

    After as many steps as ``inputs`` (rows, length, ...) has, a sequence is over, and the next one begins: what a state
    that grows costs is that of such sequences, and all models are at the same step of theirs.
    """
    state, steps = model.initial_state(len(inputs)), 0

    def step() -> None:
        nonlocal state, steps
        if steps == inputs.shape[1]:
            state, steps = model.initial_state(len(inputs)), 0
        _, state = model.step(inputs[:, 0], state)
        steps += 1

    return lambda repeats: mean_seconds(step, repeats, device)
