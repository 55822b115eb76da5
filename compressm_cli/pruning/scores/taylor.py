"""What the loss gains when a unit is silent, from gradients: the price of a unit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from compressm_cli.core.modes import in_evaluation_mode
from compressm_cli.pruning.groups import Group, by_unit
from compressm_cli.pruning.scores.score import Judged, Score


class Taylor(Score):
    """``n/2 E[(dL/dz)^2]``, the increase of the loss without a unit, to second order at a minimum of the loss.

    z is a gate of 1 on the unit, whose gradient is the sum of weight times gradient (Molchanov et al. 2017) over the
    entries where zeros make the unit silent; E is the mean over batches, and n the labels of a batch, which makes of
    the squared mean gradient the Fisher information of one label, an estimate of the curvature (Theis et al. 2018). In
    the unit of the loss, so that layers and kinds of units need no normalization.
    """

    HOW = "those without which the loss would rise most"

    def judge(self, model: nn.Module, groups: Sequence[Group]) -> Judged:
        gates = Gates(model, groups)
        with in_evaluation_mode(model), gates.trained():
            for batch in self.workload.batches:
                gates.update(self.workload.loss(model, batch), self.workload.labels(batch))
        return gates.result()


class Gates:
    """The squared gradients of virtual gates on units, streamed over batches."""

    def __init__(self, model: nn.Module, groups: Sequence[Group]) -> None:
        known = dict(model.named_parameters(remove_duplicate=False))
        self._judged = Judged()
        self._groups = []
        for group in groups:
            if not group.outputs:
                self._judged.unknown[group.name] = "no matrix reads its units"
            elif any(slot.tensor not in known for slot in group.outputs):
                self._judged.unknown[group.name] = "what makes its units silent is no parameter"
            else:
                self._groups.append(group)
        self._sums = {g.name: torch.zeros(g.size, dtype=torch.float64) for g in self._groups}
        self._parameters = {slot.tensor: known[slot.tensor] for g in self._groups for slot in g.outputs}
        self._batches = 0

    @contextmanager
    def trained(self) -> Iterator[None]:
        """Within, the gradients that it needs are computed, of frozen parameters too."""
        frozen = [p for p in self._parameters.values() if not p.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for parameter in frozen:
                parameter.requires_grad_(False)

    def update(self, loss: Tensor, labels: int) -> None:
        """Take in the mean loss of a batch over its labels."""
        if not self._groups:
            return
        gradients = torch.autograd.grad(loss, list(self._parameters.values()), materialize_grads=True)
        # Of each entry what it would give to the loss, to first order.
        given = {
            name: (p.detach() * g).double().cpu()
            for (name, p), g in zip(self._parameters.items(), gradients, strict=True)
        }
        for group in self._groups:
            gate = torch.zeros(group.size, dtype=torch.float64)
            for slot in group.outputs:
                gate += by_unit(given[slot.tensor], slot, group.size).sum(dim=1)
            self._sums[group.name] += labels / 2 * gate**2
        self._batches += 1

    def result(self) -> Judged:
        """Raises ValueError where there were no batches."""
        if self._groups and not self._batches:
            raise ValueError("there are no calibration batches")
        for name, total in self._sums.items():
            if bool(total.isfinite().all()):
                self._judged.scores[name] = total / self._batches
            else:
                self._judged.unknown[name] = "its gradients are not finite"
        return self._judged
