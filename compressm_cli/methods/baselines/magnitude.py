"""Units with the largest weights: what most pruning chooses by."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.layers.interface import parameter_roles
from compressm_cli.layers.time_invariant import TimeInvariantLayer
from compressm_cli.methods.baselines.scored import Scored, ScoredConfig


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


def magnitudes(model: nn.Module, together: Sequence[Axis]) -> Tensor:
    """The norm of the weights of each unit (n,) of axes that keep the same ones, float64 on the CPU."""
    squares = torch.zeros(together[0].size, dtype=torch.float64)
    roles, parameters = parameter_roles(model), dict(model.named_parameters())
    for axis in together:
        layer = model.get_submodule(axis.module)
        if axis.kind == "state" and isinstance(layer, TimeInvariantLayer):
            squares += _of_states(layer)
            continue
        for slot in axis.slots:
            if roles.get(slot.tensor) == "matrix":
                entries = parameters[slot.tensor].detach().abs().double().cpu().square()
                along = entries.movedim(slot.dim, 0).flatten(1).sum(dim=1)
                places = [slot.entries(torch.tensor([unit])) for unit in range(axis.size)]
                squares += torch.stack([along[place].sum() for place in places])
    return squares.sqrt()


def _of_states(layer: TimeInvariantLayer) -> Tensor:
    """Squares of read-in times read-out (n,), summed over the layer's systems."""
    found = [
        system.B.abs().square().sum(dim=1) * system.C.abs().square().sum(dim=0) for system in layer.systems()
    ]
    return torch.stack(found).sum(dim=0).double().cpu()
