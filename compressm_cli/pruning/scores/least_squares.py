"""What a layer's output loses when a unit is silent, after the best fold."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressm_cli.pruning.consumers import Consumer, Moment, consumers_of, moments_of
from compressm_cli.pruning.folds import gram, ridge_of
from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.scores.score import Judged, Score


class LeastSquares(Score):
    """The error of the output of the matrix that reads a unit when that is silent, as a share of the output's variance.

    After the best fold of this unit alone into the others (least squares, Hassibi and Stork 1993, "Optimal brain
    surgeon", with the output's error for the loss); without one where nothing is to be folded. Summed over the
    matrices that read it; what reads it in another way does not count.
    """

    HOW = "those whose outputs are hardest to make of the others'"
    PRICE = "the error of a layer's output is no loss"

    def judge(self, model: nn.Module, groups: Sequence[Group]) -> Judged:
        judged, readers = Judged(), dict[Consumer, list[Group]]()
        for group in groups:
            found, reasons = consumers_of(model, group)
            for one in found:
                readers.setdefault(one, []).append(group)
            if not found:
                judged.unknown[group.name] = "; ".join(reasons)
        for consumer, moment in moments_of(model, readers, self.workload):
            for group in readers[consumer]:
                if isinstance(moment, str):
                    judged.unknown[group.name] = f"{consumer.module}: {moment}"
                else:
                    errors = _errors(consumer.matrix(model), group, consumer, moment, self.folded)
                    judged.scores[group.name] = (
                        judged.scores.get(group.name, torch.zeros_like(errors)) + errors
                    )
        for name in judged.unknown:
            judged.scores.pop(name, None)
        return judged


def _errors(matrix: Tensor, group: Group, consumer: Consumer, moment: Moment, folded: bool) -> Tensor:
    """Of the output when a unit is silent (units,), as shares of its variance."""
    seen = gram(moment, consumer.bias is not None)
    whole = float((matrix @ seen * matrix).sum())
    if not folded:
        seen, precision, ridge = moment.second, None, 0.0
    else:
        ridge = ridge_of(seen)
        precision = torch.linalg.inv(seen + ridge * torch.eye(len(seen), dtype=seen.dtype))
    errors = []
    for unit in range(group.size):
        own = consumer.entries(group, torch.tensor([unit]))
        if precision is None:
            left = seen[own][:, own]
        else:  # of what no combination of the others can give
            left = torch.linalg.inv(precision[own][:, own]) - ridge * torch.eye(len(own), dtype=seen.dtype)
        errors.append((matrix[:, own] @ left * matrix[:, own]).sum())
    found = torch.stack(errors).clamp(min=0)
    return found / whole if whole > 0 else found
