"""The trainings of a sweep as jobs of Slurm: submitted as one array, and watched by the files that they write."""

import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine.signals import StoppedError, listening
from compressm_cli.recipe.yaml_text import scalar
from compressm_cli.sweeps.board import Board, BoardView, Outcome, SilentBoardView
from compressm_cli.sweeps.cluster_training import ClusterTraining
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.process import last_words, training_command

if TYPE_CHECKING:
    import submitit

MOST_REQUEUES = 1000
"""How often a training whose time was over is queued again; each goes on with its run."""
LOOK_SECONDS = 2.0
QUEUE_SECONDS = 15.0
"""Between two looks at the queue."""
MISSES = 2
"""Looks at the queue that must not find a job before it counts as ended: files may be seen later than that."""


class Cluster(Protocol):
    """What runs jobs on other machines."""

    def submit(self, trainings: Sequence[ClusterTraining]) -> list[str]:
        """Queue them; their ids."""

    def alive(self, ids: Sequence[str]) -> set[str]:
        """Those that wait or run."""

    def cancel(self, ids: Sequence[str]) -> None:
        """End those that wait, and have those that run save and end."""


class Slurm:
    """Slurm, through submitit."""

    def __init__(self, folder: Path, parameters: dict[str, Any]) -> None:
        """``folder`` is for submitit's files. BadInputError where there is no Slurm, or it takes no such parameter."""
        import submitit

        try:
            self._executor = submitit.SlurmExecutor(folder, max_num_timeout=MOST_REQUEUES)
        except RuntimeError as error:
            raise BadInputError("--slurm: there is no Slurm on this machine (no srun)") from error
        self._executor.update_parameters(**parameters)

    def submit(self, trainings: Sequence[ClusterTraining]) -> list[str]:
        jobs: list[submitit.Job[int]] = []
        try:
            with self._executor.batch():
                jobs = [self._executor.submit(training) for training in trainings]
        except Exception as error:
            raise RunFailedError(f"--slurm: nothing was submitted: {' '.join(str(error).split())}") from error
        return [job.job_id for job in jobs]

    def alive(self, ids: Sequence[str]) -> set[str]:
        return alive_in_slurm(ids)

    def cancel(self, ids: Sequence[str]) -> None:
        if ids:
            subprocess.run(["scancel", *ids], check=False, capture_output=True)


def alive_in_slurm(ids: Sequence[str]) -> set[str]:
    """The jobs that wait or run; RunFailedError where Slurm does not say."""
    if not ids:
        return set()
    known = ",".join(sorted({one.partition("_")[0] for one in ids}))
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--jobs={known}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunFailedError(f"--slurm: the queue cannot be read: {error}") from error
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise RunFailedError(f"--slurm: the queue cannot be read: {' '.join(done.stderr.split())}")
    return set(done.stdout.split()) & set(ids)


def require_submitit() -> None:
    """BadInputError where it is not installed."""
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise BadInputError(
            "--slurm: submitit cannot be imported; install it with: pip install 'compressm[slurm]'"
        ) from error


def slurm_parameters(text: str, name: str, threads: int, at_a_time: int | None) -> dict[str, Any]:
    """``time=120,partition=gpu`` as submitit wants it, with what follows from the sweep. BadInputError."""
    from submitit.slurm.slurm import _get_default_parameters

    known = sorted({*_get_default_parameters()} - {"setup", "teardown", "srun_args", "additional_parameters"})
    found: dict[str, Any] = {"job_name": name, "cpus_per_task": threads}
    if at_a_time is not None:
        found["array_parallelism"] = at_a_time
    for part in text.replace(",", " ").split():
        key, equals, value = part.partition("=")
        if not equals or key not in known:
            raise BadInputError(f"--slurm: {part!r}: write KEY=VALUE with a KEY of {', '.join(known)}")
        found[key] = scalar(value)
    if type(found.get("time")) is not int or found["time"] < 1:
        raise BadInputError(
            "--slurm: give the minutes that a job may take before it is queued again, such as --slurm time=120"
        )
    return found


def slurm_script(folder: Path, parameters: dict[str, Any], trainings: int) -> str:
    """The batch script of so many trainings, also where there is no Slurm."""
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    count = trainings if trainings > 1 else None
    script: str = _make_sbatch_string(command, folder, map_count=count, **parameters)
    return script


@dataclass(frozen=True)
class ClusterCrew:
    """As ``Crew``, for a cluster: the jobs go on when nobody watches them any more."""

    folder: Path
    cluster: Cluster
    submitted: dict[str, str]
    """Ids of jobs that were submitted earlier, by their names."""
    note: Callable[[dict[str, str]], None]
    """Is told of all ids, before anything is waited for."""
    threads: int = 1
    keep_going: bool = False
    view: BoardView = field(default_factory=SilentBoardView)
    way_on: str = "the same command"

    def run_all(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Submit what is neither finished nor in the queue, and wait for all of it; the outcomes as ``Crew`` has them.

        Raises StoppedError where a signal ended the watching.
        """
        found = {job.name: Outcome(job, run, was_there=True) for job in jobs if (run := job.finished())}
        left = [job for job in jobs if job.name not in found]
        alive = self.cluster.alive([self.submitted[job.name] for job in left if job.name in self.submitted])
        ids = {job.name: self.submitted[job.name] for job in left if self.submitted.get(job.name) in alive}
        new = [job for job in left if job.name not in ids]
        if new:
            trainings = [self._training(job) for job in new]
            ids |= dict(zip((job.name for job in new), self.cluster.submit(trainings), strict=True))
            self.note({**self.submitted, **ids})
        board = Board(len(jobs))
        board.add(jobs)
        with listening() as stop:
            self.view.start(board)
            for outcome in found.values():
                self._end(board, outcome)
            try:
                self._watch(board, {job.name: job for job in left}, ids, found, lambda: stop.signal)
            finally:
                self.view.close()
            if stop.signal is not None:
                raise StoppedError(
                    stop.signal,
                    f"not watched any more; the trainings go on in Slurm ({', '.join(sorted(ids.values()))}): end them "
                    f"with scancel, or watch them again with: {self.way_on}",
                )
        return [found.get(job.name, Outcome(job, None)) for job in jobs]

    def _training(self, job: Job) -> ClusterTraining:
        log = self.folder / "logs" / f"{job.stem}.txt"
        log.parent.mkdir(parents=True, exist_ok=True)
        return ClusterTraining(training_command(job.write(self.folder / "recipes")), str(log), self.threads)

    def _watch(
        self,
        board: Board,
        left: dict[str, Job],
        ids: dict[str, str],
        found: dict[str, Outcome],
        stopped: Callable[[], str | None],
    ) -> None:
        said_from = {name: _size(self.folder / "logs" / f"{job.stem}.txt") for name, job in left.items()}
        missed = dict.fromkeys(left, 0)
        asked = float("-inf")
        for job in left.values():
            board.begin(job).status = "waiting"
        while left and stopped() is None:
            if time.monotonic() - asked >= QUEUE_SECONDS:
                asked, alive = time.monotonic(), self.cluster.alive([ids[name] for name in left])
                for name in left:
                    missed[name] = 0 if ids[name] in alive else missed[name] + 1
            for name, job in list(left.items()):
                entry = board.entry(job)
                assert entry.watch is not None
                if entry.watch.look().step > 0 and entry.status == "waiting":
                    entry.status, entry.began = "running", time.monotonic()
                if (run := job.finished()) is None and missed[name] < MISSES:
                    continue
                log = self.folder / "logs" / f"{job.stem}.txt"
                error = None if run is not None else _why(log, said_from[name], ids[name])
                found[name] = Outcome(job, run, error)
                del left[name]
                self._end(board, found[name])
                if error is not None and not self.keep_going:
                    waiting = [n for n, j in left.items() if board.entry(j).status == "waiting"]
                    self.cluster.cancel([ids[n] for n in waiting])
                    for other in waiting:
                        del left[other]
                    break
            self.view.tick()
            time.sleep(LOOK_SECONDS)

    def _end(self, board: Board, outcome: Outcome) -> None:
        board.end(outcome)
        self.view.ended(outcome)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _why(log: Path, said_from: int, number: str) -> str:
    told = last_words(log, said_from) if log.is_file() else ""
    return (
        told or f"job {number} ended without a word, as a cancelled one does or one that has no memory left"
    )
