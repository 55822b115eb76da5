"""Processes that each hold a part of the run's model."""

from collections.abc import Callable
from contextlib import nullcontext

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import Optimizer

from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.distributed import sharded
from compressm_cli.engine.distributed.agreement import agreed
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.placement import Held, Replicated
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.models import pool_statistics
from compressm_cli.structure.plan import Plan


class Sharded(Replicated):
    """Each process holds a part of every parameter and of its moments (FSDP2)."""

    @property
    def rows(self) -> Group:
        # Every process must take part in every pass, as often as the others.
        return Group()

    def fresh(self, make: Callable[[], nn.Module]) -> nn.Module:
        # The others get their parts of the main process's.
        with nullcontext() if self.group.is_main else torch.device("meta"):
            return make()

    def place(self, model: nn.Module) -> nn.Module:
        pool_statistics(model, self.group.size)
        return sharded.shard(model, self.group, init_device_mesh(self.device.type, (self.group.size,)))

    def forward(self, model: nn.Module) -> nn.Module:
        return model

    def require_method(self, method: Method) -> None:
        if method.needs_whole_model:
            raise BadInputError(
                f"compression.method: {method.config.method} acts after each step, or has hooks or parameters of its "
                "own, which a model in parts cannot; write train.parallel: ddp"
            )

    def outline(self, model: nn.Module) -> nn.Module:
        return sharded.without_values(model)

    def plan(self, method: Method, model: nn.Module, context: CheckContext) -> Plan:
        return sharded.plan(method, model, context)

    def apply(self, model: nn.Module, optimizer: Optimizer, plan: Plan) -> nn.Module:
        return sharded.apply_plan(model, optimizer, plan)

    def capture(self, model: nn.Module, optimizer: Optimizer) -> Held:
        """What the main process has in its CPU memory then; nothing in the others."""
        return self.whole(model, optimizer) or {}

    def restore(self, model: nn.Module, optimizer: Optimizer, held: Held) -> nn.Module:
        model = sharded.scatter_state(model, optimizer, held if self.group.is_main else None)
        optimizer.zero_grad(set_to_none=True)
        return model

    def whole(self, model: nn.Module, optimizer: Optimizer | None = None) -> Held | None:
        return sharded.gather_state(model, optimizer)

    def confirm(self, model: nn.Module, optimizer: Optimizer, when: str) -> str:
        found = sharded.checksum(model, optimizer)
        return str(agreed(found, self.group, f"the weights or the optimizer's state {when}"))
