"""How large the weights of units are."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.layers.interface import parameter_roles


def magnitudes(model: nn.Module, together: Sequence[Axis]) -> Tensor:
    """The norm of the weights of each unit (n,) of axes that keep the same ones, float64 on the CPU."""
    squares = torch.zeros(together[0].size, dtype=torch.float64)
    roles = parameter_roles(model)
    for axis in together:
        if axis.kind == "state" and (found := _of_states(model.get_submodule(axis.module))) is not None:
            squares += found
            continue
        for slot in axis.slots:
            if roles.get(slot.tensor) == "matrix":
                entries = model.get_parameter(slot.tensor).detach().abs().double().cpu().square()
                along = entries.movedim(slot.dim, 0).flatten(1).sum(dim=1)
                places = [slot.entries(torch.tensor([unit])) for unit in range(axis.size)]
                squares += torch.stack([along[place].sum() for place in places])
    return squares.sqrt()


def _of_states(layer: nn.Module) -> Tensor | None:
    """Squares of read-in times read-out (n,), summed over a layer's systems; None of one that has none."""
    from compressm_cli.layers.time_invariant import TimeInvariantLayer  # with SciPy and kernels

    if not isinstance(layer, TimeInvariantLayer):
        return None
    found = [
        system.B.abs().square().sum(dim=1) * system.C.abs().square().sum(dim=0) for system in layer.systems()
    ]
    return torch.stack(found).sum(dim=0).double().cpu()
