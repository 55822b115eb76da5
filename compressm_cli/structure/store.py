"""Units that are parked: cut out of the live tensors, and kept with their moments until they are woken.

Of each tensor with parked units a copy of its full size is kept (``Shadow``), and where the live entries lie in it.
What the shadow holds of entries that are live is out of date: it is written there anew before any of it is read.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

Place = tuple[str, int]
"""A tensor and one of its dimensions."""

_PARKED = "_parked_units"


@dataclass(frozen=True)
class Shadow:
    """A tensor as if all its units were awake, and its optimizer state, with what was parked in its place."""

    value: Tensor
    state: dict[str, Tensor]
    """What the optimizer keeps for each entry."""
    live: tuple[Tensor, ...]
    """For each dimension, where the live entries lie in ``value``, ascending."""

    @classmethod
    def of(cls, value: Tensor, state: dict[str, Any]) -> "Shadow":
        """The shadow of a tensor of which nothing is parked yet."""
        kept = {k: v.detach().clone() for k, v in state.items() if _each_entry(v, value)}
        return cls(value.detach().clone(), kept, tuple(torch.arange(n) for n in value.shape))

    @property
    def is_awake(self) -> bool:
        """Whether all of its entries are live."""
        return all(len(index) == n for index, n in zip(self.live, self.value.shape, strict=True))

    def refreshed(self, value: Tensor, state: dict[str, Any]) -> "Shadow":
        """The same with the live entries as they are now, on their device and in their type.

        Optimizer state that one of the two lacks is zero there.
        """
        keys = {k for k, v in state.items() if _each_entry(v, value)} | set(self.state)
        empty = torch.zeros_like(self.value)
        new = {}
        for key in sorted(keys):
            like = state.get(key)
            before = self.state.get(key, empty)
            new[key] = self._written(
                before, torch.zeros_like(value, dtype=before.dtype) if like is None else like
            )
        return replace(self, value=self._written(self.value, value), state=new)

    def seen(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The live entries of the tensor and of its state."""
        return self._read(self.value), {k: self._read(v) for k, v in self.state.items()}

    def with_live(self, dim: int, live: Tensor) -> "Shadow":
        return replace(self, live=(*self.live[:dim], live, *self.live[dim + 1 :]))

    def without(self, dim: int, gone: Tensor) -> "Shadow":
        """Entries at the positions ``gone`` of a dimension are there no longer, live or parked."""
        kept = torch.ones(self.value.shape[dim], dtype=torch.bool)
        kept[gone] = False
        index = kept.nonzero().flatten().to(self.value.device)
        new = renumbered(self.live[dim][torch.isin(self.live[dim], kept.nonzero().flatten())], gone)
        cut = replace(
            self,
            value=self.value.index_select(dim, index),
            state={k: v.index_select(dim, index) for k, v in self.state.items()},
        )
        return cut.with_live(dim, new)

    def _written(self, full: Tensor, live: Tensor) -> Tensor:
        full = full.to(live.device, live.dtype, copy=True)
        full[self._grid(full)] = live.detach()
        return full

    def _read(self, full: Tensor) -> Tensor:
        return full[self._grid(full)].clone()

    def _grid(self, full: Tensor) -> tuple[Tensor, ...]:
        return torch.meshgrid(*(i.to(full.device) for i in self.live), indexing="ij")


@dataclass(frozen=True)
class ParkedAxis:
    """Which units of an axis are parked, by their numbers among all of them, and where their entries lie."""

    size: int
    """Units, live and parked."""
    units: tuple[int, ...]
    """The parked ones, ascending."""
    places: dict[Place, dict[int, Tensor]] = field(default_factory=dict)
    """For each tensor and dimension, the positions of each parked unit's entries in the shadow."""

    @property
    def live(self) -> list[int]:
        """Numbers of the live units, ascending: unit i of the axis as it is now is ``live[i]`` of all."""
        return [unit for unit in range(self.size) if unit not in set(self.units)]


@dataclass(frozen=True)
class ParkedModules:
    """A sub-layer that is parked whole."""

    tensors: dict[str, Tensor]
    """Its parameters and buffers by their names in the model."""
    state: dict[str, dict[str, Any]]
    """What the optimizer keeps of a parameter, all of it."""
    frozen: tuple[str, ...]
    """Parameters that were not trained."""
    sizes: dict[str, int]
    """Of the axes within it."""
    reaching: tuple[str, ...] = ()
    """Axes beside it that have entries in its tensors, or keep the same units as one within it."""
    left_out: tuple[str, ...] = ()
    """Parameters that were in no group of the optimizer."""

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "ParkedModules":
        """The same with other tensors; single numbers of the state are copied."""

        def of(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return change(value) if value.ndim else value.clone()

        state = {n: {k: of(v) for k, v in own.items()} for n, own in self.state.items()}
        return replace(self, tensors={n: change(t) for n, t in self.tensors.items()}, state=state)

    def all_tensors(self) -> list[Tensor]:
        """In one order in every process, without single numbers of the state."""
        kept = [v for _, own in sorted(self.state.items()) for _, v in sorted(own.items())]
        return [*(t for _, t in sorted(self.tensors.items())), *(v for v in kept if _of_entries(v))]


@dataclass
class ParkedUnits:
    """All that is parked of a model."""

    axes: dict[str, ParkedAxis] = field(default_factory=dict)
    shadows: dict[str, Shadow] = field(default_factory=dict)
    modules: dict[str, ParkedModules] = field(default_factory=dict)
    """By axis, where its unit is a sub-layer."""
    order: tuple[tuple[str, ...], ...] = ()
    """The parameters of each group of the optimizer, in their order, when the first of ``modules`` was parked."""

    def copy(self) -> "ParkedUnits":
        """To be changed; what it holds never is."""
        return ParkedUnits(dict(self.axes), dict(self.shadows), dict(self.modules), self.order)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ParkedUnits":
        return self.copy()  # no tensor in it is ever written to

    def __bool__(self) -> bool:
        return bool(self.axes)

    def has(self, tensor: str) -> bool:
        """Whether some of a tensor's entries are parked."""
        return tensor in self.shadows

    def forget(self, tensor: str, dim: int, gone: Tensor) -> None:
        """Live entries of a tensor, true in ``gone``, are cut for good: the shadow loses them, too."""
        shadow = self.shadows.get(tensor)
        if shadow is None or not bool(gone.any()):
            return
        positions = shadow.live[dim][gone]
        self.shadows[tensor] = shadow.without(dim, positions)
        for name, axis in self.axes.items():
            own = axis.places.get((tensor, dim))
            if own is not None:
                moved = {unit: renumbered(at, positions) for unit, at in own.items()}
                self.axes[name] = replace(axis, places={**axis.places, (tensor, dim): moved})

    def state_dict(self) -> dict[str, Any] | None:
        """Plain data and tensors; None where nothing is parked."""
        if not self:
            return None
        return {
            "axes": {
                name: {
                    "size": axis.size,
                    "units": list(axis.units),
                    "places": [
                        {"tensor": tensor, "dim": dim, "units": list(at), "entries": list(at.values())}
                        for (tensor, dim), at in axis.places.items()
                    ],
                }
                for name, axis in self.axes.items()
            },
            "shadows": {
                name: {"value": s.value, "state": dict(s.state), "live": list(s.live)}
                for name, s in self.shadows.items()
            },
            "modules": {
                name: {
                    "tensors": dict(m.tensors),
                    "state": m.state,
                    "frozen": list(m.frozen),
                    "sizes": m.sizes,
                    **({"reaching": list(m.reaching)} if m.reaching else {}),
                    **({"left_out": list(m.left_out)} if m.left_out else {}),
                }
                for name, m in self.modules.items()
            },
            "order": [list(names) for names in self.order],
        }

    @classmethod
    def of_state(cls, state: dict[str, Any] | None) -> "ParkedUnits":
        """What ``state_dict`` gave."""
        if state is None:
            return cls()
        axes = {
            name: ParkedAxis(
                axis["size"],
                tuple(axis["units"]),
                {
                    (p["tensor"], p["dim"]): dict(zip(p["units"], p["entries"], strict=True))
                    for p in axis["places"]
                },
            )
            for name, axis in state["axes"].items()
        }
        shadows = {n: Shadow(s["value"], s["state"], tuple(s["live"])) for n, s in state["shadows"].items()}
        modules = {
            n: ParkedModules(
                m["tensors"],
                m["state"],
                tuple(m["frozen"]),
                m["sizes"],
                tuple(m.get("reaching", [])),
                tuple(m.get("left_out", [])),
            )
            for n, m in state.get("modules", {}).items()
        }
        return cls(axes, shadows, modules, tuple(tuple(names) for names in state.get("order", [])))

    def outline(self) -> "ParkedUnits":
        """The same without the values of the shadows: shapes and types, on the meta device."""
        return self.to(torch.device("meta"))

    def with_room(self, device: torch.device) -> "ParkedUnits":
        """An outline with room for the shadows on a device, of any content."""
        room = {
            n: replace(
                s,
                value=torch.empty_like(s.value, device=device),
                state={k: torch.empty_like(v, device=device) for k, v in s.state.items()},
            )
            for n, s in self.shadows.items()
        }
        modules = {n: m.mapped(lambda t: torch.empty_like(t, device=device)) for n, m in self.modules.items()}
        return ParkedUnits(dict(self.axes), room, modules, self.order)

    def tensors(self) -> list[Tensor]:
        """The values and states of all that is parked, in one order in every process."""
        return [
            t
            for _, s in sorted(self.shadows.items())
            for t in (s.value, *(v for _, v in sorted(s.state.items())))
        ] + [t for _, m in sorted(self.modules.items()) for t in m.all_tensors()]

    def to(self, device: torch.device) -> "ParkedUnits":
        """Copies of all that is parked on a device."""
        moved = {
            n: replace(
                s,
                value=s.value.to(device, copy=True),
                state={k: v.to(device, copy=True) for k, v in s.state.items()},
            )
            for n, s in self.shadows.items()
        }
        modules = {n: m.mapped(lambda t: t.to(device, copy=True)) for n, m in self.modules.items()}
        return ParkedUnits(dict(self.axes), moved, modules, self.order)


def renumbered(positions: Tensor, gone: Tensor) -> Tensor:
    """Where positions are after those of ``gone`` were taken out."""
    return positions - (gone.sort().values[None] < positions[:, None]).sum(1)


def parked_units(model: nn.Module) -> ParkedUnits:
    """What is parked of a model, not to be changed."""
    return getattr(model, _PARKED, None) or ParkedUnits()


def set_parked_units(model: nn.Module, parked: ParkedUnits) -> None:
    """Have this parked, and nothing else."""
    if parked or _PARKED in vars(model):
        object.__setattr__(model, _PARKED, parked)


def parked(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """The parked units of each axis that has some, by their numbers among live and parked ones."""
    return {name: axis.units for name, axis in parked_units(model).axes.items()}


def full_numbers(parked: ParkedUnits, axis: str, size: int, units: Sequence[int]) -> list[int]:
    """The numbers, among live and parked ones, of units that the axis of ``size`` live ones has now."""
    known = parked.axes.get(axis)
    live = list(range(size)) if known is None else known.live
    return [live[unit] for unit in units]


def _of_entries(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _each_entry(value: Any, like: Tensor) -> bool:
    return isinstance(value, Tensor) and value.shape == like.shape
