"""Try a model out on a copy of it, without arithmetic where possible, and leave the model as it was."""

import copy
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.measure.copies import device_of, fake_model
from compressm_cli.objectives.classification import Classification
from compressm_cli.objectives.objective import Objective

T = TypeVar("T")


def example_batch(spec: DataSpec, rows: int) -> Split:
    """A batch of ``rows`` images, or sequences of the longest length, all zeros; counting needs its shapes alone.

    All entries share one number in memory, so it is for reading only.
    """
    if (spec.features is None) == (spec.vocabulary is None):
        raise ValueError("a data set has either features or a vocabulary")
    if spec.image is not None:
        inputs = torch.zeros(()).expand(rows, *spec.image)
    elif spec.features is None:
        inputs = torch.zeros((), dtype=torch.int64).expand(rows, spec.length)
    else:
        inputs = torch.zeros(()).expand(rows, spec.length, spec.features)
    labels = (rows, spec.length) if spec.per_step else (rows,)
    if spec.targets is not None:
        return Split(inputs, torch.zeros(()).expand(*labels, spec.targets))
    return Split(inputs, torch.zeros((), dtype=torch.int64).expand(labels))


def on_copy(model: nn.Module, batch: Split, measure: Callable[[nn.Module, Split], T]) -> T:
    """``measure`` of a copy of the model and the batch; neither they nor the random state change.

    The copy consists of fake tensors, which have a shape, a type and a device but no values: the same
    operators run as on that device, without memory or arithmetic. A model that needs values (a branch on
    data, an operator without a fake kernel) is copied for real instead, with a warning that says why.
    The model must not be compiled nor wrapped for distributed training: give the module inside.
    """
    device = device_of(model, batch.inputs.device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        try:
            with FakeTensorMode(allow_non_fake_inputs=True) as fake:
                return measure(fake_model(model, fake), _fake_batch(batch, device))
        except RuntimeError as error:  # what fake tensors raise where values are needed is one
            reason = f"{_place(error)}: {str(error).splitlines()[0]}"
        INVOCATION.warn(f"measured on a copy with values, which takes longer, since without them {reason}")
        twin = copy.deepcopy(model)
        twin.zero_grad(set_to_none=True)
        return measure(twin, batch.to(device))


def training_step(model: nn.Module, batch: Split, objective: Objective | None = None) -> None:
    """Forward in training mode, loss (cross-entropy, where no objective is given), backward."""
    model.train()
    objective = (objective or Classification()).on(batch.inputs.device)
    objective.training_loss(model, batch).backward()


def inference(model: nn.Module, batch: Split) -> None:
    """Forward in evaluation mode, without gradient."""
    model.eval()
    with torch.no_grad():
        model(batch.inputs, batch.lengths)


def _place(error: Exception) -> str:
    """The line, of a model or an objective, that went wrong."""
    frames = traceback.extract_tb(error.__traceback__)
    inside = Path(torch.__file__).parent
    theirs = [frame for frame in frames if inside not in Path(frame.filename).parents]
    return f"{theirs[-1].filename}:{theirs[-1].lineno}"


def _fake_batch(batch: Split, device: torch.device) -> Split:
    def like(t: Tensor) -> Tensor:
        return torch.empty(t.shape, dtype=t.dtype, device=device)

    lengths = None if batch.lengths is None else like(batch.lengths)
    return Split(like(batch.inputs), like(batch.labels), lengths)
