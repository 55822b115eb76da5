"""Short local distillation: train the cut parameters of one layer to give the output that the full layer gave."""

import copy
import math

import torch
from torch import Tensor

from compressm_cli.layers.selective import SelectiveLayer
from compressm_cli.ops.chunked import full_precision

RATE = 0.02
"""Learning rate at the start, for entries whose root mean square is one; it falls linearly to zero."""


def output_error(layer: SelectiveLayer, values: dict[str, Tensor], inputs: list[Tensor]) -> float | None:
    """Relative error of the layer's output on ``inputs`` (batch, length, H) with new state parameters ``values``.

    None where the output is zero.
    """
    return _error(_with(layer, values), inputs, _outputs(layer, inputs))


def distilled(
    layer: SelectiveLayer, values: dict[str, Tensor], inputs: list[Tensor], steps: int
) -> dict[str, Tensor]:
    """Better ``values`` than these, which ``layer.reduced_parameters`` gives: closer to the layer's own output.

    ``steps`` steps of Adam, each on one of ``inputs`` (batch, length, H) in turn, on the new states' parameters alone
    (``state_rows``); everything else of the layer stays. Returns ``values`` where the error over all inputs has not
    fallen. Only reads the layer; does not depend on the random state or on whether gradients are enabled.
    """
    student, wanted = _with(layer, values), _outputs(layer, inputs)
    before = _error(student, inputs, wanted)
    if before is None or steps == 0:
        return values
    names = [name for name in values if name in student.state_parameters]
    _train(student, names, inputs, wanted, steps)
    after = _error(student, inputs, wanted)
    if after is None or not after < before:
        return values
    return {**values, **{name: student.get_parameter(name).detach() for name in names}}


def _with(layer: SelectiveLayer, values: dict[str, Tensor]) -> SelectiveLayer:
    """A copy of the layer with new state parameters."""
    student = copy.deepcopy(layer)
    student.set_state_parameters({**values})
    return student


@torch.no_grad()
def _outputs(layer: SelectiveLayer, inputs: list[Tensor]) -> list[Tensor]:
    with full_precision(inputs[0].device):
        return [layer(u) for u in inputs]


def _error(student: SelectiveLayer, inputs: list[Tensor], wanted: list[Tensor]) -> float | None:
    wrong = whole = 0.0
    for found, y in zip(_outputs(student, inputs), wanted, strict=True):
        wrong += float((found - y).square().sum(dtype=torch.float64))
        whole += float(y.square().sum(dtype=torch.float64))
    return math.sqrt(wrong / whole) if whole > 0 else None


def _train(
    student: SelectiveLayer, names: list[str], inputs: list[Tensor], wanted: list[Tensor], steps: int
) -> None:
    student.requires_grad_(False)
    parameters = [student.get_parameter(name).requires_grad_() for name in names]
    rows = [student.state_rows().get(name, slice(None)) for name in names]
    sizes = [float(p.detach()[r].square().mean().sqrt()) for p, r in zip(parameters, rows, strict=True)]
    optimizer = torch.optim.Adam([{"params": [p]} for p in parameters])
    scale = sum(float(y.square().mean()) for y in wanted) / len(wanted)
    for step in range(steps):
        u, y = inputs[step % len(inputs)], wanted[step % len(inputs)]
        with torch.enable_grad(), full_precision(u.device):
            ((student(u) - y).square().mean() / scale).backward()
        for p, r, group, size in zip(parameters, rows, optimizer.param_groups, sizes, strict=True):
            group["lr"] = RATE * size * (1 - step / steps)
            assert p.grad is not None
            own = torch.zeros_like(p.grad)
            own[r] = p.grad[r]
            p.grad = own  # Adam does not move what has never had a gradient
        optimizer.step()
        optimizer.zero_grad()
