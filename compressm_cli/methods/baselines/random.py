"""Units drawn by lot: what a cut does by itself, whatever it is chosen by."""

from typing import Literal

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.methods.baselines.scored import Scored, ScoredConfig


class RandomConfig(ScoredConfig):
    """``compression: {method: random}``: at each check another part of the units, drawn by lot, is cut out."""

    method: Literal["random"]


class Random(Scored):
    """Keeps units by random scores, as any method would by its own."""

    Config = RandomConfig
    HOW = "drawn by lot"

    def scores(self, model: nn.Module, together: list[Axis], generator: torch.Generator) -> Tensor:
        return torch.rand(together[0].size, generator=generator, dtype=torch.float64)
