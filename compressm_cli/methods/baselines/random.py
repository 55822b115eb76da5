"""Units drawn by lot: what a cut does by itself, whatever it is chosen by."""

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import nn

from compressm_cli.core.axes import Axis
from compressm_cli.core.validation import is_count, require
from compressm_cli.methods.config import MethodConfig
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.methods.schedule import EquidistantSchedule, ListedSchedule
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.plan import Plan, UnitRecord

Kind = Literal["state", "head", "kv_group", "query", "neuron", "channel", "expert", "rank", "width"]


class RandomConfig(MethodConfig):
    """``compression: {method: random}``: at each check another part of the units, drawn by lot, is cut out."""

    method: Literal["random"]
    schedule: Annotated[EquidistantSchedule | ListedSchedule, Field(discriminator="kind")] = (
        EquidistantSchedule()
    )
    """When units are cut."""
    kinds: Annotated[list[Kind], Field(min_length=1)] = ["state"]
    """Of which kinds of axes; those that the model has are cut."""
    keep_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.5
    """Share of the units of each axis that each check keeps."""


class Random(Method):
    """Keeps units by random scores, as any method would by its own; the others leave by index."""

    Config = RandomConfig

    def __init__(self, config: RandomConfig) -> None:
        super().__init__(config)
        self.rejections = 0

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        plan, structure, done = Plan(), StructureMap.of(model), set[str]()
        for name, axis in structure.items():
            if axis.kind in self.config.kinds and name not in done:
                together = structure.together(name)
                done |= {other.name for other in together}
                self._draw(axis, together, context.generator, plan)
        return plan

    def _draw(self, axis: Axis, together: list[Axis], generator: torch.Generator, plan: Plan) -> None:
        """Add to a plan what becomes of an axis and of those that keep the same units."""
        record = UnitRecord(axis.name, axis.kind, axis.size, axis.size, "")
        plan.records.append(record)
        if self.rejections and self.config.safety.on_rejection == "stop":
            record.reason = "nothing cut: an earlier cut was rejected; no further cuts"
            return
        if not all(other.slots for other in together):
            record.reason = "nothing cut: its units do not lie apart, so that none can leave by itself"
            return
        size = self._size(axis.size, together)
        if size == axis.size:
            record.reason = f"nothing cut: {size} are to be kept, of {axis.size}"
            return
        scores = torch.rand(axis.size, generator=generator, dtype=torch.float64)
        kept = scores.argsort(descending=True)[:size].sort().values
        plan.edits.append(Keep(axis.name, kept.tolist()))
        others = f" with {', '.join(other.name for other in together[1:])}" if len(together) > 1 else ""
        record.after, record.scores = size, scores.tolist()
        record.reason = f"cut from {axis.size} to {size}, drawn by lot{others}"

    def _size(self, now: int, together: list[Axis]) -> int:
        """How many units stay; each rejected cut halves what the next one removes."""
        least, multiple = max(a.minimum for a in together), math.lcm(*(a.multiple_of for a in together))
        removed = (now - max(least, round(self.config.keep_fraction * now))) // 2**self.rejections
        return min(now, -(-(now - removed) // multiple) * multiple)

    def rejected(self, records: list[UnitRecord]) -> None:
        self.rejections += 1

    def state_dict(self) -> dict[str, Any]:
        return {"rejections": self.rejections}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rejections = state["rejections"]

    def validate(self, state: dict[str, Any], model: nn.Module) -> None:
        found = state.get("rejections")
        require(is_count(found, 0, 1_000_000), "rejections", "a whole number", found)
