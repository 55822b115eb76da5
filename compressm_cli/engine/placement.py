"""How the processes of a run hold its model: each a copy of it, or (``sharded.py``) each a part."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from compressm_cli.checkpoint.skeleton import with_memory
from compressm_cli.engine import state
from compressm_cli.engine.distributed.agreement import agreed, confirm, share_memory, synchronize
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.distributed.replicas import replicated
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.models import pool_statistics
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import Plan

Held = dict[str, Any]
"""Weights, masks, names of frozen parameters and optimizer state, as plain data and tensors.

The main process has the values. What others have of it has shapes and types alone.
"""


class Replicated:
    """Each process holds the whole model and its optimizer's state; one process does so without further ado.

    All methods are collective. Those that may change shapes return the model to go on with.
    """

    def __init__(self, group: Group, device: torch.device) -> None:
        self.group, self.device = group, device

    @property
    def rows(self) -> Group:
        """The processes that share out the rows of an evaluation."""
        return self.group

    def fresh(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A model of random weights, to be placed."""
        return make()

    def place(self, model: nn.Module) -> nn.Module:
        """A model on the CPU, to be trained; or one without memory, whose values are to be restored."""
        pool_statistics(model, self.group.size)
        without_memory = any(p.is_meta for p in model.parameters())
        return with_memory(model, self.device) if without_memory else model.to(self.device)

    def forward(self, model: nn.Module) -> nn.Module:
        """What to call in training; to be asked anew after each change of shapes."""
        pool_statistics(model, self.group.size)  # of what came back or grew, too
        return replicated(model, self.group, self.device)

    def require_method(self, method: Method) -> None:
        """BadInputError for a method that the model cannot be held for like this."""

    def outline(self, model: nn.Module) -> nn.Module:
        """A plain model of the same shapes, to count."""
        return model

    def plan(self, method: Method, model: nn.Module, context: CheckContext) -> Plan:
        """What the method decides in the main process; what it remembers then is the same in all of them."""
        decided = self.group.from_main(lambda: ask(method, Method.plan, model, context))
        share_memory(method, context.generator, self.group)
        return decided

    def apply(self, model: nn.Module, optimizer: Optimizer, plan: Plan) -> nn.Module:
        """Carry out a plan. ValueError in all processes, with nothing changed, where it cannot be."""
        refusal = None
        try:
            require_rebuildable(plan)
            surgery.apply_plan(model, optimizer, plan)
        except ValueError as error:
            refusal = str(error)
        agreed(refusal is None, self.group, "whether the cut can be made")
        if refusal is not None:
            raise ValueError(refusal)
        return model

    def capture(self, model: nn.Module, optimizer: Optimizer) -> Held:
        """Copies to go back to, kept by the main process where the model is; the others keep the shapes."""
        return state.capture(model, optimizer) if self.group.is_main else state.outline(model, optimizer)

    def restore(self, model: nn.Module, optimizer: Optimizer, held: Held) -> nn.Module:
        """Put everything back, shapes included, from what the main process holds."""
        put_back = state.restore if self.group.is_main else state.reshape
        put_back(model, optimizer, held)
        synchronize(model, optimizer, self.group)
        return model

    def whole(self, model: nn.Module, optimizer: Optimizer | None = None) -> Held | None:
        """Copies on the CPU in the main process, for a checkpoint; None in the others."""
        if not self.group.is_main:
            return None
        return state.capture(model, optimizer, torch.device("cpu"))

    def confirm(self, model: nn.Module, optimizer: Optimizer, when: str) -> str:
        """Give all processes the main one's values, and compare; the checksum that all have."""
        synchronize(model, optimizer, self.group)
        return confirm(model, optimizer, self.group, when)


def require_rebuildable(plan: Plan) -> None:
    """ValueError for a plan after which no checkpoint could tell how to build the model."""
    strange = [edit for edit in plan.edits if edit.rebuilds]
    if strange:
        raise ValueError(
            f"{strange[0]}: a run cannot exchange modules for others, since its checkpoints tell the model by its "
            "recipe and the sizes of its axes; it can grow by Insert('blocks', position) without build, and lose what "
            "has an axis"
        )


def placement(parallel: str, group: Group, device: torch.device) -> Replicated:
    """As ``train.parallel`` says: ``ddp`` or ``fsdp``; a process without others has the model whole."""
    if parallel == "fsdp" and not group.is_alone:
        from compressm_cli.engine.sharded import Sharded  # what it stands on takes long to import

        return Sharded(group, device)
    return Replicated(group, device)
