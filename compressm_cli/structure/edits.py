"""Edits: what is to be changed of a model, as data. Each prepares all of itself in a draft, where it may be refused."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, unit_numbers
from compressm_cli.core.threads import one_torch_thread
from compressm_cli.layers.interface import StateSpaceLayer, laid_out
from compressm_cli.structure import sublayers
from compressm_cli.structure.conflicts import require_nothing_parked_across
from compressm_cli.structure.store import ParkedAxis, Shadow, full_numbers

if TYPE_CHECKING:
    from compressm_cli.structure.draft import Draft
    from compressm_cli.structure.optimizers import State

Moments = Literal["reset", "transport", "slice"]

LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")
"""What optimizers keep that is a mean of gradients: it moves as they do."""
SQUARED = ("exp_avg_sq", "square_avg", "max_exp_avg_sq")
"""What they keep that is a mean of squared gradients."""


class Edit(ABC):
    """One change. It may not meet another one of its plan in an entry of a tensor."""

    @property
    def rebuilds(self) -> bool:
        """Whether the model is then another one than its recipe and the sizes of its axes tell."""
        return False

    @abstractmethod
    def prepare(self, draft: "Draft") -> None:
        """Work out all of it in the draft; ValueError, in one line, where it cannot be made."""

    @abstractmethod
    def touched(self, draft: "Draft") -> list[str]:
        """Names of the tensors whose entries it reads or changes."""


@dataclass(frozen=True)
class Keep(Edit):
    """Keep some units of an axis, and of the axes tied to it; all tensors that they share lose the others for good.

    The optimizer's state of a parameter is cut as the parameter is, whatever optimizer it is. To keep all changes
    nothing.
    """

    axis: str
    units: Sequence[int] | Tensor

    def prepare(self, draft: "Draft") -> None:
        for axis in draft.structure.together(self.axis):
            gone = _others(axis, axis.kept(self.units))
            if axis.name in draft.parked.axes and (len(gone) or not axis.size):
                raise ValueError(
                    f"{axis.name}: some of its units are parked; wake them before others are cut"
                )
            draft.cut(axis, gone, self)

    def touched(self, draft: "Draft") -> list[str]:
        return _touched(draft, self.axis)

    def __str__(self) -> str:
        return f"Keep({self.axis})"


@dataclass(frozen=True)
class Project(Edit):
    """Give the states of a layer new coordinates and keep ``order`` of them."""

    axis: str
    """The layer's states: ``blocks.0.layer:states``."""
    order: int
    projections: Any
    """What the layer's ``reduced_parameters`` takes: ``StateProjection`` a system, or a ``SelectiveProjection``."""
    moments: Moments = "reset"
    """What becomes of the optimizer's state of the cut parameters."""
    values: dict[str, Tensor] | None = None
    """The new state parameters, where they are not what ``reduced_parameters`` makes of the projections."""

    @property
    def layer(self) -> str:
        """Name of the layer."""
        return self.axis.rpartition(":")[0]

    def prepare(self, draft: "Draft") -> None:
        layer = self._layer(draft)
        values = self._values(layer)
        self._require_fit(layer, values)
        bad = [name for name, value in values.items() if not torch.isfinite(value).all()]
        if bad:
            raise ValueError(f"{self.layer}: not finite after the truncation: {', '.join(bad)}")
        states = self._states(draft, layer, values)
        for name, value in values.items():
            draft.put(self._full(name), value, states.get(name, {}), self)

    def touched(self, draft: "Draft") -> list[str]:
        inside = f"{self.layer}." if self.layer else ""
        return [name for name in draft.tensors if name.startswith(inside)]

    def _layer(self, draft: "Draft") -> StateSpaceLayer:
        axis = draft.structure[self.axis]
        layer = draft.model.get_submodule(self.layer)
        if not isinstance(layer, StateSpaceLayer):
            raise ValueError(f"{self.axis}: only the states of a state space layer can be projected")
        if not is_whole(self.order) or not 1 <= self.order <= axis.size:
            raise ValueError(
                f"{self.axis}: the order is a whole number from 1 to {axis.size}, not {self.order!r}"
            )
        if self.projections is None and (self.values is None or self.moments == "transport"):
            raise ValueError(
                f"{self.axis}: without projections there are no new states, and no moments of them"
            )
        if self.projections is not None:
            parts = self.projections if isinstance(self.projections, (list, tuple)) else [self.projections]
            orders = {getattr(part, "order", None) for part in parts}
            if orders != {self.order}:
                raise ValueError(
                    f"{self.axis}: the projections are of the order {_told(list(orders))}, not {self.order}"
                )
        return layer

    @one_torch_thread()
    def _values(self, layer: StateSpaceLayer) -> dict[str, Tensor]:
        return layer.reduced_parameters(self.projections) if self.values is None else self.values

    def _require_fit(self, layer: StateSpaceLayer, values: Any) -> None:
        """ValueError where ``values`` are given that are not those of the layer at the new order."""
        if self.values is None:
            return
        wanted = self._shapes(layer)
        if not isinstance(values, dict) or set(values) != set(wanted):
            names = _told(sorted(map(str, values))) if isinstance(values, dict) else repr(values)
            raise ValueError(f"{self.axis}: the values are those of {_told(sorted(wanted))}, not of {names}")
        for name, value in values.items():
            what = f"{self.axis}: the value of {name}"
            if not isinstance(value, Tensor) or tuple(value.shape) != wanted[name]:
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"{what} is a tensor of the shape {wanted[name]}, not {got}")
            if name in layer.state_parameters and not value.is_floating_point():
                raise ValueError(f"{what} is of a floating point type, not {value.dtype}")
            if name in layer.state_buffers and value.is_floating_point():
                raise ValueError(f"{what} is of whole numbers, not {value.dtype}")

    @one_torch_thread()
    def _shapes(self, layer: StateSpaceLayer) -> dict[str, tuple[int, ...]]:
        """What the layer changes at the new order, and the shapes of that."""
        if self.projections is not None:
            return {n: tuple(v.shape) for n, v in layer.reduced_parameters(self.projections).items()}
        known = dict(layer.named_parameters())
        shapes = {slot.tensor: list(known[slot.tensor].shape) for slot in layer.state_slots()}
        if not shapes:
            raise ValueError(f"{self.axis}: its units do not lie apart; values need projections")
        for slot in layer.state_slots():
            shapes[slot.tensor][slot.dim] -= (layer.state_dim - self.order) * slot.block * slot.repeat
        return {name: tuple(shape) for name, shape in shapes.items()}

    def _full(self, name: str) -> str:
        return f"{self.layer}.{name}" if self.layer else name

    def _states(
        self, draft: "Draft", layer: StateSpaceLayer, values: dict[str, Tensor]
    ) -> dict[str, "State"]:
        """Optimizer state by parameter name; what is left out starts anew, with its step count."""
        if draft.optimizer is None or self.moments == "reset":
            return {}
        names = [n for n in values if n in layer.state_parameters and self._full(n) in draft.tensors]
        for name in names:
            draft.require_known(self._full(name), draft.piece(self._full(name)))
        before = {n: draft.piece(self._full(n)).state for n in names}
        keys = {k for state in before.values() for k, v in state.items() if _of_entries(v)}
        unknown = sorted(keys - set(LINEAR) - set(SQUARED)) if self.moments == "transport" else []
        if unknown:
            raise ValueError(
                f"{self.layer}: nothing is known of how {unknown[0]!r} of {type(draft.optimizer).__name__} follows a "
                "projection; write moments: slice or moments: reset"
            )
        moved = self._moved(draft, layer, before, keys)
        return {n: _new_state(before[n], new) for n, new in moved.items() if before[n]}

    def _moved(
        self, draft: "Draft", layer: StateSpaceLayer, before: dict[str, "State"], keys: set[str]
    ) -> dict[str, dict[str, Tensor]]:
        """For each parameter what was kept for its entries, by key, for those of the new parameters."""

        def of(key: str | None) -> dict[str, Tensor]:
            like = {n: draft.tensors[self._full(n)] for n in before}
            found = {} if key is None else {n: s[key] for n, s in before.items() if key in s}
            return {n: found[n] if n in found else torch.zeros_like(like[n]) for n in before}

        result: dict[str, dict[str, Tensor]] = {n: {} for n in before}

        def take(key: str, found: dict[str, Tensor]) -> None:
            for name, value in found.items():
                result[name][key] = value

        if self.moments == "slice":
            for key in keys:
                take(key, layer.sliced_moments(self.order, of(key)))
            return result
        # A layer moves both kinds at once; where an optimizer has one of them, zeros stand for the other.
        linear, squared = ([k for k in kinds if k in keys] for kinds in (LINEAR, SQUARED))
        for i in range(max(len(linear), len(squared))):
            first = linear[i] if i < len(linear) else None
            second = squared[i] if i < len(squared) else None
            found = layer.transported_moments(self.projections, of(first), of(second))
            for kind, values in zip((first, second), found, strict=True):
                if kind is not None:
                    take(kind, values)
        return result

    def __str__(self) -> str:
        return f"Project({self.axis})"


@dataclass(frozen=True)
class Park(Edit):
    """Cut units of an axis, and of those tied to it, out of the live tensors, and keep them and their moments apart.

    Until they are woken, no axis that lies across theirs in the same dimension of a tensor can be cut: a parked head
    has all of its dimensions.
    """

    axis: str
    units: Sequence[int] | Tensor
    """By their numbers among the live units."""

    def prepare(self, draft: "Draft") -> None:
        for axis in draft.structure.together(self.axis):
            parked = _others(axis, axis.kept(_others(axis, _listed(axis, self.units))))
            if axis.modules:
                remember = partial(sublayers.park, draft, axis, self)
            else:
                remember = partial(self._remember, draft, axis, parked)
            draft.cut(axis, parked, self, remember)

    def _remember(self, draft: "Draft", axis: Axis, parked: Tensor) -> None:
        store = draft.parked
        known = store.axes.get(axis.name, ParkedAxis(axis.size, ()))
        numbers = full_numbers(store, axis.name, axis.size, parked.tolist())
        places = dict(known.places)
        for (name, dim), slots in draft.places(axis).items():
            piece = draft.piece(name)
            if piece.mask is not None:
                raise ValueError(f"{self}: {name} has a mask; lift it first")
            assert piece.value is not None
            shadow = (store.shadows.get(name) or Shadow.of(piece.value, piece.state)).refreshed(
                piece.value, piece.state
            )
            places[name, dim] = here = dict(places.get((name, dim), {}))
            gone = torch.zeros(len(shadow.live[dim]), dtype=torch.bool)
            for unit, number in zip(parked, numbers, strict=True):
                entries = torch.cat([slot.entries(unit[None]) for slot in slots])
                now = torch.isin(piece.original_at(dim), entries)
                here[number] = shadow.live[dim][now]
                gone |= now
            store.shadows[name] = shadow.with_live(dim, shadow.live[dim][~gone])
        units = tuple(sorted({*known.units, *numbers}))
        store.axes[axis.name] = replace(known, units=units, places=places)

    def touched(self, draft: "Draft") -> list[str]:
        return _touched(draft, self.axis)

    def __str__(self) -> str:
        return f"Park({self.axis})"


@dataclass(frozen=True)
class Wake(Edit):
    """Put parked units of an axis, and of those tied to it, back in their places, with the moments that they had."""

    axis: str
    units: Sequence[int] | Tensor
    """By their numbers among live and parked units, as ``parked`` tells them."""

    def prepare(self, draft: "Draft") -> None:
        for axis in draft.structure.together(self.axis):
            self._wake(draft, axis)

    def _wake(self, draft: "Draft", axis: Axis) -> None:
        store = draft.parked
        known = store.axes.get(axis.name)
        woken = set(unit_numbers(self.units, axis.name).tolist())
        missing = sorted(woken - set(known.units if known else ()))
        if missing:
            told = ", ".join(map(str, known.units)) if known else "none"
            raise ValueError(f"{self}: unit {missing[0]} is not parked; parked are: {told}")
        if known is None or not woken:
            return
        if axis.modules:
            sublayers.wake(draft, axis, self)
            return
        require_nothing_parked_across(draft, axis, self)
        for (name, dim), at in known.places.items():
            draft.claim(name, self)
            piece = draft.piece(name)
            if piece.mask is not None:
                raise ValueError(f"{self}: {name} has a mask; lift it first")
            assert piece.value is not None
            shadow = store.shadows[name].refreshed(piece.value, piece.state)
            back = torch.cat([shadow.live[dim], *(at[u] for u in sorted(woken))]).sort().values
            shadow = shadow.with_live(dim, back)
            value, entries = shadow.seen()
            rest = {k: v for k, v in piece.state.items() if k not in entries}
            piece.value, piece.state = value, {**rest, **entries}
            if shadow.is_awake:
                del store.shadows[name]
            else:
                store.shadows[name] = shadow
        left = tuple(u for u in known.units if u not in woken)
        places = {p: {u: e for u, e in at.items() if u not in woken} for p, at in known.places.items()}
        if left:
            store.axes[axis.name] = replace(known, units=left, places=places)
        else:
            del store.axes[axis.name]

    def touched(self, draft: "Draft") -> list[str]:
        return _touched(draft, self.axis)

    def __str__(self) -> str:
        return f"Wake({self.axis})"


@dataclass(frozen=True)
class MaskEntries(Edit):
    """Hold the entries of ``parameter`` outside ``keep`` at zero, and forget their moments; ``keep`` broadcasts.

    All-true entries lift an earlier mask, so a method can reactivate what it switched off.
    """

    parameter: str
    keep: Tensor

    def prepare(self, draft: "Draft") -> None:
        parameter = draft.parameter(self.parameter)
        if not isinstance(self.keep, Tensor):
            raise ValueError(f"{self}: the mask is a tensor, not {type(self.keep).__name__}")
        try:
            keep = torch.broadcast_to(self.keep.to(parameter.device), parameter.shape).clone()
        except RuntimeError as error:
            shapes = f"{tuple(self.keep.shape)} for {tuple(parameter.shape)}"
            raise ValueError(f"{self}: the mask has the shape {shapes}") from error
        if keep.dtype != torch.bool:
            raise ValueError(
                f"{self}: the mask is a tensor of booleans, not of {keep.dtype}; write keep != 0"
            )
        draft.claim(self.parameter, self)
        draft.new_masks[draft.canonical(self.parameter)] = None if keep.all() else keep

    def touched(self, draft: "Draft") -> list[str]:
        return [self.parameter]

    def __str__(self) -> str:
        return f"MaskEntries({self.parameter})"


@dataclass(frozen=True)
class Train(Edit):
    """Stop (``active=False``) or resume (``active=True``) the training of the parameters that some patterns name.

    No gradient is computed of what is not trained.
    """

    patterns: Sequence[str]
    """Names of parameters, with ``*`` and ``?`` as of files."""
    active: bool

    def prepare(self, draft: "Draft") -> None:
        for name in self._names(draft):
            if draft.training.setdefault(name, self.active) != self.active:
                raise ValueError(f"{name}: one edit would train it, and another one would not")

    def _names(self, draft: "Draft") -> list[str]:
        if not isinstance(self.patterns, (list, tuple)) or not all(isinstance(p, str) for p in self.patterns):
            raise ValueError(f"Train: the patterns are a list of names of parameters, not {self.patterns!r}")
        known = [name for name, tensor in draft.tensors.items() if isinstance(tensor, nn.Parameter)]
        found: list[str] = []
        for pattern in self.patterns:
            named = [name for name in known if fnmatchcase(name, pattern)]
            if not named:
                near = ", ".join(get_close_matches(pattern, known, n=3) or known[:3])
                raise ValueError(f"{pattern!r} names no parameter of the model; it has {near}, ...")
            found += [draft.canonical(name) for name in named]
        return found

    def touched(self, draft: "Draft") -> list[str]:
        return []


def _others(axis: Axis, units: Tensor) -> Tensor:
    """The units of an axis that are not among these."""
    return torch.arange(axis.size)[~torch.isin(torch.arange(axis.size), units)]


def _listed(axis: Axis, units: Sequence[int] | Tensor) -> Tensor:
    """Units to take away, each of which must be there, once."""
    return replace(axis, minimum=0, multiple_of=1).kept(units)


def _touched(draft: "Draft", name: str) -> list[str]:
    """The tensors of an axis and of those tied to it."""
    axes = draft.structure.together(name)
    whole = [n for n in draft.tensors for axis in axes if sublayers.inside(axis, n)]
    return list(dict.fromkeys([*(slot.tensor for axis in axes for slot in axis.slots), *whole]))


def is_whole(value: Any) -> bool:
    """Whether it is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _told(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names)) or "none"


def _of_entries(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _new_state(before: "State", new: dict[str, Tensor]) -> "State":
    """The state of a parameter whose entries' part is new; empty where it has seen no gradient."""
    # A moment of zero has seen no gradient: such a tensor starts anew.
    first = next((k for k in (*LINEAR, *SQUARED) if k in new), next(iter(new), None))
    if first is None or not bool(new[first].any()):
        return {}
    return {
        k: laid_out(new[k], v) if k in new else v for k, v in before.items() if k in new or not _of_entries(v)
    }
