"""What a run has told its view so far, and the few numbers that follow from it."""

import math
import statistics
import time
from collections import deque
from dataclasses import replace

from compressm_cli.engine.view import Beginning, Verdict
from compressm_cli.structure.plan import UnitRecord

VERDICTS: dict[Verdict, str] = {
    "applied": "cut",
    "nothing": "nothing cut",
    "trial": "cut, on trial",
    "accepted": "trial passed",
    "rejected": "trial failed, cut undone",
    "undone": "rolled back, cut undone",
}


class Progress:
    """The state of a run as its view knows it; storing is all that happens at a step."""

    def __init__(self, beginning: Beginning) -> None:
        self.beginning = beginning
        self.total_steps, self.is_estimate = beginning.total_steps, False
        self.step_number = 0
        self.loss: float | None = None
        self.learning_rate: float | None = None
        self.losses: deque[float] = deque(maxlen=60)
        self.metric = beginning.primary
        self.value: float | None = None
        self.best: tuple[float, int] | None = None
        """The metric's best value, and its step."""
        self.start_orders, self.orders = dict(beginning.orders), dict(beginning.orders)
        self.spectra: dict[str, UnitRecord] = {}
        """The newest record with a spectrum of each layer."""
        self.last_check: tuple[int, list[UnitRecord], Verdict] | None = None
        self.on_trial = False
        """Whether the orders may yet be undone."""
        self._pace: deque[tuple[float, int]] = deque(maxlen=64)
        self._first_seconds: deque[float] = deque(maxlen=64)
        self._recent_seconds: deque[float] = deque(maxlen=9)

    def expect(self, total_steps: int) -> None:
        self.total_steps, self.is_estimate = total_steps, True

    def place(self, step: int) -> str:
        """``1,000/3,000``; ``1,000 of about 3,000`` where a budget decides how many they will be."""
        return f"{step:,}{' of about ' if self.is_estimate else '/'}{self.total_steps:,}"

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
        if step < self.step_number:  # a rejected cut was undone
            self._pace.clear()
        self.step_number, self.loss, self.learning_rate = step, loss, learning_rate
        self.losses.append(loss)
        self._pace.append((time.monotonic(), step))
        self._recent_seconds.append(step_seconds)
        if self.orders == self.start_orders:
            self._first_seconds.append(step_seconds)

    def evaluation(self, step: int, value: float | None) -> None:
        self.value = value
        if value is not None and self.metric.is_better(value, self.best and self.best[0]):
            self.best = (value, step)

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None:
        self.last_check = (step, records, verdict)
        for record in records:
            stands = replace(record, after=record.before) if verdict == "rejected" else record
            self.start_orders.setdefault(record.title, record.before)
            self.orders[record.title] = stands.after
            if record.details.get("hsv"):
                self.spectra[record.title] = stands
        if verdict != "nothing":
            self.on_trial = verdict == "trial"
            # A step costs something else from here on.
            self._pace.clear()
            self._recent_seconds.clear()

    def steps_per_second(self) -> float | None:
        """Lately, evaluations and checkpoints included."""
        if len(self._pace) < 2:
            return None
        (began, first), (now, last) = self._pace[0], self._pace[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    def seconds_left(self) -> float | None:
        pace = self.steps_per_second()
        return None if pace is None else (self.total_steps - self.step_number) / pace

    def step_seconds(self) -> float | None:
        """Median of the latest ones, since the last change of shape."""
        return statistics.median(self._recent_seconds) if self._recent_seconds else None

    def first_step_seconds(self) -> float | None:
        """Median before the first cut; None as long as there was none, when there is nothing to compare."""
        if self.orders == self.start_orders or not self._first_seconds:
            return None
        return statistics.median(self._first_seconds)


def kept_values(record: UnitRecord) -> int:
    """How many of the Hankel singular values that a record tells are kept.

    A real realization has twice as many values as the layer has states, and a state may take one or two of
    them: the discarded share tells which; where it does not (several systems, another selection), all
    states count alike.
    """
    hsv, tail = record.details["hsv"], record.details["tail"]
    if record.after >= record.before:
        return len(hsv)
    alike = max(1, round(len(hsv) * record.after / record.before))
    if tail is None:
        return alike
    total, rest, matches = sum(hsv), sum(hsv), []
    for kept, value in enumerate(hsv, start=1):
        rest -= value
        if math.isclose(rest / total, tail, abs_tol=1e-9):
            matches.append(kept)
    return min(matches, key=lambda kept: abs(kept - alike), default=alike)


def reasons(records: list[UnitRecord]) -> list[str]:
    """``unit: reason``, units with the same reason together."""
    units: dict[str, list[str]] = {}
    for record in records:
        units.setdefault(record.reason, []).append(record.title)
    return [f"{', '.join(names)}: {reason}" for reason, names in units.items()]


def duration(seconds: float) -> str:
    """``75`` -> ``1:15``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def short_time(seconds: float) -> str:
    """``0.0121`` -> ``12.1 ms``."""
    if seconds >= 1:
        return f"{seconds:.2f} s"
    milliseconds = seconds * 1e3
    return f"{milliseconds:.1f} ms" if milliseconds >= 0.1 else f"{milliseconds * 1e3:.0f} us"


def speed_change(before: float, now: float) -> str:
    """``1.66x faster``."""
    if before >= now:
        return f"{before / now:.2f}x faster"
    return f"{now / before:.2f}x slower"
