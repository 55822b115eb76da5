"""Everything that decides how training goes on from a step: what a rejected cut and a resumed run go back to."""

import copy
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm_cli.compression import surgery


def capture(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """Copies of weights, buffers, masks, frozen parameters and optimizer state, as plain data and tensors.

    With these, the random state and the step training goes on exactly: the data position and the learning rate are
    functions of the step.
    """
    return {
        "weights": {name: value.detach().clone() for name, value in model.state_dict().items()},
        "masks": {name: mask.clone() for name, mask in surgery.masks(model).items()},
        "frozen": surgery.frozen(model),
        "optimizer": copy.deepcopy(optimizer.state_dict()),
    }


def random_state() -> dict[str, Any]:
    """PyTorch's random state of this process, on all devices."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random(saved: dict[str, Any]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(saved["cpu"])
    if torch.cuda.is_available() and saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])


def restore(model: nn.Module, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put back what ``capture`` gave, shapes included."""
    surgery.resize(model, optimizer, saved["weights"])
    model.load_state_dict(saved["weights"])
    surgery.restore_constraints(model, saved["masks"], saved["frozen"])
    optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
    optimizer.zero_grad(set_to_none=True)
