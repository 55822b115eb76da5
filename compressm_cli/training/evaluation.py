"""Accuracy and loss on a split, and what the layers see on calibration batches."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.data.interface import Split
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Mean over the rows of a split."""

    accuracy: float
    loss: float
    rows: int


@torch.no_grad()
def evaluate(model: nn.Module, split: Split, batch_size: int, precision: str = "fp32") -> Evaluation:
    """Evaluate in evaluation mode; leaves the model in the mode it was in."""
    device = split.labels.device
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.long, device=device)
    for index in torch.arange(len(split), device=device).split(batch_size):
        batch = split.rows(index)
        with autocast(device, precision):
            logits = model(batch.inputs, batch.lengths)
        loss += nn.functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
        correct += (logits.argmax(dim=1) == batch.labels).sum()
    model.train(was_training)
    rows = len(split)
    return Evaluation(float(correct) / rows, float(loss) / rows, rows)


@torch.no_grad()
def layer_inputs(model: nn.Module, batches: list[Split]) -> dict[str, list[Tensor]]:
    """The input (batch, length, H) of each compressible layer on each batch, in evaluation mode."""
    seen: dict[str, list[Tensor]] = {name: [] for name in state_space_layers(model)}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].detach()))
        for name, layer in state_space_layers(model).items()
    ]
    was_training = model.training
    model.eval()
    try:
        for batch in batches:
            model(batch.inputs, batch.lengths)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return seen
