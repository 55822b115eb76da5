"""Units drawn by lot: what a cut does by itself, whatever it is chosen by."""

from collections.abc import Sequence

import torch
from torch import nn

from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.scores.score import Judged, Score, shares


class Random(Score):
    """Uniform random numbers, as shares of their sum in a layer."""

    HOW = "drawn by lot"
    PRICE = "units drawn by lot have no price"

    def judge(self, model: nn.Module, groups: Sequence[Group]) -> Judged:
        drawn = {g.name: torch.rand(g.size, generator=self.generator, dtype=torch.float64) for g in groups}
        return Judged({name: shares(values) for name, values in drawn.items()})
