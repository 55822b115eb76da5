"""Short local distillation: train the cut parameters of one layer to give the output that the full layer gave."""

import copy
import math

import torch
from torch import Tensor

from compressm_cli.layers.selective import SelectiveLayer
from compressm_cli.methods.calibration import Statistic, real_steps, without_padding
from compressm_cli.methods.hankel.selective.excerpt import Rows
from compressm_cli.ops.chunked import full_precision

RATE = 0.02
"""Learning rate at the start, for entries whose root mean square is one; it falls linearly to zero."""

Batch = list[Rows]
"""What a layer sees of one batch, in the parts that are passed through the model at once."""


class AllInputs(Statistic):
    """All that one layer sees, batch by batch: each step of distillation looks at a whole batch, again and again.

    It is kept in the memory of the CPU, (rows, length, H) numbers a batch, and the layer's outputs as well.
    """

    def __init__(self) -> None:
        self._batches: list[Batch] = [[]]

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        self._batches[-1].append(Rows(u.cpu(), None if lengths is None else lengths.cpu()))

    def end_batch(self) -> None:
        self._batches.append([])

    def result(self) -> list[Batch]:
        """The batches, none of which is empty."""
        batches = [batch for batch in self._batches if batch]
        if not batches:
            raise ValueError("there are no calibration batches to distil on")
        return batches


def output_error(layer: SelectiveLayer, values: dict[str, Tensor], batches: list[Batch]) -> float | None:
    """Relative error of the layer's output on some batches with new state parameters ``values``.

    None where the output is zero.
    """
    return _error(_with(layer, values), batches, _outputs(layer, batches))


def distilled(
    layer: SelectiveLayer, values: dict[str, Tensor], batches: list[Batch], steps: int
) -> dict[str, Tensor]:
    """Better ``values`` than these, which ``layer.reduced_parameters`` gives: closer to the layer's own output.

    ``steps`` steps of Adam, each on one of the batches in turn, part by part, on the new states' parameters alone
    (``state_rows``); everything else of the layer stays. Returns ``values`` where the error over all batches has not
    fallen. Only reads the layer; does not depend on the random state or on whether gradients are enabled.
    """
    student, wanted = _with(layer, values), _outputs(layer, batches)
    before = _error(student, batches, wanted)
    if before is None or steps == 0:
        return values
    names = [name for name in values if name in student.state_parameters]
    _train(student, names, batches, wanted, steps)
    after = _error(student, batches, wanted)
    if after is None or not after < before:
        return values
    return {**values, **{name: student.get_parameter(name).detach() for name in names}}


def _with(layer: SelectiveLayer, values: dict[str, Tensor]) -> SelectiveLayer:
    """A copy of the layer with new state parameters."""
    student = copy.deepcopy(layer)
    student.set_state_parameters({**values})
    return student


def _output(layer: SelectiveLayer, rows: Rows) -> Tensor:
    """(steps, H), without padding; on the device of the layer."""
    u = rows.u.to(next(layer.parameters()).device)
    with full_precision(u.device):
        y: Tensor = layer(u)
    return without_padding(y, real_steps(None if rows.lengths is None else rows.lengths.to(u.device), u))


@torch.no_grad()
def _outputs(layer: SelectiveLayer, batches: list[Batch]) -> list[list[Tensor]]:
    return [[_output(layer, rows).cpu() for rows in batch] for batch in batches]


@torch.no_grad()
def _error(student: SelectiveLayer, batches: list[Batch], wanted: list[list[Tensor]]) -> float | None:
    wrong = whole = 0.0
    for batch, outputs in zip(batches, wanted, strict=True):
        for rows, y in zip(batch, outputs, strict=True):
            found = _output(student, rows)
            wrong += float((found - y.to(found.device)).square().sum(dtype=torch.float64))
            whole += float(y.square().sum(dtype=torch.float64))
    return math.sqrt(wrong / whole) if whole > 0 else None


def _train(
    student: SelectiveLayer, names: list[str], batches: list[Batch], wanted: list[list[Tensor]], steps: int
) -> None:
    student.requires_grad_(False)
    parameters = [student.get_parameter(name).requires_grad_() for name in names]
    rows = [student.state_rows().get(name, slice(None)) for name in names]
    sizes = [float(p.detach()[r].square().mean().sqrt()) for p, r in zip(parameters, rows, strict=True)]
    optimizer = torch.optim.Adam([{"params": [p]} for p in parameters])
    scale = sum(_mean_square(outputs) for outputs in wanted) / len(wanted)
    for step in range(steps):
        turn = step % len(batches)
        _add_gradients(student, batches[turn], wanted[turn], scale)
        for p, r, group, size in zip(parameters, rows, optimizer.param_groups, sizes, strict=True):
            group["lr"] = RATE * size * (1 - step / steps)
            assert p.grad is not None
            own = torch.zeros_like(p.grad)
            own[r] = p.grad[r]
            p.grad = own  # Adam does not move what has never had a gradient
        optimizer.step()
        optimizer.zero_grad()


def _mean_square(outputs: list[Tensor]) -> float:
    squares = [y.square().sum() for y in outputs]
    return float(sum(squares[1:], squares[0]) / _entries(outputs))


def _entries(outputs: list[Tensor]) -> int:
    return sum(y.numel() for y in outputs)


def _add_gradients(student: SelectiveLayer, batch: Batch, wanted: list[Tensor], scale: float) -> None:
    """Of the mean square of the error over a batch, in units of ``scale``."""
    entries, device = _entries(wanted), next(student.parameters()).device
    for rows, y in zip(batch, wanted, strict=True):
        with torch.enable_grad(), full_precision(device):
            error = _output(student, rows) - y.to(device)
            (error.square().sum() / entries / scale).backward()
