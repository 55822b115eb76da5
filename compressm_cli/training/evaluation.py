"""Accuracy and loss on a split, and what the layers see on calibration batches."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from compressm_cli.data.interface import IGNORE, Split
from compressm_cli.data.objective import cross_entropy
from compressm_cli.distributed.group import Group
from compressm_cli.layers.interface import state_space_layers
from compressm_cli.training.precision import autocast


@dataclass(frozen=True)
class Evaluation:
    """Mean over the labels of a split: one a row, or those of the scored steps."""

    accuracy: float
    loss: float
    rows: int
    labels: int
    """How many labels were scored."""


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, batch_size: int, precision: str = "fp32", group: Group | None = None
) -> Evaluation:
    """Evaluate in evaluation mode, each process of the group its part; leaves the model in the mode it was in."""
    group = group or Group()
    device = split.labels.device
    was_training = model.training
    model.eval()
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct, labels = (torch.zeros((), dtype=torch.long, device=device) for _ in range(2))
    own = torch.arange(len(split), device=device).tensor_split(group.size)[group.rank]
    for index in own.split(batch_size) if len(own) else ():
        batch = split.rows(index)
        with autocast(device, precision):
            logits = model(batch.inputs, batch.lengths)
        loss += cross_entropy(logits, batch.labels, reduction="sum")
        correct += (logits.argmax(dim=-1) == batch.labels).sum()
        labels += (batch.labels != IGNORE).sum()
    model.train(was_training)
    group.sum(loss, correct, labels)
    scored = int(labels)
    return Evaluation(float(correct) / scored, float(loss) / scored, len(split), scored)


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
