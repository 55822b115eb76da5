"""Try a model out on a copy of it, without arithmetic where possible, and leave the model as it was."""

import copy
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map_only

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.data.interface import DataSpec, Split
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
                return measure(_fake_model(model, fake), _fake_batch(batch, device))
        except RuntimeError as error:  # what fake tensors raise where values are needed is one
            reason = f"{_place(error)}: {str(error).splitlines()[0]}"
        INVOCATION.warn(f"measured on a copy with values, which takes longer, since without them {reason}")
        twin = copy.deepcopy(model)
        twin.zero_grad(set_to_none=True)
        return measure(twin, batch.to(device))


def on_fake_copy(
    model: nn.Module, inputs: Any, device: torch.device, measure: Callable[[nn.Module, Any], T]
) -> T:
    """``measure`` of a copy of the model and of the tensors in ``inputs`` without values, as if on a device.

    The model's own tensors may be on the meta device already. Passes on the RuntimeError of a model that needs values.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), FakeTensorMode(allow_non_fake_inputs=True) as fake:
        like = partial(torch.empty_like, device=device)
        return measure(_fake_model(model, fake, device), tree_map_only(Tensor, like, inputs))


def without_values(model: nn.Module) -> nn.Module:
    """A copy of the model whose parameters are on the meta device; buffers keep their values."""
    twins: dict[int, object] = {
        id(p): nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        for p in model.parameters()
    }
    return copy.deepcopy(model, twins)


def device_of(model: nn.Module, default: torch.device) -> torch.device:
    """That of the first parameter of a model."""
    return next((p.device for p in model.parameters()), default)


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


def _fake_model(model: nn.Module, fake: FakeTensorMode, device: torch.device | None = None) -> nn.Module:
    # Tensors are handed to deepcopy as if copied already, so that no second set of weights, nor of
    # gradients, ever exists: on a GPU that would show up in the peak memory of the run.
    def faked(t: Tensor) -> Tensor:
        return torch.empty_like(t, device=device) if t.is_meta else fake.from_tensor(t.detach())

    twins: dict[int, object] = {
        id(p): nn.Parameter(faked(p), requires_grad=p.requires_grad) for p in model.parameters()
    }
    twins.update({id(b): faked(b) for b in model.buffers()})
    return copy.deepcopy(model, twins)


def _fake_batch(batch: Split, device: torch.device) -> Split:
    def like(t: Tensor) -> Tensor:
        return torch.empty(t.shape, dtype=t.dtype, device=device)

    lengths = None if batch.lengths is None else like(batch.lengths)
    return Split(like(batch.inputs), like(batch.labels), lengths)
