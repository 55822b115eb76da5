"""Units with the largest weights: what most pruning chooses by."""

from collections.abc import Sequence

from torch import nn

from compressm_cli.methods.baselines.weights import magnitudes
from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.scores.score import Judged, Score, shares


class Magnitude(Score):
    """The L2 norm of a unit's entries in matrices, as shares of their sum in a layer."""

    HOW = "those with the largest weights"
    PRICE = "the size of weights is no loss"

    def judge(self, model: nn.Module, groups: Sequence[Group]) -> Judged:
        judged = Judged()
        for group in groups:
            values = magnitudes(model, group.axes)
            if bool(values.isfinite().all()):
                judged.scores[group.name] = shares(values)
            else:
                judged.unknown[group.name] = "its weights are not finite"
        return judged
