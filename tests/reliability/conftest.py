"""The tiny runs of the engine's tests, and the comparison of benchmarks/reliability.py."""

import sys
from pathlib import Path

from tiny_runs import rough_flops, same_weights, tiny, train

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

__all__ = ["rough_flops", "same_weights", "tiny", "train"]
