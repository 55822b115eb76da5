"""Jobs in processes of their own, some at a time; what is finished is not trained again."""

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from compressm_cli.engine.signals import Stop, StoppedError, listening
from compressm_cli.runs.folder import Run
from compressm_cli.runs.lock import held
from compressm_cli.sweeps.board import Board, BoardView, Entry, Outcome, SilentBoardView
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.process import TrainingProcess

__all__ = ["Crew", "Outcome", "Source"]

POLL_SECONDS = 0.1
LOCK = "trainings.lock"
"""In the folder: which process trains the jobs now."""
LOOK_SECONDS = 0.5
"""Between two looks at what the runs have written."""


class Source(Protocol):
    """Where the jobs come from, and who decides on them."""

    def take(self) -> Job | None:
        """The next job; None where there is none, now or ever."""

    def looked(self, entry: Entry) -> bool:
        """A running job was looked at; returns whether it is to be ended before its time."""

    def ended(self, outcome: Outcome) -> None:
        """A job that was taken has ended, or had been finished before."""


class Listed:
    """Jobs that are known beforehand."""

    def __init__(self, jobs: Sequence[Job], keep_going: bool, told: Callable[[Outcome], None]) -> None:
        self._waiting, self._keep_going, self._told = list(jobs), keep_going, told
        self.found: dict[int, Outcome] = {}
        """By the identity of the job."""

    def take(self) -> Job | None:
        return self._waiting.pop(0) if self._waiting else None

    def looked(self, entry: Entry) -> bool:
        return False

    def ended(self, outcome: Outcome) -> None:
        self.found[id(outcome.job)] = outcome
        self._told(outcome)
        if outcome.error is not None and not self._keep_going:
            self._waiting.clear()


@dataclass(frozen=True)
class Crew:
    """How many processes there are at a time, and how each is run."""

    folder: Path
    """For the recipes of the jobs and what their processes say: ``recipes/`` and ``logs/`` in it, and LOCK."""
    jobs: int = 1
    threads: int = 1
    """Of each process."""
    keep_going: bool = False
    """Whether others are begun after one has failed."""
    view: BoardView = field(default_factory=SilentBoardView)
    way_on: str = "the same command"
    """What goes on with what was stopped, for a message."""

    def run_all(self, jobs: Sequence[Job], told: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        """Train what is not finished yet; the outcomes in the order of the jobs.

        ``told`` hears of each as it ends. Jobs that were not begun, since one has failed, have neither run nor error.

        Raises RunLockedError where another process trains jobs of this folder, and StoppedError where a signal ended
        it: the processes have saved what they had by then.
        """
        board = Board(self.jobs)
        board.add(jobs)
        source = Listed(jobs, self.keep_going, told)
        self.serve(source, board)
        return [source.found.get(id(job), Outcome(job, None)) for job in jobs]

    def serve(self, source: Source, board: Board) -> None:
        """Train what a source gives until it gives no more and none is left; see ``run_all`` for the errors."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / LOCK, "folder of trainings") as lock, listening() as stop:
            shift = _Shift(self, source, board, lock, stop)
            self.view.start(board)
            try:
                shift.work()
            except BaseException:
                shift.end_at_once()
                raise
            finally:
                self.view.close()


class _Shift:
    """What is running, while a crew serves a source."""

    def __init__(self, crew: Crew, source: Source, board: Board, lock: int, stop: Stop) -> None:
        self._crew, self._source, self._board, self._lock, self._stop = crew, source, board, lock, stop
        self._running: list[tuple[TrainingProcess, Entry]] = []
        self._pruned: set[int] = set()
        self._looked = 0.0
        self._stopping = False

    def work(self) -> None:
        while True:
            if self._stop.signal is None:
                self._begin()
            elif not self._stopping:
                self._ask_all_to_stop()
            if not self._running:
                break
            time.sleep(POLL_SECONDS)
            self._look()
            self._reap()
            self._crew.view.tick()
        if self._stop.signal is not None:
            raise self._stopped(self._stop.signal)

    def end_at_once(self) -> None:
        """Without a checkpoint, and by force where that is asked for once more."""
        for number in (signal.SIGINT, signal.SIGKILL):
            for process, _ in self._running:
                process.send(number)
            try:
                for process, _ in self._running:
                    process.wait()
                    process.close()
                return
            except KeyboardInterrupt:
                continue

    def _begin(self) -> None:
        crew = self._crew
        while len(self._running) < crew.jobs and (job := self._source.take()) is not None:
            if (run := job.finished()) is not None:
                self._end(Outcome(job, run, was_there=True))
                continue
            recipe, log = job.write(crew.folder / "recipes"), crew.folder / "logs" / f"{job.stem}.txt"
            entry = self._board.begin(job)
            self._running.append((TrainingProcess(job, recipe, log, crew.threads, self._lock), entry))

    def _ask_all_to_stop(self) -> None:
        # Not SIGINT: a terminal has sent that to all of them, and a second one would cost them their checkpoint.
        self._stopping = True
        waiting = ", ".join(entry.job.name for _, entry in self._running)
        self._crew.view.message(f"stopping: saving {waiting}")
        for process, _ in self._running:
            process.send(signal.SIGTERM)

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        for process, entry in self._running:
            assert entry.watch is not None
            entry.watch.look()
            if not self._stopping and id(entry) not in self._pruned and self._source.looked(entry):
                self._pruned.add(id(entry))
                process.send(signal.SIGTERM)
        self._looked = time.monotonic()

    def _reap(self) -> None:
        for process, entry in list(self._running):
            if (code := process.poll()) is None:
                continue
            process.close()
            self._running.remove((process, entry))
            assert entry.watch is not None
            entry.watch.look()
            run = entry.job.finished()
            if run is not None:
                self._end(Outcome(entry.job, run))
            elif id(entry) in self._pruned and code in (143, -signal.SIGTERM):
                self._end(Outcome(entry.job, _pruned(entry.job), pruned=True))
            elif not self._stopping:
                self._end(Outcome(entry.job, None, process.why_it_failed()))

    def _end(self, outcome: Outcome) -> None:
        self._board.end(outcome)
        self._source.ended(outcome)
        self._crew.view.ended(outcome)

    def _stopped(self, name: str) -> StoppedError:
        board = self._board
        return StoppedError(
            name,
            f"stopped by {name}: {board.count('done')} of {max(board.expected, len(board.entries))} trainings are "
            f"done, and what ran is saved; go on with: {self._crew.way_on}",
        )


def _pruned(job: Job) -> Run | None:
    """The run of a job that was ended before its time, which says so from now on."""
    run = next(reversed(job.runs()), None)
    if run is not None:
        with run.lock():
            run.write_info({**run.read_info(), "status": "pruned"})
    return run
