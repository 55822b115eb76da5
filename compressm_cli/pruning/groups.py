"""What of a network can leave: units of axes, those that are tied together, and how many at once."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, Kind, Slot
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap

PROJECTED = "states are cut by balanced truncation: give --order, --keep, --energy or --total"
WHOLE = "a whole sub-layer, which is not priced by units"


@dataclass(frozen=True)
class Group:
    """Axes that keep the same units, with what may leave of them at once."""

    axes: tuple[Axis, ...]

    @property
    def name(self) -> str:
        """That of the first axis."""
        return self.axes[0].name

    @property
    def kind(self) -> Kind:
        return self.axes[0].kind

    @property
    def size(self) -> int:
        return self.axes[0].size

    @property
    def multiple(self) -> int:
        """How many units leave at once."""
        return math.lcm(*(axis.multiple_of for axis in self.axes))

    @cached_property
    def least(self) -> int:
        """How many units stay at least, in steps of ``multiple``."""
        least = max(1, *(axis.minimum for axis in self.axes))
        return self.allowed(min(self.size, least))

    @property
    def slots(self) -> list[Slot]:
        return [slot for axis in self.axes for slot in axis.slots]

    @property
    def outputs(self) -> list[Slot]:
        """Where zeros make a unit silent."""
        return [slot for slot in self.slots if slot.role == "out"]

    @property
    def pattern(self) -> tuple[str, Kind, int]:
        """The same for groups of layers that are built alike."""
        return re.sub(r"\d+", "#", self.name), self.kind, self.size

    def allowed(self, units: int) -> int:
        """The least number of units, at least so many, that may stay."""
        return min(self.size, -(-units // self.multiple) * self.multiple)

    def steps(self) -> list[int]:
        """Sizes that it may have, from all of its units to the least."""
        most = (self.size - 1) // self.multiple * self.multiple
        return [self.size, *range(most, self.least - 1, -self.multiple)]

    def keep(self, units: Sequence[int]) -> Keep:
        return Keep(self.name, list(units))


@dataclass(frozen=True)
class Groups:
    """Of a network: what may leave, and what may not, with the reason."""

    free: list[Group]
    pinned: dict[str, str]

    @classmethod
    def of(cls, model: nn.Module, pinned: Mapping[str, str] | None = None) -> "Groups":
        """``pinned`` are further reasons, such as those of a discovery."""
        structure, done = StructureMap.of(model), set[str]()
        free, held = list[Group](), dict[str, str]()
        for name in structure:
            if name not in done:
                group = Group(tuple(structure.together(name)))
                done |= {axis.name for axis in group.axes}
                why = _why_not(group)
                if why is None:
                    free.append(group)
                else:
                    held[name] = why
        return cls(free, {**held, **structure.left_out, **(pinned or {})})


def _why_not(group: Group) -> str | None:
    if group.kind == "state":
        return PROJECTED
    if any(axis.modules for axis in group.axes):
        return WHOLE
    if not all(axis.slots for axis in group.axes):
        return "its units do not lie apart, so that none can leave by itself"
    if len(group.steps()) == 1:
        return f"it keeps at least {group.least} of its {group.size}"
    return None


def by_unit(values: Tensor, slot: Slot, size: int) -> Tensor:
    """The entries of each unit of an axis (units, entries) in a tensor, of which a slot says where they lie."""
    step = slot.block if slot.stride is None else slot.stride
    copies = torch.arange(slot.repeat)[:, None] * slot.span + torch.arange(slot.block)
    places = slot.offset + torch.arange(size)[:, None, None] * step + copies
    along = values.movedim(slot.dim, 0)
    return along[places].reshape(size, -1)
