"""One step of training: forward, backward, update."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.optim import Optimizer

from compressm_cli.data.interface import Split
from compressm_cli.engine.batches import Share
from compressm_cli.engine.distributed.replicas import without_exchange
from compressm_cli.engine.precision import autocast
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method, StepContext
from compressm_cli.methods.parameters import average_gradients
from compressm_cli.objectives.classification import Classification
from compressm_cli.objectives.objective import Objective
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure.masks import Held
from compressm_cli.structure.optimizers import method_parameters

Forward = Callable[[Tensor, Tensor | None], Tensor]


def training_step(
    model: nn.Module,
    optimizer: Optimizer,
    share: Share,
    config: TrainConfig,
    forward: Forward | None = None,
    method: Method | None = None,
    context: StepContext | None = None,
    objective: Objective | None = None,
) -> Tensor:
    """Update the model by the mean loss over a batch; the learning rate is the one that the optimizer has.

    Without an ``objective`` the loss is cross-entropy.

    ``forward`` is the compiled or the replicated model, where it is one. A ``method`` may add a penalty and look at the
    gradients, in its ``context``. Returns the loss, detached, on the device; of several processes each has its own
    part, and their sum is the loss.
    """
    optimizer.zero_grad(set_to_none=True)
    called = model if forward is None else forward
    objective = objective or Classification()
    *before, last = share.parts
    losses = []
    for part in before:
        with without_exchange(called):
            losses.append(_backward(part, share, config, called, objective))
    penalty = None if method is None or context is None else ask(method, Method.penalty, context)
    losses.append(_backward(last, share, config, called, objective, penalty))
    held = Held.of(model)
    held.mask_gradients()
    own = method_parameters(optimizer)
    if own and share.processes > 1:
        average_gradients(own)
    if method is not None and context is not None:
        ask(method, Method.after_backward, context)
    if config.clip_norm is not None:
        nn.utils.clip_grad_norm_([*held.parameters, *own], config.clip_norm)
    optimizer.step()
    held.enforce_masks()
    return sum(losses[1:], losses[0])


def _backward(
    part: Split,
    share: Share,
    config: TrainConfig,
    forward: Forward,
    objective: Objective,
    penalty: Tensor | None = None,
) -> Tensor:
    """Add the gradients of one part, and of a penalty; returns what the part contributes to the loss of the batch."""
    labels = share.labels
    with autocast(part.labels.device, config.precision):
        loss = objective.training_loss(forward, part, "mean" if labels is None else "sum")
    if labels is None:
        (loss if penalty is None else loss + penalty).backward()
        return loss.detach()
    loss = loss / labels
    # The processes' gradients are averaged, and their losses add up; each has the same penalty.
    scaled = loss * share.processes
    (scaled if penalty is None else scaled + penalty).backward()
    return loss.detach()
