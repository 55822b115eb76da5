"""Everything that decides how training goes on from a step: what a rejected cut and a resumed run go back to."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from compressm_cli.engine.batches import derived_generator
from compressm_cli.engine.distributed.group import Group
from compressm_cli.structure import surgery
from compressm_cli.structure.masks import masks_of
from compressm_cli.structure.optimizers import method_parameters
from compressm_cli.structure.store import ParkedUnits, parked_units, set_parked_units


def capture(
    model: nn.Module, optimizer: Optimizer | None, device: torch.device | None = None
) -> dict[str, Any]:
    """Copies of weights, buffers, masks, frozen parameters and optimizer state, as plain data and tensors.

    Beside them are the method's own ``parameters``. Those of the model are on ``device``, by default where it is.

    With these, the random state and the step training goes on exactly: the data position and the learning rate are
    functions of the step.
    """
    return {
        "weights": {name: value.detach().to(device, copy=True) for name, value in model.state_dict().items()},
        "masks": {name: mask.to(device, copy=True) for name, mask in masks_of(model).items()},
        "frozen": surgery.frozen(model),
        "sizes": surgery.sizes(model),
        "parked": parked_units(model).to(device or next(model.parameters()).device).state_dict(),
        "optimizer": None if optimizer is None else copy.deepcopy(optimizer.state_dict()),
        "parameters": [] if optimizer is None else _own(optimizer, device),
    }


def outline(model: nn.Module, optimizer: Optimizer) -> dict[str, Any]:
    """What ``capture`` gives, without the values: shapes and types, on the meta device."""
    state = {
        "weights": model.state_dict(),
        "masks": masks_of(model),
        "optimizer": optimizer.state_dict(),
        "parameters": _own(optimizer),
    }
    kept = {"frozen": surgery.frozen(model), "sizes": surgery.sizes(model)}
    return {**surgery.outlined(state), **kept, "parked": parked_units(model).outline().state_dict()}


def _own(optimizer: Optimizer, device: torch.device | None = None) -> list[Tensor]:
    """Copies of the method's own parameters."""
    return [p.detach().to(device, copy=True) for p in method_parameters(optimizer)]


def random_state() -> dict[str, Any]:
    """PyTorch's random state of this process, on all devices."""
    return {
        "cpu": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def own_part(
    processes: list[dict[str, Any]], group: Group, seed: int, step: int
) -> tuple[dict[str, Any], str | None]:
    """Of what the processes had when a checkpoint was written: this one's, or what will do for it.

    Also what is to be told, where there are not as many as then.
    """
    if len(processes) == group.size:
        return processes[group.rank], None
    losses = torch.stack([p["window_loss"] for p in processes])
    told = (
        f"the checkpoint is of {len(processes)} processes, these are {group.size}: the run goes on from the same "
        "weights, not bit for bit as it would have"
    )
    if group.is_main:
        return {**processes[0], "window_loss": losses.sum()}, told
    fresh = derived_generator(seed, "process", group.rank, step).get_state()
    random = {**processes[0]["random"], "cpu": fresh}
    own = {"random": random, "trial_random": random, "window_loss": losses.new_zeros(())}
    return {**processes[0], **own}, told


def restore_random(saved: dict[str, Any]) -> None:
    """Put back what ``random_state`` gave."""
    torch.set_rng_state(saved["cpu"])
    if torch.cuda.is_available() and saved["cuda"]:
        torch.cuda.set_rng_state_all(saved["cuda"])


def reshape(model: nn.Module, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Make room for what was captured, of which ``saved`` is the outline; values of any content, where the model is."""
    device = next(model.parameters()).device

    def room(saved: Any) -> Any:
        return tree_map_only(Tensor, lambda t: torch.empty_like(t, device=device) if t.is_meta else t, saved)

    surgery.resize(model, optimizer, saved["weights"], saved["sizes"])
    surgery.restore_constraints(model, room(saved["masks"]), saved["frozen"])
    set_parked_units(model, ParkedUnits.of_state(saved["parked"]).with_room(device))
    optimizer.load_state_dict(room(saved["optimizer"]))
    optimizer.zero_grad(set_to_none=True)


def restore(model: nn.Module, optimizer: Optimizer, saved: dict[str, Any]) -> None:
    """Put back what ``capture`` gave, shapes included."""
    surgery.resize(model, optimizer, saved["weights"], saved["sizes"])
    model.load_state_dict(saved["weights"])
    surgery.restore_constraints(model, saved["masks"], saved["frozen"])
    device = next(model.parameters()).device
    set_parked_units(model, ParkedUnits.of_state(saved["parked"]).to(device))
    optimizer.load_state_dict(copy.deepcopy(saved["optimizer"]))
    with torch.no_grad():
        for parameter, value in zip(method_parameters(optimizer), saved["parameters"], strict=True):
            parameter.copy_(value)
    optimizer.zero_grad(set_to_none=True)
