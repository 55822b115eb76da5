"""The process that trains one job, and what it says where it fails."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.core.lifeline import tied
from compressm_cli.engine.signals import EXIT_CODES
from compressm_cli.sweeps.job import Job

MOST_LINES = 5
"""Of a log, where it has no line that begins with ``error:``."""


def training_command(recipe: Path) -> list[str]:
    """What trains a job: its run is gone on with where there is one."""
    plugins = [word for name in INVOCATION.plugins for word in ("--plugin", name)]
    return [sys.executable, "-m", "compressm_cli", "train", str(recipe), "--auto-resume", *plugins]


class TrainingProcess:
    """``compressm train`` of one job, which ends with the process that started it.

    It holds the lock of whoever started it, too, so that nobody else takes over the runs while it still writes.
    """

    def __init__(self, job: Job, recipe: Path, log: Path, threads: int, lock: int) -> None:
        """``lock`` is the descriptor of a lock that is held."""
        self.job, self._log = job, log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as file:
            # What an earlier try has said stays there.
            self._said_from = file.tell()
            self._process = subprocess.Popen(
                training_command(recipe),
                env=tied({**os.environ, "OMP_NUM_THREADS": str(threads)}),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                pass_fds=[lock],
            )

    def poll(self) -> int | None:
        """Its exit code; None as long as it runs."""
        return self._process.poll()

    def send(self, number: int) -> None:
        """A signal, if it still runs."""
        with suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def close(self) -> None:
        """Let go of what belongs to it; it has ended."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def why_it_failed(self) -> str:
        """In its own words, or by how it ended where it had none."""
        code = self._process.returncode
        if code < 0:
            return _killed(-code, self._log)
        if code in EXIT_CODES.values():
            name = next(name for name, known in EXIT_CODES.items() if known == code)
            return f"was stopped by {name} from outside; it can be gone on with"
        told = last_words(self._log, self._said_from)
        return told or f"ended with exit code {code} and said nothing; see {self._log}"


def last_words(log: Path, said_from: int) -> str:
    """The last error that a process has told in its log, from a place in it on; else its last lines."""
    with log.open("rb") as file:
        file.seek(said_from)
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    begins = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    told = lines[begins[-1] :] if begins else lines[-MOST_LINES:]
    return "\n".join(told).removeprefix("error: ").strip()


def _killed(number: int, log: Path) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if name == "SIGKILL":
        return (
            "was killed from outside by SIGKILL, as a system does that runs out of memory; where it did, give fewer "
            f"--jobs or a smaller train.batch_size (its log: {log})"
        )
    return f"was ended from outside by {name} (its log: {log})"
