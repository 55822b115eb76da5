"""What many trainings have come to, for whoever watches them."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from compressm_cli.runs.folder import Run
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.progress import Progress, Watch

Status = Literal["waiting", "running", "done", "failed", "pruned"]


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: Job
    run: Run | None
    """None where it failed, or was not begun."""
    error: str | None = None
    """What its process said of its failure."""
    was_there: bool = False
    """Whether the run was finished before."""
    pruned: bool = False
    """Whether it was ended before its time, since others were better; ``run`` is what there is of it."""

    @property
    def status(self) -> Status:
        """In a word."""
        if self.error is not None:
            return "failed"
        if self.run is None:
            return "waiting"
        return "pruned" if self.pruned else "done"


@dataclass
class Entry:
    """One job on the board."""

    job: Job
    status: Status = "waiting"
    watch: Watch | None = None
    """Of the running ones."""
    began: float = 0.0
    seconds: float | None = None
    """That it took, where it ended while somebody watched."""
    outcome: Outcome | None = None

    @property
    def progress(self) -> Progress:
        """Of a running one."""
        assert self.watch is not None
        return self.watch.progress


@dataclass
class Board:
    """All jobs that are known of, and how far they are."""

    at_a_time: int
    entries: list[Entry] = field(default_factory=list)
    expected: int = 0
    """Jobs that will be there in the end, where more than the entries are known to come."""

    def add(self, jobs: Sequence[Job]) -> None:
        """More of them, that wait."""
        self.entries += [Entry(job) for job in jobs]

    def entry(self, job: Job) -> Entry:
        """That of a job; of one that is new, a new one."""
        for entry in self.entries:
            if entry.job is job:
                return entry
        self.add([job])
        return self.entries[-1]

    def begin(self, job: Job) -> Entry:
        """A job is being trained from now on."""
        entry = self.entry(job)
        entry.status, entry.watch, entry.began = "running", Watch(job), time.monotonic()
        return entry

    def end(self, outcome: Outcome) -> None:
        """It is not any more, or was not to be begun."""
        entry = self.entry(outcome.job)
        if entry.status == "running":
            entry.seconds = time.monotonic() - entry.began
        entry.status, entry.outcome, entry.watch = outcome.status, outcome, None

    @property
    def running(self) -> list[Entry]:
        """Those that are trained now."""
        return [entry for entry in self.entries if entry.status == "running"]

    def count(self, status: Status) -> int:
        """How many are so; of those that wait also the ones that are still to come."""
        found = sum(entry.status == status for entry in self.entries)
        return found + max(0, self.expected - len(self.entries)) if status == "waiting" else found

    def seconds_left(self) -> float | None:
        """For all, by the pace until now; None where none has been seen yet."""
        now = time.monotonic()
        left = [(entry, entry.watch.seconds_left()) for entry in self.running if entry.watch is not None]
        whole = [entry.seconds for entry in self.entries if entry.seconds and entry.status == "done"]
        whole += [now - entry.began + rest for entry, rest in left if rest is not None]
        if not whole:
            return None
        usual = sum(whole) / len(whole)
        rests = [max(0.0, usual - (now - entry.began)) if rest is None else rest for entry, rest in left]
        everything = sum(rests) + usual * self.count("waiting")
        return max([everything / self.at_a_time, *rests])


class BoardView(Protocol):
    """Whoever watches many trainings."""

    def start(self, board: Board) -> None:
        """They begin, or go on; the board is the same all the time."""

    def tick(self) -> None:
        """The board has perhaps changed; a few times a second."""

    def ended(self, outcome: Outcome) -> None:
        """A job ended, or was found to be done; the board knows of it."""

    def message(self, text: str) -> None:
        """Anything else worth a line."""

    def close(self) -> None:
        """Give the terminal back, however it ended; more than once does no harm."""


class SilentBoardView:
    """Shows nothing."""

    def start(self, board: Board) -> None: ...

    def tick(self) -> None: ...

    def ended(self, outcome: Outcome) -> None: ...

    def message(self, text: str) -> None: ...

    def close(self) -> None: ...
