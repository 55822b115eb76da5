"""Everything that decides how training goes on from a step: what a rejected cut and a resumed run go back to."""

import copy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm_cli.compression import surgery


def capture(model: nn.Module, optimizer: Optimizer, step: int) -> dict[str, Any]:
    """Copies of weights, buffers, masks, frozen parameters, optimizer and random state, as plain data and tensors.

    The data position and the learning rate are functions of the step.
    """
    return {
        "step": step,
        "weights": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "masks": {name: mask.clone() for name, mask in surgery.masks(model).items()},
        "frozen": surgery.frozen(model),
        **capture_beside_model(optimizer),
    }


def capture_beside_model(optimizer: Optimizer) -> dict[str, Any]:
    """The part of ``capture`` that a checkpoint does not hold already: optimizer and random state."""
    return {
        "optimizer": copy.deepcopy(optimizer.state_dict()),
        "random": {
            "cpu": torch.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        },
    }


def restore(model: nn.Module, optimizer: Optimizer, saved: dict[str, Any]) -> int:
    """Put everything back, shapes included; returns the step."""
    surgery.resize(model, optimizer, saved["weights"])
    model.load_state_dict(saved["weights"])
    surgery.restore_constraints(model, saved["masks"], saved["frozen"])
    optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
    optimizer.zero_grad(set_to_none=True)
    torch.set_rng_state(saved["random"]["cpu"])
    if torch.cuda.is_available() and saved["random"]["cuda"]:
        torch.cuda.set_rng_state_all(saved["random"]["cuda"])
    return int(saved["step"])
