"""Axes that were found in a network, as plain data in a recipe, and put back into a network built anew."""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from compressm_cli.core.attached import UNITS, AttachedAxes
from compressm_cli.core.axes import DISCOVERED, Kind, Role
from compressm_cli.core.config import Config
from compressm_cli.core.expressions import axes_in, expression_from, size_of, text_of
from compressm_cli.core.text import shorten

MOST_AXES = 10_000


class FoundAxis(Config):
    """An axis of a network, before any cut."""

    name: Annotated[str, Field(min_length=1, max_length=500)]
    kind: Kind
    size: Annotated[int, Field(ge=2, le=65536)]
    units: str
    """The buffer whose length is the number of units that are left."""


class FoundAxes(Config):
    """What was found in a network when a run of it began."""

    axes: Annotated[list[FoundAxis], Field(max_length=MOST_AXES)]
    tensors: dict[str, list[str]]
    """Of each tensor that has units of an axis, its dimensions: ``a0`` is the size of the first axis."""
    roles: dict[str, list[Role]]
    """What the dimensions of these tensors are used as."""
    attributes: dict[str, dict[str, str]]
    """By module and name, integers that follow the sizes."""

    @classmethod
    def of(cls, model: nn.Module) -> "FoundAxes":
        """Those of a network that is not cut yet, in which some were found."""
        known: AttachedAxes = model.__dict__[DISCOVERED]
        sizes, numbers = known.sizes(model), {name: i for i, name in enumerate(known.kinds)}
        used = {name: dims for name, dims in known.tensors.items() if any(map(axes_in, dims))}
        attributes: dict[str, dict[str, str]] = {}
        for (module, name), value in known.attributes.items():
            attributes.setdefault(module, {})[name] = text_of(value, numbers)
        return cls(
            axes=[
                FoundAxis(name=name, kind=kind, size=sizes[name], units=known.units[name])
                for name, kind in known.kinds.items()
            ],
            tensors={name: [text_of(dim, numbers) for dim in dims] for name, dims in used.items()},
            roles={n: [known.roles.get((n, d), "own") for d in range(len(dims))] for n, dims in used.items()},
            attributes=attributes,
        )

    def within(self, prefix: str) -> "FoundAxes":
        """The same of a network that is at ``prefix`` in a larger one."""
        placed = [
            (axis, f"{prefix}{axis.name}" if axis.name.startswith(":") else f"{prefix}.{axis.name}")
            for axis in self.axes
        ]
        return FoundAxes(
            axes=[
                axis.model_copy(update={"name": name, "units": f"{prefix}.{axis.units}"})
                for axis, name in placed
            ],
            tensors={f"{prefix}.{name}": dims for name, dims in self.tensors.items()},
            roles={f"{prefix}.{name}": own for name, own in self.roles.items()},
            attributes={
                f"{prefix}.{module}" if module else prefix: own for module, own in self.attributes.items()
            },
        )

    def attach(self, model: nn.Module) -> None:
        """Let a network have these axes, which is built as it was when they were found.

        Raises ValueError where they are not those of this network, whatever they were written by.
        """
        names = [axis.name for axis in self.axes]
        sizes = {axis.name: axis.size for axis in self.axes}
        if len(sizes) < len(names):
            raise ValueError("two axes have one name")
        tensors = {name: [expression_from(dim, names) for dim in dims] for name, dims in self.tensors.items()}
        shapes = _shapes(model)
        for name, dims in tensors.items():
            if shapes.get(name) != tuple(size_of(dim, sizes) for dim in dims):
                raise ValueError(f"{shorten(name)} is no tensor of these axes")
            if len(self.roles.get(name, [])) != len(dims):
                raise ValueError(f"{shorten(name)} has a role for each dimension")
        attributes = {
            (module, name): expression_from(value, names)
            for module, own in self.attributes.items()
            for name, value in own.items()
        }
        modules = dict(model.named_modules())
        for (module, name), value in attributes.items():
            own = vars(modules[module]).get(name) if module in modules else None
            if type(own) is not int or own != size_of(value, sizes):
                raise ValueError(f"{shorten(f'{module}.{name}')} is no number of these axes")
        for axis in self.axes:
            _register(modules, axis)
        roles = {(n, d): role for n, own in self.roles.items() for d, role in enumerate(own)}
        kinds = {axis.name: axis.kind for axis in self.axes}
        units = {axis.name: axis.units for axis in self.axes}
        setattr(model, DISCOVERED, AttachedAxes(kinds, units, tensors, roles, attributes))


def _register(modules: Mapping[str, nn.Module], axis: FoundAxis) -> None:
    place, _, leaf = axis.units.rpartition(".")
    if place not in modules or not leaf.startswith(f"{UNITS}_") or hasattr(modules[place], leaf):
        raise ValueError(f"{shorten(axis.units)} is no buffer for the units of an axis")
    modules[place].register_buffer(leaf, torch.arange(axis.size))


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    tensors |= dict(model.named_buffers(remove_duplicate=False))
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
