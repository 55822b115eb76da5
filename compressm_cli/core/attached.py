"""Axes that were found in a network, as a part of it."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from torch import nn

from compressm_cli.core.axes import Axis, Kind, Role, Slot
from compressm_cli.core.expressions import Expression, axes_in, size_of, slots_of

UNITS = "_units_of_axis"
"""What the buffers are called whose length is the size of an axis, before its number."""


@dataclass
class AttachedAxes:
    """What was found in a network, by the names of its tensors; it holds none of them.

    How many units an axis has is the length of a buffer beside the first tensor that makes them: an edit cuts it as it
    cuts the tensors, and a saved state has it. It holds the numbers that the units had at first. ``attributes`` are
    written anew after each edit.
    """

    kinds: dict[str, Kind]
    """Of each axis."""
    units: dict[str, str]
    """Of each axis: the buffer with an entry for each of its units."""
    tensors: dict[str, list[Expression]]
    """The dimensions of parameters and buffers."""
    roles: dict[tuple[str, int], Role]
    attributes: dict[tuple[str, str], Expression] = field(default_factory=dict)
    """By module and name."""

    def sizes(self, model: nn.Module) -> dict[str, int]:
        """Of each axis, now."""
        return {axis: len(model.get_buffer(buffer)) for axis, buffer in self.units.items()}

    def axes(self, model: nn.Module) -> Iterator[Axis]:
        """As modules declare theirs."""
        sizes = self.sizes(model)
        for name, kind in self.kinds.items():
            slots = [
                slot
                for tensor, dims in self.tensors.items()
                for d, dim in enumerate(dims)
                if name in axes_in(dim)
                for slot in slots_of(tensor, d, self.roles.get((tensor, d), "own"), dim, name, sizes)
            ]
            slots.append(Slot(self.units[name], 0))
            yield Axis(name, kind, sizes[name], tuple(slots), self.units[name].rpartition(".")[0])

    def follow(self, model: nn.Module) -> None:
        """Let the modules compute with the sizes that there are now."""
        sizes = self.sizes(model)
        for (module, name), value in self.attributes.items():
            setattr(model.get_submodule(module), name, size_of(value, sizes))
