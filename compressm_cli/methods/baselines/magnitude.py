"""Units with the largest weights: what most pruning chooses by."""

from typing import Literal

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.methods.baselines.scored import Scored, ScoredConfig
from compressm_cli.methods.baselines.weights import magnitudes


class MagnitudeConfig(ScoredConfig):
    """``compression: {method: magnitude}``: at each check the units with the smallest weights are cut out."""

    method: Literal["magnitude"]


class Magnitude(Scored):
    """Keeps units by the L2 norm of their weights.

    Of a state of a time-invariant layer it is the norm of what the state is fed by, times that of what reads it; of
    other units that of their entries in matrices. Poles, step sizes, gains and biases do not count: their size says
    nothing of how much a unit contributes.
    """

    Config = MagnitudeConfig
    HOW = "those with the largest weights"

    def scores(self, model: nn.Module, together: list[Axis], generator: torch.Generator) -> Tensor:
        return magnitudes(model, together)
