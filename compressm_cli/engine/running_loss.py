"""The steps since the last logged line: their losses and their time."""

import time
from typing import Any

import torch
from torch import Tensor

from compressm_cli.engine.distributed.group import Group
from compressm_cli.measure.clock import Stopwatch


class RunningLoss:
    """Sums losses without waiting for the device; a checkpoint holds it, so a resumed run logs the same lines."""

    def __init__(self, group: Group, clock: Stopwatch, device: torch.device) -> None:
        self._group, self._clock, self._device = group, clock, device
        self.begin(0)

    def begin(self, step: int, saved: dict[str, Any] | None = None) -> None:
        """Start after a step; or go on as ``state_dict`` and ``loss`` of a checkpoint say."""
        self._step = step
        self.loss = torch.zeros((), device=self._device)
        """This process's part of the sum of the losses."""
        self._seconds = self._clock.seconds()["training"]
        self.shown = time.monotonic()
        """When a loss was last told."""
        if saved is not None:
            self._step, self.loss = saved["step"], saved["loss"].to(self._device)
            self._seconds -= saved["seconds"]

    def add(self, loss: Tensor) -> None:
        self.loss += loss

    def steps(self, step: int) -> int:
        return step - self._step

    def mean_loss(self, step: int, exact: bool) -> float:
        """Of a step; collective where it is to be exact, else this process's rows stand for all."""
        total = self.loss * self._group.size
        if exact:
            total = self.loss.clone()
            self._group.sum(total)
        return float(total) / self.steps(step)

    def mean_seconds(self, step: int) -> float:
        """Of a step's training."""
        return (self._clock.seconds()["training"] - self._seconds) / self.steps(step)

    def process_state(self) -> dict[str, Any]:
        """What the processes do not have in common, for a checkpoint."""
        return {"window_loss": self.loss.cpu()}

    def state_dict(self) -> dict[str, Any]:
        """What they have in common."""
        return {"step": self._step, "seconds": self._clock.seconds()["training"] - self._seconds}
