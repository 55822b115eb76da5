"""Training steps and forward passes of several models, timed side by side on this machine."""

import statistics
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from compressm_cli.engine.trainee import Setting, Trainee
from compressm_cli.recipe import Recipe

SECONDS = 10.0
"""Aim for all models together: slow ones are timed in fewer rounds."""
FEWEST_ROUNDS, MOST_ROUNDS = 3, 15
SAMPLE_SECONDS = 0.05
"""Aim for one model in one round: fast steps are timed several at once, as they follow one another in training."""


@dataclass(frozen=True)
class StepTimes:
    """Seconds of one model, by round."""

    step: list[float]
    """A training step: forward, backward, update."""
    inference: list[float]
    """A sequence, in a forward pass of a batch."""

    @property
    def step_seconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.step)

    @property
    def inference_seconds(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.inference)


def time_steps(
    setting: Setting, orders: Sequence[dict[str, int]], rounds: int | None = None
) -> list[StepTimes]:
    """Time the recipe's model at each of some orders, in alternation, on random sequences of full length.

    Each round times every model, so a change of the machine's pace hits all of them. The first two steps of each
    are not counted: they load and compile kernels. ``rounds`` None takes as many as fit into some ten seconds, 3
    to 15. Leaves the random state as it was.
    """
    devices = [setting.device] if setting.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _versions(setting.recipe, len(orders)):
        trainees = [Trainee(setting, each) for each in orders]
        repeats = [_repeats(trainee) for trainee in trainees]
        begun = time.perf_counter()
        times = [StepTimes([], []) for _ in trainees]
        while not _enough(len(times[0].step), rounds, time.perf_counter() - begun):
            for trainee, (steps, passes), found in zip(trainees, repeats, times, strict=True):
                found.step.append(trainee.train(steps))
                found.inference.append(trainee.infer(passes))
    return times


def _versions(recipe: Recipe, models: int) -> AbstractContextManager[object]:
    """Room for a compiled version of each model; those beyond PyTorch's limit would run uncompiled."""
    if not recipe.train.compile:
        return nullcontext()
    from torch._dynamo import config

    torch.compiler.reset()
    return config.patch(recompile_limit=max(models, config.recompile_limit))


def _repeats(trainee: Trainee) -> tuple[int, int]:
    """Steps and forward passes of one sample, from runs that are not counted; the first ones load kernels."""
    trainee.train(1)
    step = trainee.train(1)
    trainee.infer(1)
    forward = trainee.infer(1) * len(trainee.batch)
    return max(1, round(SAMPLE_SECONDS / step)), max(1, round(SAMPLE_SECONDS / forward))


def _enough(done: int, wanted: int | None, seconds: float) -> bool:
    if wanted is not None:
        return done >= wanted
    return done >= MOST_ROUNDS or (done >= FEWEST_ROUNDS and seconds >= SECONDS)
