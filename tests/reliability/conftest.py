"""The tiny runs of the engine's tests, and the comparison of benchmarks/reliability.py."""

import sys
from pathlib import Path

from tiny_runs import lightly, rough_flops, same_weights, tiny, train

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import reliability

# Of these tests, too, which are what the processes execute.
reliability.PROCESSES.set_forkserver_preload(["pytest", *reliability.PRELOADED])
reliability.PREPARATIONS.append(lightly)

__all__ = ["rough_flops", "same_weights", "tiny", "train"]
