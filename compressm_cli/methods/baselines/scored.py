"""Units that leave by index, as many as asked for: what a score is worth, by itself."""

import math
from abc import abstractmethod
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.core.axes import Axis
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.validation import is_count, require
from compressm_cli.methods.config import MethodConfig
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.methods.schedule import EquidistantSchedule, ListedSchedule
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.plan import Plan, UnitRecord

Kind = Literal["state", "head", "kv_group", "query", "neuron", "channel", "expert", "rank", "width"]
Units = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1)]


class ScoredConfig(MethodConfig):
    """What all methods share that keep the units with the largest scores of their own."""

    schedule: Annotated[EquidistantSchedule | ListedSchedule, Field(discriminator="kind")] = (
        EquidistantSchedule()
    )
    """When units are cut."""
    kinds: Annotated[list[Kind], Field(min_length=1)] = ["state"]
    """Of which kinds of axes; those that the model has are cut."""
    keep_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = 0.5
    """Share of the units of each axis that each check keeps."""
    units: Annotated[list[Units], Field(min_length=1)] | None = None
    """How many units each axis keeps, instead of a share: a list for each check, with a number for each axis in the
    model's order."""

    @model_validator(mode="before")
    @classmethod
    def _units_replace_the_default(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("units") is not None:
            return {"keep_fraction": None, **values}
        return values

    @model_validator(mode="after")
    def _one_target(self) -> "ScoredConfig":
        if (self.keep_fraction is None) == (self.units is None):
            raise ValueError("give exactly one of keep_fraction and units")
        if self.units is not None and len(self.units) != (checks := self._listed_checks()):
            raise ValueError(
                f"units has lists for {len(self.units)} checks, and the schedule has {checks}; write one for each"
            )
        return self

    def _listed_checks(self) -> int:
        if isinstance(self.schedule, ListedSchedule):
            return len(self.schedule.fractions or self.schedule.at_steps or [])
        return self.schedule.count


class Scored(Method):
    """Keeps the units with the largest scores; the others leave by index. To add one: subclass, and say the scores."""

    HOW = ""
    """Of the reason of a cut: by what the units were chosen."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.rejections = 0

    @abstractmethod
    def scores(self, model: nn.Module, together: list[Axis], generator: torch.Generator) -> Tensor:
        """A score for each unit (n,) of axes that keep the same units, float64 on the CPU."""

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        plan, structure, done = Plan(), StructureMap.of(model), set[str]()
        groups = []
        for name, axis in structure.items():
            if axis.kind in self.config.kinds and name not in done:
                groups.append(structure.together(name))
                done |= {other.name for other in groups[-1]}
        for together, size in zip(groups, self._sizes(groups, context), strict=True):
            self._choose(model, together, size, context.generator, plan)
        return plan

    def _choose(
        self, model: nn.Module, together: list[Axis], size: int, generator: torch.Generator, plan: Plan
    ) -> None:
        """Add to a plan what becomes of an axis and of those that keep the same units."""
        axis = together[0]
        record = UnitRecord(axis.name, axis.kind, axis.size, axis.size, "")
        plan.records.append(record)
        if self.rejections and self.config.safety.on_rejection == "stop":
            record.reason = "nothing cut: an earlier cut was rejected; no further cuts"
            return
        if not all(other.slots for other in together):
            record.reason = "nothing cut: its units do not lie apart, so that none can leave by itself"
            return
        if size == axis.size:
            record.reason = f"nothing cut: {size} are to be kept, of {axis.size}"
            return
        try:
            scores = self.scores(model, together, generator)
        except ValueError as error:  # of weights that are not finite
            record.reason = f"nothing cut: {error}"
            return
        kept = scores.argsort(descending=True, stable=True)[:size].sort().values
        plan.edits.append(Keep(axis.name, kept.tolist()))
        others = f" with {', '.join(other.name for other in together[1:])}" if len(together) > 1 else ""
        record.after, record.scores = size, scores.tolist()
        record.reason = f"cut from {axis.size} to {size}, {self.HOW}{others}"

    def _sizes(self, groups: list[list[Axis]], context: CheckContext) -> list[int]:
        """How many units of each group stay; each rejected cut halves what the next one removes."""
        config, now = self.config, [together[0].size for together in groups]
        if config.units is None:
            wanted = [round(config.keep_fraction * size) for size in now]
        else:
            checks = self.check_steps(context.total_steps)
            wanted = config.units[max(0, sum(step <= context.reached for step in checks) - 1)]
            if len(wanted) != len(groups):
                names = ", ".join(together[0].name for together in groups)
                raise BadInputError(
                    f"compression.units: {len(wanted)} numbers are listed for a check, and the model's axes are "
                    f"{names or 'none'}; write {len(groups)}"
                )
        return [self._allowed(together, number) for together, number in zip(groups, wanted, strict=True)]

    def _allowed(self, together: list[Axis], wanted: int) -> int:
        now = together[0].size
        least, multiple = max(a.minimum for a in together), math.lcm(*(a.multiple_of for a in together))
        removed = max(0, now - max(least, wanted)) // 2**self.rejections
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
