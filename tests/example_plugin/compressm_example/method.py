"""A method: ``compression: {method: largest, keep_fraction: 0.5}``."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressm_cli import Axis, CheckContext, Keep, Method, MethodConfig, Plan, StructureMap
from compressm_cli.structure.plan import UnitRecord


class LargestConfig(MethodConfig):
    """``compression: {method: largest}``: keep the units with the largest weights."""

    method: Literal["largest"] = "largest"
    keep_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the units of each axis that each check keeps."""


class Largest(Method):
    """Cuts every axis that can be cut by index, to the units with the largest product of squared norms."""

    Config = LargestConfig

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        plan = Plan()
        for name, axis in StructureMap.of(model).items():
            kept = max(axis.minimum, round(self.config.keep_fraction * axis.size))
            kept -= kept % axis.multiple_of
            if not axis.slots or axis.tied_to or not axis.minimum <= kept < axis.size:
                reason = "nothing cut: no unit can go"
                plan.records.append(UnitRecord(name, axis.kind, axis.size, axis.size, reason))
                continue
            found = scores(model, axis)
            plan.edits.append(Keep(name, found.topk(kept).indices.sort().values.tolist()))
            reason = f"cut from {axis.size} to {kept} by weight"
            plan.records.append(UnitRecord(name, axis.kind, axis.size, kept, reason, found.tolist()))
        return plan


def scores(model: nn.Module, axis: Axis) -> Tensor:
    """Of each unit of an axis, the logarithm of the product of the squared norms of its slots: (units,)."""
    found = torch.zeros(axis.size)
    for slot in axis.slots:
        tensor = dict(model.state_dict())[slot.tensor].detach().cpu().float().movedim(slot.dim, 0)
        entries = torch.stack([slot.entries(torch.tensor([unit])) for unit in range(axis.size)])
        found += tensor[entries].square().flatten(1).sum(1).clamp_min(1e-30).log()
    return found
