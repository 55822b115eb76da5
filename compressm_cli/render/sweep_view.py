"""How many trainings at a time show their progress: on a terminal live, elsewhere as plain lines."""

import threading
import time
from typing import TextIO

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from compressm_cli.core.text import one_line, printable
from compressm_cli.render.live_view import REDRAWS_PER_SECOND, WIDEST
from compressm_cli.render.progress import duration
from compressm_cli.sweeps.board import Board, BoardView, Entry, Outcome, Status

LINE_SECONDS = 10.0
"""Least time between two plain lines about all trainings."""
MOST_FAILURES = 3
STYLES: dict[Status, str] = {
    "done": "green",
    "failed": "red",
    "running": "cyan",
    "waiting": "dim",
    "pruned": "yellow",
}


def make_board_view(name: str, stream: TextIO) -> BoardView:
    """Live where ``stream`` is a terminal that can redraw and show block characters, else plain lines."""
    console = Console(file=stream, highlight=False)
    if stream.isatty() and not console.is_dumb_terminal and not console.options.ascii_only:
        return LiveBoardView(name, console)
    return PlainBoardView(stream)


class PlainBoardView:
    """ASCII lines for logs: one where a training ends, and one about all of them each few seconds."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._board = Board(1)
        self._last_line = 0.0

    def start(self, board: Board) -> None:
        self._board, self._last_line = board, time.monotonic()

    def tick(self) -> None:
        if time.monotonic() - self._last_line < LINE_SECONDS:
            return
        self._last_line = time.monotonic()
        running = [f"{e.job.name} ({', '.join(numbers(e))})" for e in self._board.running]
        self.message("; ".join([summary(self._board), *running]))

    def ended(self, outcome: Outcome) -> None:
        self.message(_ended(outcome, self._board.entry(outcome.job)))

    def message(self, text: str) -> None:
        print(printable(text), file=self._stream, flush=True)

    def close(self) -> None:
        self._stream.flush()


class LiveBoardView:
    """One panel, redrawn a few times a second by a thread of its own."""

    def __init__(self, name: str, console: Console) -> None:
        self._name, self._console = name, console
        self._lock = threading.Lock()
        self._board = Board(1)
        self._shown: RenderableType = Text()
        self._live: Live | None = None

    def start(self, board: Board) -> None:
        self._board = board
        self._draw()
        self._live = Live(
            self, console=self._console, refresh_per_second=REDRAWS_PER_SECOND, redirect_stdout=False
        )
        self._live.start()

    def tick(self) -> None:
        self._draw()

    def ended(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self.message(_ended(outcome, self._board.entry(outcome.job)))
        self._draw()

    def message(self, text: str) -> None:
        self._console.print(Text(printable(text)))

    def close(self) -> None:
        if self._live is not None:
            self._live.transient = True  # the table of results takes its place
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        # In the thread that changes the board: the one that draws sees a whole picture.
        width = min(self._console.width, WIDEST)
        with self._lock:
            self._shown = render(self._board, self._name, width, self._console.height)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            yield self._shown


def render(board: Board, name: str, width: int, height: int) -> RenderableType:
    """The panel, ``width`` columns wide and at most about ``height`` lines high."""
    inside = width - 4
    parts: list[RenderableType] = [_bar(board, inside), _counts(board)]
    running = board.running
    room = max(1, (height - 8) // 2)
    for entry in running[:room]:
        parts += [Text(), *_job(entry, inside)] if len(running) * 3 < height - 8 else _job(entry, inside)
    if len(running) > room:
        parts.append(Text(f"and {len(running) - room} more", style="dim"))
    failed = [entry for entry in board.entries if entry.status == "failed"]
    for entry in failed[-MOST_FAILURES:]:
        assert entry.outcome is not None
        told = one_line(str(entry.outcome.error).splitlines()[0])
        line = Text.assemble((f"{entry.job.name}: ", "red"), (told, "dim"), no_wrap=True, overflow="ellipsis")
        parts.append(line)
    title = Text(name, "bold not dim")
    return Panel(
        Group(*parts), title=title, title_align="left", box=box.ROUNDED, border_style="dim", width=width
    )


def numbers(entry: Entry) -> list[str]:
    """What is known of a running training, a few words each."""
    progress, left = entry.progress, None if entry.watch is None else entry.watch.seconds_left()
    if progress.step == 0:
        return ["starting"]
    total = f"/{progress.total:,}" if progress.total is not None else f", {100 * progress.share:.0f} %"
    told = [f"step {progress.step:,}{total}"]
    if progress.loss is not None:
        told.append(f"loss {progress.loss:.3g}")
    if progress.value is not None:
        told.append(f"{progress.metric.title} {progress.metric.shown(progress.value)}")
    if progress.order is not None:
        before = f"{progress.start_order} -> " if progress.order != progress.start_order else ""
        told.append(f"order {before}{progress.order}")
    if left is not None:
        told.append(f"{duration(left)} left")
    return told


def summary(board: Board) -> str:
    """``3 of 8 done, 1 failed, 2 running, 2 waiting, 1:20 left``."""
    total = max(board.expected, len(board.entries))
    told = [f"{board.count('done')} of {total} done"]
    others: tuple[Status, ...] = ("failed", "pruned", "running", "waiting")
    told += [f"{count} {status}" for status in others if (count := board.count(status))]
    if (left := board.seconds_left()) is not None:
        told.append(f"{duration(left)} left")
    return ", ".join(told)


def _ended(outcome: Outcome, entry: Entry) -> str:
    name = outcome.job.name
    if outcome.error is not None:
        return f"failed: {name}: {outcome.error}"
    if outcome.was_there:
        return f"was done: {name}"
    took = "" if entry.seconds is None else f", {duration(entry.seconds)}"
    return f"{outcome.status}: {name}{took}"


def _bar(board: Board, width: int) -> RenderableType:
    total = max(board.expected, len(board.entries), 1)
    ended = sum(board.count(status) for status in ("done", "failed", "pruned"))
    done = ended + sum(entry.progress.share for entry in board.running)
    bar = ProgressBar(total=total, completed=done, complete_style="cyan", finished_style="cyan")
    line = Table.grid(expand=True)
    line.add_column(ratio=1)
    line.add_row(bar)
    line.width = width
    return line


def _counts(board: Board) -> RenderableType:
    return Text(summary(board), style="bold")


def _job(entry: Entry, width: int) -> list[RenderableType]:
    """What it is called, and its numbers below, in two lines where one is too narrow."""
    line = Table.grid(padding=(0, 1, 0, 0))
    line.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    line.add_column(width=max(8, width // 6))
    line.add_row(
        Text(entry.job.name),
        ProgressBar(total=1.0, completed=entry.progress.share, complete_style="cyan", finished_style="cyan"),
    )
    line.width = width
    return [line, Text(", ".join(numbers(entry)), style="dim")]
