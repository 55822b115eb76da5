"""Edits: what is to be changed of a model, as data. Each prepares all of itself in a draft, where it may be refused."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, unit_numbers
from compressm_cli.structure import sublayers
from compressm_cli.structure.conflicts import require_nothing_parked_across
from compressm_cli.structure.store import ParkedAxis, Shadow, full_numbers

if TYPE_CHECKING:
    from compressm_cli.structure.draft import Draft


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
class Add(Edit):
    """Add to the values of a parameter, such as what units that leave by the same plan gave; in any order with cuts.

    A parameter that several modules share is changed for all of them. The optimizer's state stays as it is.
    """

    parameter: str
    change: Tensor
    """Of the parameter's shape before the plan."""

    def prepare(self, draft: "Draft") -> None:
        shape = tuple(draft.parameter(self.parameter).shape)
        if not isinstance(self.change, Tensor) or tuple(self.change.shape) != shape:
            got = tuple(self.change.shape) if isinstance(self.change, Tensor) else repr(self.change)
            raise ValueError(f"{self}: what is added is a tensor of the parameter's shape {shape}, not {got}")
        if not bool(self.change.isfinite().all()):
            raise ValueError(f"{self}: what is added is not finite")
        draft.add(self.parameter, self.change.detach().cpu(), self)

    def touched(self, draft: "Draft") -> list[str]:
        return [self.parameter]

    def __str__(self) -> str:
        return f"Add({self.parameter})"


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
            # Moments that the optimizer has not of the live entries either were another optimizer's.
            piece.value, piece.state = value, {k: entries.get(k, v) for k, v in piece.state.items()}
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
        if not isinstance(self.active, bool):
            raise ValueError(f"Train: active is True or False, not {self.active!r}")
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
            numbers = [name for name in named if not _has_gradient(draft.tensors[name])]
            named = [name for name in named if name not in numbers]
            if not named:
                raise ValueError(
                    f"{numbers[0]} is of {draft.tensors[numbers[0]].dtype}, which is not trained"
                )
            found += [draft.canonical(name) for name in named]
        return found

    def touched(self, draft: "Draft") -> list[str]:
        return []


def _has_gradient(tensor: Tensor) -> bool:
    """Whether a tensor is of a type that can be trained."""
    return tensor.is_floating_point() or tensor.is_complex()


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
