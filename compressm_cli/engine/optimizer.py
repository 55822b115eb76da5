"""AdamW with a group for each role of parameters, and the learning rate as a function of the step."""

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import AdamW

from compressm_cli.layers.interface import ROLES, parameter_groups
from compressm_cli.recipe.schema import TrainConfig


def build_optimizer(
    model: nn.Module, config: TrainConfig, count: int = len(ROLES), own: Sequence[dict[str, Any]] = ()
) -> AdamW:
    """AdamW over all parameters in ``count`` groups (``layers.interface.parameter_groups``), and a method's ``own``.

    Recurrent parameters have their own factor and no weight decay, matrices have weight decay, others have none. In an
    optimizer of two groups, whose state an earlier version saved, all that are not recurrent have it.
    """
    named = dict(model.named_parameters())
    recurrent, decayed, *others = [
        [named[name] for name in names] for names in parameter_groups(model, count)
    ]
    groups = [
        {"params": recurrent, "weight_decay": 0.0, "factor": config.recurrent_lr_factor},
        {"params": decayed, "factor": 1.0},
        *({"params": those, "weight_decay": 0.0, "factor": 1.0} for those in others),
        *own,
    ]
    return AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: float, steps: int | None = None) -> float:
    """The learning rate of step 1..steps, before a group's factor: linear warm-up, then constant or cosine.

    ``steps`` is the length of the run where a budget makes it another than ``train.steps``.
    """
    steps = config.steps if steps is None else steps
    warmup = round(config.warmup * steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
