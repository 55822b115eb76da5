"""Jobs in processes of their own, some at a time; what is finished is not trained again."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.runs.folder import Run
from compressm_cli.sweeps.job import Job


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


@dataclass(frozen=True)
class Crew:
    """How many processes there are at a time, and how each is run."""

    folder: Path
    """For the recipes of the jobs and what their processes say: ``recipes/`` and ``logs/`` in it."""
    jobs: int = 1
    threads: int = 1
    """Of each process."""
    keep_going: bool = False
    """Whether others are begun after one has failed."""

    def run_all(self, jobs: Sequence[Job], told: Callable[[Outcome], None] = lambda _: None) -> list[Outcome]:
        """Train what is not finished yet; the outcomes in the order of the jobs.

        ``told`` hears of each as it ends. Jobs that were not begun, since one has failed, have neither run nor error.
        """
        found: dict[int, Outcome] = {}
        waiting: list[int] = []
        for index, job in enumerate(jobs):
            if (run := job.finished()) is None:
                waiting.append(index)
            else:
                found[index] = Outcome(job, run, was_there=True)
                told(found[index])
        with ThreadPoolExecutor(self.jobs) as pool:
            running: dict[Future[Outcome], int] = {}
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    index = waiting.pop(0)
                    running[pool.submit(self._run, jobs[index])] = index
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = found[running.pop(future)] = future.result()
                    told(outcome)
                    if outcome.error is not None and not self.keep_going:
                        waiting.clear()
        return [found.get(index, Outcome(job, None)) for index, job in enumerate(jobs)]

    def _run(self, job: Job) -> Outcome:
        path = job.write(self.folder / "recipes")
        log = self.folder / "logs" / f"{path.stem}.txt"
        log.parent.mkdir(exist_ok=True)
        plugins = [word for name in INVOCATION.plugins for word in ("--plugin", name)]
        command = [
            sys.executable,
            "-m",
            "compressm_cli",
            "train",
            str(path),
            "--auto-resume",
            "--quiet",
            *plugins,
        ]
        with log.open("wb") as file:
            done = subprocess.run(
                command,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads)},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                check=False,
            )
        run = job.finished() if done.returncode == 0 else None
        if run is not None:
            return Outcome(job, run)
        said = log.read_text(encoding="utf-8", errors="replace").strip()
        return Outcome(job, None, said or f"ended with exit code {done.returncode}")
