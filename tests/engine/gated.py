"""A method with parameters of its own: gates on what the blocks put out, and a price on them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from compressm_cli.layers.interface import state_axis
from compressm_cli.methods.method import CheckContext, Method, SetupContext, StepContext
from compressm_cli.methods.none import NoCompressionConfig
from compressm_cli.structure.edits import Park
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.plan import Plan, UnitRecord

LAYER = "blocks.0.layer"
STATES = state_axis(LAYER)


class Gated(Method):
    """Multiplies what a layer puts out by a gate for each number, and parks two states at step 10."""

    Config = NoCompressionConfig
    parks = True

    def setup(self, model: nn.Module, structure: StructureMap, context: SetupContext) -> None:
        device = next(model.parameters()).device
        # One for each of the states that there were, however many are left.
        self.per_state = nn.Parameter(torch.full((context.sizes[STATES],), 0.5, device=device))
        start = 1 + 0.01 * torch.randn(8, generator=context.generator)
        self.gates = nn.Parameter(start.to(device))
        self.gradients: list[Tensor] = []
        assert set(structure) >= {STATES}

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        layer = model.get_submodule(LAYER)
        return [layer.register_forward_hook(lambda _, inputs, output: output * self.gates)]

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gates], "factor": 3.0}, {"params": [self.per_state], "weight_decay": 0.5}]

    def penalty(self, step: StepContext) -> Tensor | None:
        return 0.1 * self.gates.abs().sum() + self.per_state.square().sum()

    def after_backward(self, step: StepContext) -> None:
        assert self.gates.grad is not None
        self.gradients.append(self.gates.grad.clone())

    def check_steps(self, total: int) -> list[int]:
        return [10] if self.parks else []

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return Plan([Park(STATES, [1, 5])], [UnitRecord(STATES, "state", 8, 6, "parked")])


class Still(Gated):
    """The same, without a cut."""

    parks = False
