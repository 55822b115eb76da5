"""By what units are chosen, one kind of scores a file."""

from compressm_cli.pruning.scores.least_squares import LeastSquares
from compressm_cli.pruning.scores.magnitude import Magnitude
from compressm_cli.pruning.scores.random import Random
from compressm_cli.pruning.scores.score import Judged, Score
from compressm_cli.pruning.scores.taylor import Taylor

SCORES: dict[str, type[Score]] = {
    "taylor": Taylor,
    "least_squares": LeastSquares,
    "magnitude": Magnitude,
    "random": Random,
}
"""By the names that they are asked for."""

__all__ = ["SCORES", "Judged", "Score"]
