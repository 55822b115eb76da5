"""The view of a run on a terminal: one panel, redrawn a few times a second by a thread of its own."""

import threading
from typing import Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from compressm_cli.core.text import printable
from compressm_cli.engine.view import Beginning, Verdict
from compressm_cli.render.charts import sparkline, spectrum
from compressm_cli.render.progress import (
    VERDICTS,
    Progress,
    duration,
    kept_values,
    reasons,
    short_time,
    speed_change,
)
from compressm_cli.render.summary_table import print_summary
from compressm_cli.structure.plan import UnitRecord

REDRAWS_PER_SECOND = 4
WIDEST = 110
MOST_REASONS = 4
STYLES: dict[Verdict, str] = {
    "applied": "green",
    "nothing": "dim",
    "trial": "yellow",
    "accepted": "green",
    "rejected": "red",
    "undone": "yellow",
}


class LiveView:
    """Progress, losses, the metric, orders and spectra; see ``View`` for the calls."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._live: Live | None = None

    def start(self, beginning: Beginning) -> None:
        self._progress = Progress(beginning)
        self._live = Live(
            self, console=self._console, refresh_per_second=REDRAWS_PER_SECOND, redirect_stdout=False
        )
        self._live.start()

    def expect(self, total_steps: int) -> None:
        with self._lock:
            self._known().expect(total_steps)

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
        with self._lock:
            self._known().step(step, loss, learning_rate, step_seconds)

    def evaluation(self, step: int, loss: float, value: float | None) -> None:
        with self._lock:
            self._known().evaluation(step, value)

    def compression(self, step: int, records: list[UnitRecord], verdict: Verdict) -> None:
        with self._lock:
            self._known().compression(step, records, verdict)

    def message(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    def finish(self, summary: dict[str, Any]) -> None:
        if self._live is not None:
            self._live.transient = True  # the summary takes its place
        self.close()
        print_summary(self._console, summary)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _known(self) -> Progress:
        if self._progress is None:
            raise RuntimeError("the view was not started")
        return self._progress

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield render(self._known(), min(options.max_width, WIDEST), console.height)


def render(progress: Progress, width: int, height: int) -> RenderableType:
    """The panel, ``width`` columns wide and at most about ``height`` lines high."""
    inside = width - 4
    known = progress.last_check
    told = reasons(known[1])[:MOST_REASONS] if known else []
    room = max(1, height - 12 - len(told))
    parts: list[RenderableType] = [_bar(progress, inside), Text(), _numbers(progress, inside), Text()]
    parts.append(_layers(progress, inside, room))
    if known:
        parts += [Text(), _decision(known[0], known[2], told)]
    beginning = progress.beginning
    title = Text.assemble(
        (beginning.recipe_name, "bold not dim"), f"  seed {beginning.seed}  {beginning.device}"
    )
    return Panel(
        Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=width
    )


def _bar(progress: Progress, width: int) -> RenderableType:
    total, now = progress.total_steps, progress.step_number
    pace, left = progress.steps_per_second(), progress.seconds_left()
    speed = "" if pace is None else f"{pace:,.1f} steps/s" if pace < 1000 else f"{pace:,.0f} steps/s"
    line = Table.grid(padding=(0, 2, 0, 0))
    line.add_column(ratio=1)
    line.expand = True
    for _ in range(3):
        line.add_column(justify="right", no_wrap=True)
    line.add_row(
        ProgressBar(total=total, completed=now, complete_style="cyan", finished_style="cyan"),
        Text(f"{now:,} of {'about ' if progress.is_estimate else ''}{total:,}"),
        Text(speed, style="dim"),
        Text("" if left is None else f"{duration(left)} left", style="bold"),
    )
    line.width = width
    return line


def _numbers(progress: Progress, width: int) -> RenderableType:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True, min_width=8)
    grid.add_column(no_wrap=True, overflow="ellipsis")
    loss = "" if progress.loss is None else f"{progress.loss:.4f}"
    grid.add_row(
        Text("train loss"),
        Text(loss, style="bold"),
        Text(sparkline(progress.losses, min(60, width - 34)), "cyan"),
    )
    metric, best = progress.metric, progress.best
    value = "" if progress.value is None else metric.shown(progress.value)
    note = "" if best is None else f"best {metric.shown(best[0])} at step {best[1]:,}"
    grid.add_row(Text(f"validation {metric.title}"), Text(value, style="bold green"), Text(note))
    now, before = progress.step_seconds(), progress.first_step_seconds()
    faster = ""
    if now is not None and before is not None:
        faster = f"{short_time(before)} before the first cut: {speed_change(before, now)}"
    grid.add_row(
        Text("time of a step"), Text("" if now is None else short_time(now), style="bold"), Text(faster)
    )
    return grid


def _layers(progress: Progress, width: int, room: int) -> RenderableType:
    """One row a layer, or two lines where there is room; layers beyond the room are counted, not shown."""
    names = list(progress.orders)
    if not names:
        return Text("no layer has states; other units are shown once some are cut", style="dim")
    rows = 2 if 3 * len(names) <= room else 1
    shown = names if len(names) * rows <= room else names[: max(1, room - 1)]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", leading=rows - 1)
    table.add_column("layer", no_wrap=True, overflow="ellipsis", max_width=max(12, width // 3))
    table.add_column("order", no_wrap=True)
    table.add_column("Hankel singular values, log scale: kept │ cut", no_wrap=True)
    space = max(16, min(64, width - max((len(n) for n in shown), default=0) - 20))
    for name in shown:
        record = progress.spectra.get(name)
        chart = Text("not known before the first check", style="dim")
        if record is not None:
            chart = spectrum(record.details["hsv"], kept_values(record), space, rows)
        table.add_row(Text(name), _order(progress, name), chart)
    if len(shown) < len(names):
        hidden = len(names) - len(shown)
        orders = f"{sum(progress.start_orders.values())} → {sum(progress.orders.values())}"
        table.add_row(Text(f"and {hidden} more", style="dim"), Text(orders, style="dim"), Text())
    return table


def _order(progress: Progress, name: str) -> Text:
    start, now = progress.start_orders.get(name), progress.orders[name]
    if start is None or start == now:
        return Text(str(now), style="bold")
    text = Text.assemble((f"{start} → ", "dim"), (str(now), "bold"))
    return text.append("?", style="yellow") if progress.on_trial else text


def _decision(step: int, verdict: Verdict, told: list[str]) -> RenderableType:
    lines = [Text.assemble(("check at step ", "dim"), f"{step:,}  ", (VERDICTS[verdict], STYLES[verdict]))]
    lines += [Text(reason, style="dim", no_wrap=True, overflow="ellipsis") for reason in told]
    return Group(*lines)
