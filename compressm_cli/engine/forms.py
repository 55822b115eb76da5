"""Which form each layer's recurrence takes in a run."""

from typing import Literal

import torch
from torch import nn

from compressm_cli.layers.interface import state_space_layers
from compressm_cli.ops.calibration import calibrated
from compressm_cli.ops.forms import CostModel, Form
from compressm_cli.ops.scan import load_kernels


def costs_here(
    model: nn.Module, wanted: Literal["auto"] | Form, device: torch.device, precision: str
) -> CostModel | None:
    """The machine's cost model where there is a layer whose form is to be chosen by its cost.

    Then the compiled kernels are loaded too: a layer that changes its form after a cut finds them ready.
    """
    needed = wanted == "auto" and any(len(layer.forms) > 1 for layer in state_space_layers(model).values())
    if not needed:
        return None
    load_kernels(device)
    return calibrated(device, precision)


def choose_forms(
    model: nn.Module, wanted: Literal["auto"] | Form, costs: CostModel | None, batch: int, length: int
) -> dict[str, str]:
    """Set the form of every layer, and tell it by the layer's name; a layer with one form keeps that one."""
    for layer in state_space_layers(model).values():
        if not layer.forms:
            layer.form = layer.backend(next(layer.parameters()).device)
        elif len(layer.forms) == 1:
            (layer.form,) = layer.forms
        elif wanted != "auto":
            layer.form = wanted
        elif costs is not None:
            layer.form = costs.cheapest(layer.recurrence(batch, length))
    return {name: str(layer.form) for name, layer in state_space_layers(model).items()}


def forget_forms(model: nn.Module) -> None:
    """Back to the forms that a model takes outside training."""
    for layer in state_space_layers(model).values():
        layer.form = None
