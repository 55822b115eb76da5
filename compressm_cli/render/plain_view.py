"""How a run shows its progress: on a terminal live, elsewhere as plain lines."""

import time
from typing import Any, TextIO

from rich.console import Console

from compressm_cli.core.text import printable
from compressm_cli.engine.view import Beginning, Verdict, View
from compressm_cli.render.live_view import LiveView
from compressm_cli.render.progress import VERDICTS, Progress, duration, reasons, short_time
from compressm_cli.render.summary_table import print_summary
from compressm_cli.structure.plan import UnitRecord

LINE_SECONDS = 5.0
"""Least time between two plain lines about steps."""


class PlainView:
    """ASCII lines for logs: one an event, and one about steps each few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._progress: Progress | None = None
        self._last_line = 0.0

    def start(self, beginning: Beginning) -> None:
        self._progress = Progress(beginning)
        self._last_line = time.monotonic()
        listed = ", ".join(f"{layer} {order}" for layer, order in beginning.orders.items())
        orders_told = f"; orders: {listed}" if listed else ""
        self.message(
            f"{beginning.recipe_name}, seed {beginning.seed}: {beginning.total_steps:,} steps on "
            f"{beginning.device}{orders_told}"
        )

    def expect(self, total_steps: int) -> None:
        self._known().expect(total_steps)

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
        progress = self._known()
        progress.step(step, loss, learning_rate, step_seconds)
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS:
            return
        self._last_line = now
        left = progress.seconds_left()
        remaining = "" if left is None else f", {duration(left)} left"
        self.message(
            f"step {progress.place(step)}  loss {loss:.4f}, learning rate {learning_rate:.2e}, "
            f"{short_time(step_seconds)} a step{remaining}"
        )

    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        progress = self._known()
        progress.evaluation(step, value)
        metric = progress.metric
        self.message(
            f"step {progress.place(step)}  validation loss {loss:.4f}, {metric.title} {metric.shown(value)}"
        )

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None:
        progress = self._known()
        progress.compression(step, records, verdict)
        told = "; ".join(reasons(records))
        self.message(f"step {progress.place(step)}  check: {VERDICTS[verdict]} ({told})")

    def message(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)

    def finish(self, summary: dict[str, Any]) -> None:
        print_summary(Console(file=self._stream, highlight=False), summary)

    def close(self) -> None:
        self._stream.flush()

    def _known(self) -> Progress:
        if self._progress is None:
            raise RuntimeError("the view was not started")
        return self._progress


def make_view(stream: TextIO) -> View:
    """Live where ``stream`` is a terminal that can redraw and show block characters, else plain lines."""
    console = Console(file=stream, highlight=False)
    if stream.isatty() and not console.is_dumb_terminal and not console.options.ascii_only:
        return LiveView(console)
    return PlainView(stream)
