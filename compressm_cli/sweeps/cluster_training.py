"""What a job of a cluster does. Little is imported for it: the training is a process of its own."""

import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from compressm_cli.core.lifeline import tied


@dataclass
class ClusterTraining:
    """What a job does: trains, saves before its time is over, and goes on when it is queued again."""

    command: list[str]
    log: str
    threads: int
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    def __call__(self) -> int:
        """The exit code of the training."""
        with Path(self.log).open("ab") as file:
            # Slurm's warning goes to every process of the job: it must end none, and is passed on as SIGTERM.
            self._process = subprocess.Popen(
                self.command,
                env=tied({**os.environ, "OMP_NUM_THREADS": str(self.threads)}),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            )
        signal.signal(signal.SIGTERM, lambda *_: self._ask_to_save())
        return self._process.wait()

    def checkpoint(self) -> Any:
        """What submitit asks for when the time is over, or the job is preempted: the same once more."""
        from submitit.helpers import DelayedSubmission

        self._ask_to_save()
        if self._process is not None:
            # Not wait(), whose lock the interrupted one holds.
            with suppress(ChildProcessError):
                os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        return DelayedSubmission(self)

    def _ask_to_save(self) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.kill(self._process.pid, signal.SIGTERM)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_process": None}
