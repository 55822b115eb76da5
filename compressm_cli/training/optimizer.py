"""AdamW with a group for recurrent parameters, and the learning rate as a function of the step."""

import math

from torch import nn
from torch.optim import AdamW

from compressm_cli.layers.interface import state_space_layers
from compressm_cli.recipe.schema import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> AdamW:
    """AdamW over all parameters: recurrent ones with their own factor and no weight decay, then the rest."""
    names = {
        f"{prefix}.{name}"
        for prefix, layer in state_space_layers(model).items()
        for name in layer.recurrent_parameters
    }
    recurrent = [p for name, p in model.named_parameters() if name in names]
    rest = [p for name, p in model.named_parameters() if name not in names]
    groups = [
        {"params": recurrent, "weight_decay": 0.0, "factor": config.recurrent_lr_factor},
        {"params": rest, "factor": 1.0},
    ]
    return AdamW(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The learning rate of step 1..steps, before a group's factor: linear warm-up, then constant or cosine."""
    warmup = round(config.warmup * config.steps)
    if step <= warmup:
        return config.learning_rate * step / warmup
    if config.lr_schedule == "constant":
        return config.learning_rate
    progress = (step - warmup) / max(1, config.steps - warmup)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: AdamW, rate: float) -> None:
    """Give every group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
