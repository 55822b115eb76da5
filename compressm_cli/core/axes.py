"""Axes: dimensions that several tensors share, whose units can be removed one by one, and only as a whole."""

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, SupportsIndex, cast

import torch
from torch import Tensor

from compressm_cli.core.text import shorten

Kind = Literal[
    "state", "head", "kv_group", "query", "neuron", "channel", "expert", "rank", "width", "sublayer"
]
Role = Literal["in", "out", "own"]


@dataclass(frozen=True)
class Slot:
    """Where the units of an axis lie in one tensor: ``block`` entries along ``dim`` each, ``repeat`` times over.

    Unit 0 begins at ``offset``, the next one ``stride`` further. ``repeat`` copies of the whole axis, ``span`` apart,
    lie along the dimension: a query of every KV group, a head dimension of every head.
    """

    tensor: str
    """Qualified name of a parameter or buffer."""
    dim: int
    block: int = 1
    offset: int = 0
    stride: int | None = None
    """Distance between the beginnings of two units; ``block`` where they lie side by side."""
    role: Role = "own"
    """``out``: zeros here make the unit silent."""
    repeat: int = 1
    span: int = 0
    """Distance between two copies of the axis."""

    def entries(self, units: Tensor) -> Tensor:
        """Positions along ``dim`` of some units (n,), ascending; (n * block * repeat,) long."""
        step = self.block if self.stride is None else self.stride
        copies = torch.arange(self.repeat)[:, None, None] * self.span
        found = self.offset + copies + units[:, None] * step + torch.arange(self.block)
        return found.flatten().sort().values

    def within(self, prefix: str) -> "Slot":
        """The same of a module that is at ``prefix`` in a larger one."""
        return replace(self, tensor=f"{prefix}.{self.tensor}" if prefix else self.tensor)


@dataclass(frozen=True)
class Axis:
    """A dimension that several tensors share: its units can be removed one by one, and only as a whole."""

    name: str
    """``blocks.0.attention:heads``: the module, and what it calls the axis."""
    kind: Kind
    size: int
    slots: tuple[Slot, ...]
    module: str
    """Qualified name of the module that declares it."""
    tied_to: tuple[str, ...] = ()
    """Axes that keep the same units, such as channels that residual adds join."""
    minimum: int = 1
    multiple_of: int = 1
    modules: tuple[str, ...] = ()
    """Modules that leave with the unit, whole, where there is one: their places hold None then."""
    divisors: tuple[tuple[str, int], ...] = ()
    """Buffers that hold what sums over the axis are divided by, and what that is now: None until units leave, so that a
    mean or a root of a length stays what it was when those units are silent."""

    def __post_init__(self) -> None:
        if self.size < 0 or self.minimum < 0 or self.multiple_of < 1:
            raise ValueError(
                f"{self.name}: size {self.size}, minimum {self.minimum}, multiple of {self.multiple_of}"
            )

    def kept(self, units: Sequence[int] | Tensor) -> Tensor:
        """The units to keep as an ascending tensor of indices (n,) int64.

        Raises ValueError where one is not there, is given twice or not as a number, or how many there are is not
        allowed.
        """
        ordered = unit_numbers(units, self.name).sort().values
        if len(ordered) and not (int(ordered[0]) >= 0 and int(ordered[-1]) < self.size):
            has = f"the units 0 to {self.size - 1}" if self.size else "no units now"
            raise ValueError(f"{self.name}: has {has}, got {_listed(ordered)}")
        if len(ordered.unique()) != len(ordered):
            raise ValueError(f"{self.name}: the same unit is given twice: {_listed(ordered)}")
        if len(ordered) < self.minimum:
            raise ValueError(f"{self.name}: keeps at least {self.minimum} of its units, not {len(ordered)}")
        if len(ordered) % self.multiple_of and len(ordered) != self.size:
            raise ValueError(f"{self.name}: keeps a multiple of {self.multiple_of}, not {len(ordered)} units")
        return ordered

    def within(self, prefix: str) -> "Axis":
        """The same of a module that is at ``prefix`` in a larger one."""
        if not prefix:
            return self
        return replace(
            self,
            name=f"{prefix}{self.name}" if self.name.startswith(":") else f"{prefix}.{self.name}",
            module=f"{prefix}.{self.module}" if self.module else prefix,
            slots=tuple(slot.within(prefix) for slot in self.slots),
            tied_to=tuple(f"{prefix}{n}" if n.startswith(":") else f"{prefix}.{n}" for n in self.tied_to),
            modules=tuple(f"{prefix}.{name}" for name in self.modules),
            divisors=tuple((f"{prefix}.{buffer}", value) for buffer, value in self.divisors),
        )


def whole_number(value: object) -> int | None:
    """A whole number of Python, numpy or torch; None for anything else, also for a boolean."""
    if isinstance(value, bool) or (isinstance(value, Tensor) and value.dtype == torch.bool):
        return None
    try:
        return operator.index(cast(SupportsIndex, value))
    except TypeError:
        return None


def unit_numbers(units: object, name: str) -> Tensor:
    """The numbers of some units of the axis ``name`` as they were given, (n,) int64.

    Raises ValueError where they are no whole numbers: booleans would be taken for the units 0 and 1.
    """
    if isinstance(units, Tensor):
        if units.numel() and (units.dtype == torch.bool or units.is_floating_point() or units.is_complex()):
            raise ValueError(_no_numbers(name, units.dtype))
        return units.detach().cpu().to(torch.int64).flatten()
    if isinstance(
        units, Iterator
    ):  # which axes that are tied, and copies of a model, are to go through as well
        raise ValueError(_no_numbers(name, f"a {type(units).__name__}, which can be gone through once"))
    try:
        given = list(cast(Iterable[object], units))
    except TypeError as error:  # a single number, which may be meant as how many
        raise ValueError(_no_numbers(name, repr(units))) from error
    found = []
    for unit in given:
        number = whole_number(unit)
        if number is None:
            raise ValueError(_no_numbers(name, repr(unit)))
        found.append(number)
    return torch.tensor(found, dtype=torch.int64)


def _no_numbers(name: str, given: object) -> str:
    return (
        f"{name}: the units are a list of their numbers, not {given}; write such as [0, 2], or a tensor "
        "of whole numbers, and mask.nonzero().flatten() of a boolean mask"
    )


def _listed(index: Tensor) -> str:
    shown = ", ".join(str(int(i)) for i in index[:8])
    return shown + (", ..." if len(index) > 8 else "")


def units_by_kind(sizes: Mapping[str, int]) -> dict[str, int]:
    """Of the sizes of axes by name, the sums over those that modules call alike: ``heads``, ``states``."""
    found: dict[str, int] = {}
    for name, size in sizes.items():
        kind = name.rpartition(":")[2]
        found[kind] = found.get(kind, 0) + size
    return found


DISCOVERED = "_discovered_axes"
"""The attribute of a module that holds what was found in it: an object with ``axes(module)`` and ``follow(module)``."""


def declared(module: torch.nn.Module) -> Iterator[Axis]:
    """The axes that the parts of a model declare with a method ``axes()``, by their place in the model, and those that
    were discovered in it.

    TypeError where one gives back something else; a part of a model that is called ``axes`` declares nothing.
    """
    for name, part in module.named_modules():
        own = getattr(part, "axes", None)
        if callable(own) and not isinstance(own, torch.nn.Module):
            place = f"{name or 'the model'}: axes() of {type(part).__name__} gave"
            yield from (axis.within(name) for axis in axes_of(own(), place))
        if (found := part.__dict__.get(DISCOVERED)) is not None:
            yield from (axis.within(name) for axis in found.axes(part))


def axes_of(given: object, place: str) -> list[Axis]:
    """TypeError, which begins with the ``place``, for what are no axes."""
    found = list(given) if isinstance(given, Iterable) else [given]
    if not isinstance(given, Iterable) or not all(isinstance(axis, Axis) for axis in found):
        raise TypeError(f"{place} {shorten(given)}, which is no list of Axis")
    return cast(list[Axis], found)
