"""Wall time of a run by phase: what is left when the phases are taken off is training."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch

STARVED = 1.5
"""Seconds of training for each second that its thread had a processor, from which on other work was in the way."""

Phase = Literal["evaluation", "compression", "compile", "checkpoint"]


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has done what is queued; elsewhere nothing is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def mean_seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Mean seconds of so many calls in a row, until the device has done them."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronize(device)
    return (time.perf_counter() - began) / repeats


class Stopwatch:
    """Seconds since it was made, by phase. Phases do not nest; the rest is ``training``.

    On a GPU, work is queued: a phase waits for the device when it begins and when it ends, so that
    each second is booked where it was caused.

    Beside the time of training stands what of it the thread that made this had a processor for: far less means that
    other work kept the machine busy.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = time.monotonic()
        self._earlier = 0.0
        self._phases: dict[str, float] = dict.fromkeys(get_args(Phase), 0.0)
        self._running: tuple[str, float, float] | None = None
        """The phase, and when it began by the clock and by this thread's processor time."""
        self._cpu_began = time.thread_time()
        self._cpu_elsewhere = 0.0
        """In phases."""
        self._cpu_earlier: float | None = 0.0
        """Of the run that this one resumes; None where that did not count it."""

    @contextmanager
    def phase(self, name: Phase) -> Iterator[None]:
        """Book the time inside the ``with`` block under ``name``, also when it raises."""
        if name not in self._phases:
            raise ValueError(f"unknown phase {name!r}; one of {', '.join(self._phases)}")
        if self._running is not None:
            raise RuntimeError(f"phase {name!r} inside phase {self._running[0]!r}; phases do not nest")
        self._running = (name, self._now(), time.thread_time())
        try:
            yield
        finally:
            _, begin, cpu = self._running
            self._running = None
            self._phases[name] += self._now() - begin
            self._cpu_elsewhere += time.thread_time() - cpu

    def seconds(self) -> dict[str, float]:
        """``total``, ``training`` and every phase, until now; a phase that is running counts so far."""
        now = self._now()
        phases = dict(self._phases)
        if self._running is not None:
            name, begin, _ = self._running
            phases[name] += now - begin
        total = self._earlier + now - self._began
        return {"total": total, "training": total - sum(phases.values()), **phases}

    def total(self) -> float:
        """Seconds until now; does not wait for what is queued on a GPU."""
        return self._earlier + time.monotonic() - self._began

    def training_cpu_seconds(self) -> float | None:
        """Of one thread, between phases; None on a GPU, for which a thread only waits, and where it is not known."""
        if self._cpu_earlier is None or self._device.type != "cpu":
            return None
        now = time.thread_time() if self._running is None else self._running[2]
        return self._cpu_earlier + now - self._cpu_began - self._cpu_elsewhere

    def state_dict(self) -> dict[str, Any]:
        """The seconds until now, and those of the processor: for a summary, and for a run that resumes."""
        return {**self.seconds(), "training_cpu": self.training_cpu_seconds()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Add the seconds of the run that this one resumes."""
        earlier = state.get("training_cpu")
        self._cpu_earlier = (
            None if self._cpu_earlier is None or earlier is None else self._cpu_earlier + earlier
        )
        self._earlier += state["total"]
        for name in self._phases:
            self._phases[name] += state[name]

    def _now(self) -> float:
        synchronize(self._device)
        return time.monotonic()
