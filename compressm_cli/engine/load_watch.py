"""Whether a run gets the processors that it waits for."""

import torch

from compressm_cli.measure.clock import STARVED, Stopwatch

SECONDS = 3.0
"""Of training, over which it is looked at: short ones say little."""


class LoadWatch:
    """Says, once, that other work keeps the machine busy."""

    def __init__(self, clock: Stopwatch) -> None:
        self._clock = clock
        self._said = False
        self._since = self._now()

    def warning(self) -> str | None:
        """What is to be said now, of the training since this was last looked at."""
        if self._said:
            return None
        now, (wall_before, cpu_before) = self._now(), self._since
        wall, cpu = now
        if cpu is None or cpu_before is None or wall - wall_before < SECONDS:
            return None
        self._since = now
        ratio = (wall - wall_before) / max(cpu - cpu_before, 1e-3)
        if ratio < STARVED:
            return None
        self._said = True
        advice = (
            "; train.threads: 1, or OMP_WAIT_POLICY=passive in the environment, suffers less from it"
            if torch.get_num_threads() > 1
            else ""
        )
        return (
            f"warning: training takes {ratio:.1f} times its processor time: this machine is busy with other work, so "
            f"the times of this run say little{advice}"
        )

    def _now(self) -> tuple[float, float | None]:
        return self._clock.seconds()["training"], self._clock.training_cpu_seconds()
