"""What processor this is, and how much of it other work is using."""

import os
import platform
import time
from pathlib import Path

SAMPLE_SECONDS = 0.2
BUSY = 0.3
"""Share of the processors in use from which on times taken beside that work say little."""

_CPU_TIMES = Path("/proc/stat")


def processor_name() -> str:
    """The model of the processor, as its maker calls it where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def load_average() -> list[float] | None:
    """Processes that ran or waited for a processor, means over 1, 5 and 15 minutes; None where none are counted."""
    try:
        return [round(mean, 2) for mean in os.getloadavg()]
    except (AttributeError, OSError):
        return None


def is_busy() -> bool:
    """Whether other work uses a good part of the processors just now; this process must be idle meanwhile.

    Where the system does not tell, the mean over the last minute stands in.
    """
    try:
        began = _cpu_times()
        time.sleep(SAMPLE_SECONDS)
        idle, total = (b - a for a, b in zip(began, _cpu_times(), strict=True))
    except (OSError, ValueError, IndexError):
        load = load_average()
        return load is not None and load[0] > 0.5 * (os.cpu_count() or 1) + 0.5
    return total > 0 and 1 - idle / total > BUSY


def _cpu_times() -> tuple[int, int]:
    """Of all processors since the machine began, in ticks: idle (also while waiting for a disk), and all together."""
    first = _CPU_TIMES.read_text(encoding="utf-8").splitlines()[0]
    ticks = [int(word) for word in first.split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
