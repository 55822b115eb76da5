"""One step of training: forward, backward, update."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.compression import surgery
from compressm_cli.data.interface import Split
from compressm_cli.data.objective import cross_entropy
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.training.precision import autocast


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Split,
    config: TrainConfig,
    forward: Callable[[Tensor, Tensor | None], Tensor] | None = None,
) -> Tensor:
    """Update the model by the mean cross-entropy over a batch; returns that loss, detached, on the device.

    ``forward`` is the compiled model, where it is compiled. The learning rate is the one that the optimizer has.
    """
    with autocast(batch.labels.device, config.precision):
        logits = (model if forward is None else forward)(batch.inputs, batch.lengths)
    loss = cross_entropy(logits, batch.labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    optimizer.step()
    surgery.enforce_masks(model)
    return loss.detach()
