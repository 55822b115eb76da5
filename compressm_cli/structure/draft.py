"""What a model and its optimizer are to become: worked out whole, and only then put in place.

Edits write into a ``Draft`` and raise ValueError where they cannot be made; the model and the optimizer know nothing of
it. ``commit`` then only puts finished tensors in place.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves

from compressm_cli.core.axes import Axis, Slot, declared
from compressm_cli.layers.interface import laid_out
from compressm_cli.structure.conflicts import require_all_names_follow, require_nothing_parked_across
from compressm_cli.structure.map import StructureMap, tensors_of
from compressm_cli.structure.masks import masks_of, set_mask
from compressm_cli.structure.optimizers import (
    Homes,
    State,
    exchange_modules,
    exchange_parameter,
    group_of,
    is_like,
    put_in_order,
    require_own_state,
)
from compressm_cli.structure.pieces import Claim, Piece
from compressm_cli.structure.shapes import follow_shapes
from compressm_cli.structure.store import ParkedUnits, parked_units, set_parked_units
from compressm_cli.structure.sublayers import remove
from compressm_cli.structure.undo import whole_or_not

if TYPE_CHECKING:
    from compressm_cli.structure.edits import Edit


class Draft:
    """A model and its optimizer as a plan's edits make them, beside those that there are."""

    def __init__(self, model: nn.Module, optimizer: Optimizer | None) -> None:
        self.model, self.optimizer = model, optimizer
        self.structure = StructureMap.of(model)
        self.tensors = tensors_of(model)
        self.training: dict[str, bool] = {}
        """Whether a parameter is to be trained, where an edit says so."""
        self.new_masks: dict[str, Tensor | None] = {}
        """Masks to be set, of the shape and on the device of their parameters, or lifted."""
        self.modules: dict[str, nn.Module | None] = {}
        """What is to be at a place of the model, by its name there; None where nothing is."""
        self.homes = Homes()
        self.parked: ParkedUnits = parked_units(model).copy()
        first: dict[int, str] = {}
        self._names = {name: first.setdefault(id(t), name) for name, t in self.tensors.items()}
        self._masks = masks_of(model)
        self._pieces: dict[str, Piece] = {}
        self._claims: dict[str, list[Claim]] = {}
        self._claimed_places: list[tuple[str, object, int]] = []
        places: dict[int, str] = {}
        named = model.named_modules(remove_duplicate=False)
        self._places = {name: places.setdefault(id(module), name) for name, module in named}
        self._turn = 0

    def prepare(self, edits: Iterable["Edit"]) -> None:
        """Work out what edits make of the model; ValueError where one cannot be made, or two meet in an entry."""
        for self._turn, edit in enumerate(edits):
            if isinstance(edit, type) or not callable(getattr(edit, "prepare", None)):
                raise ValueError(f"a plan is of edits such as Keep(axis, units), and {edit!r} is none")
            edit.prepare(self)

    # ---- what edits read ----------------------------------------------------------------------------------

    def canonical(self, name: str) -> str:
        """The first of the names of a tensor that several modules share."""
        return self._names.get(name, name)

    def names(self, name: str) -> list[str]:
        """All names of a tensor."""
        first = self.canonical(name)
        return [other for other, its_first in self._names.items() if its_first == first]

    def is_shared(self, name: str) -> bool:
        """Whether a tensor has several names."""
        return len(self.names(name)) > 1

    def dim(self, slot: Slot) -> int:
        """The dimension of a slot, counted from the first."""
        return slot.dim % self.tensors[slot.tensor].ndim

    def parameter(self, name: str) -> nn.Parameter:
        """The parameter of a name as it is now; ValueError where there is none."""
        tensor = self.tensors.get(name) if isinstance(name, str) else None
        if not isinstance(tensor, nn.Parameter):
            raise ValueError(f"the model has no parameter {name!r}")
        return tensor

    def piece(self, name: str) -> Piece:
        """A tensor as it is to become; what is done to it is done in the draft."""
        name = self.canonical(name)
        if name not in self._pieces:
            tensor = self.tensors.get(name)
            self._pieces[name] = Piece(tensor, self._state(tensor), self._masks.get(name))
        return self._pieces[name]

    def _state(self, tensor: Tensor | None) -> State:
        if self.optimizer is None or tensor is None:
            return {}
        return dict(self.optimizer.state.get(tensor, {}))

    # ---- what edits write ---------------------------------------------------------------------------------

    def claim(
        self,
        name: str,
        by: object,
        dim: int | None = None,
        region: Tensor | None = None,
        axis: str | None = None,
        adds: bool = False,
    ) -> None:
        """Say that an edit changes a tensor: all of it, or entries at ``region`` along a dimension; or that it ``adds``
        to its values, whichever entries others cut.

        Raises ValueError where another one does so, too. Cuts may cross; cuts for good of different axes (``axis`` is
        given) may also meet, as those of heads and of all heads' dimensions do: what either takes is gone.
        """
        name, new = self.canonical(name), Claim(by, self._turn, dim, region, axis, adds)
        for other in self._claims.get(name, []):
            if other.turn != new.turn and not other.agrees_with(new):
                raise ValueError(f"{by} and {other.by} would both change {name}; make two plans of them")
        for place, whose, turn in self._claimed_places:
            if turn != self._turn and encloses(place, name):
                raise ValueError(f"{by} and {whose} would both change {name}; make two plans of them")
        self._claims.setdefault(name, []).append(new)

    def claim_place(self, place: str, by: object) -> None:
        """Say that an edit exchanges the module at a place, or those in it.

        Raises ValueError where another one does so there, within or around it, or changes a tensor within: names are
        those of the model before the plan.
        """
        place = self._first_place(place)
        for other, whose, turn in self._claimed_places:
            if turn != self._turn and (encloses(place, other) or encloses(other, place)):
                both = max(place, other, key=len)
                raise ValueError(f"{by} and {whose} would both change {both}; make two plans of them")
        for name, claims in self._claims.items():
            for claim in claims:
                if claim.turn != self._turn and encloses(place, name):
                    raise ValueError(f"{by} and {claim.by} would both change {name}; make two plans of them")
        self._claimed_places.append((place, by, self._turn))

    def _first_place(self, place: str) -> str:
        """The first of the names of a place in a module that is in the model several times."""
        parent, _, leaf = place.rpartition(".")
        return f"{self._places.get(parent, parent)}.{leaf}".removeprefix(".")

    def places(self, axis: Axis) -> dict[tuple[str, int], list[Slot]]:
        """The slots of an axis by tensor and dimension."""
        found: dict[tuple[str, int], list[Slot]] = {}
        for slot in axis.slots:
            found.setdefault((self.canonical(slot.tensor), self.dim(slot)), []).append(slot)
        return found

    def cut(
        self, axis: Axis, removed: Tensor, by: object, remember: Callable[[], None] | None = None
    ) -> None:
        """Take units of an axis out of all its tensors; an edit that parks them is to ``remember`` them before.

        Without units to take nothing is done. Raises ValueError where they cannot be taken.
        """
        if not len(removed):
            return
        if not axis.modules:
            self._require_cuttable(axis, by, parking=remember is not None)
        if remember is not None:
            remember()
        if axis.modules:
            remove(self, axis, by)
            return
        for (name, dim), slots in self.places(axis).items():
            piece = self.piece(name)
            gone = torch.isin(piece.original_at(dim), torch.cat([slot.entries(removed) for slot in slots]))
            if remember is None:
                self.parked.forget(name, dim, gone)
            piece.select(dim, (~gone).nonzero().flatten())
        for name, value in axis.divisors:
            piece = self.piece(name)
            if piece.value is None:
                piece.value = torch.tensor(value)

    def _require_cuttable(self, axis: Axis, by: object, parking: bool) -> None:
        """ValueError where an axis cannot be cut, or another edit of the plan cuts it; claims its entries if not."""
        if not axis.slots:
            raise ValueError(f"{axis.name}: its units do not lie apart; they are only cut by a projection")
        for (name, dim), slots in self.places(axis).items():
            everything = torch.cat([slot.entries(torch.arange(axis.size)) for slot in slots])
            self.claim(name, by, dim, everything, None if parking else axis.name)
            piece = self.piece(name)
            if piece.value is None:
                raise ValueError(f"{by}: {name} is taken away by another edit")
            self.require_known(name, piece)
        require_nothing_parked_across(self, axis, by)
        require_all_names_follow(self, axis, by)

    def require_known(self, name: str, piece: Piece) -> None:
        """ValueError where the optimizer keeps something of a parameter that nobody knows how to cut."""
        assert piece.value is not None
        require_own_state(self.optimizer)
        for key, value in piece.state.items():
            several = isinstance(value, (list, tuple, dict))
            if several or (isinstance(value, Tensor) and value.ndim and value.shape != piece.value.shape):
                what = f"as a {type(value).__name__}" if several else f"of the shape {tuple(value.shape)}"
                raise ValueError(
                    f"{type(self.optimizer).__name__} keeps {key!r} {what} for {name} "
                    f"{tuple(piece.value.shape)}, which cannot be cut with it; take an optimizer whose state has the "
                    "shapes of the parameters"
                )

    def put(self, name: str, value: Tensor | None, state: State, by: object) -> None:
        """Give a parameter or buffer another value, of any shape, and other optimizer state; masks of it are lifted."""
        self.claim(name, by)
        if self.parked.has(self.canonical(name)):
            raise ValueError(f"{by}: units of {name} are parked; wake them first")
        piece = self.piece(name)
        piece.value, piece.state, piece.mask = value, state, None

    def add(self, name: str, change: Tensor, by: object) -> None:
        """Add to the values of a parameter, of whose entries other edits may cut some; its state stays as it is."""
        self.claim(name, by, adds=True)
        if self.parked.has(self.canonical(name)):
            raise ValueError(f"{by}: units of {name} are parked; wake them first")
        piece = self.piece(name)
        if piece.mask is not None:
            raise ValueError(f"{by}: {name} has a mask; lift it first")
        piece.add(change)

    def exchange(
        self, modules: Mapping[str, nn.Module | None], by: object, within: str | None = None
    ) -> None:
        """Have these modules at these places, which hold others now or are new ones at the end of a list; or none.

        All that is ``within`` a place gets other names, where that is given. ValueError as ``claim_place`` says.
        """
        for place in modules if within is None else [within]:
            self.claim_place(place, by)
        self.modules |= {self._first_place(place): module for place, module in modules.items()}

    # ---- the end ------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Put everything in place. All that can fail has been done before: see ``finished``.

        Should a step raise nevertheless, such as the code of a module that came from outside, nothing is changed.
        """
        commit([self])

    def finished(self) -> tuple[list[Callable[[], None]], list[Callable[[], None]]]:
        """The assignments that are left when every tensor is there; apart from them those that write values."""
        if self.modules or self._pieces or self.new_masks:
            require_own_state(self.optimizer)
        done: list[Callable[[], None]] = []
        for name, piece in self._pieces.items():
            done += self._assignments(name, piece)
        if self.modules:
            self._require_untouched()
            done.append(partial(exchange_modules, self.model, self.optimizer, self.modules, self.homes))
        done += [partial(self._train, name, active) for name, active in self.training.items()]
        done.append(lambda: set_parked_units(self.model, self.parked))
        done.append(lambda: follow_shapes(self.model))
        done.append(lambda: _forget_divisors(self.model))
        return done, [partial(self._mask, name, keep) for name, keep in self.new_masks.items()]

    def _assignments(self, name: str, piece: Piece) -> list[Callable[[], None]]:
        old = self.tensors.get(name)
        aliases = self.names(name) or [name]
        done: list[Callable[[], None]] = []
        if piece.value is old and piece.mask is self._masks.get(name):
            return done
        if self._is_buffer(name):
            value = None if piece.value is None else _copied(piece.value, self._device(name))
            return [lambda: _set_buffers(self.model, aliases, value)]
        group = group_of(self.model, self.optimizer, name, old, piece.value)
        new = None
        if piece.value is not None and piece.value is not old:
            like = self._like(name)
            new = nn.Parameter(laid_out(piece.value, like), requires_grad=old is None or old.requires_grad)
            new.__dict__.update({} if old is None else _said_of(old))
            state = {k: self._kept(v, new) for k, v in piece.state.items()}
            done.append(lambda: exchange_parameter(self.optimizer, group, old, new, state))
            done.append(lambda: _set_parameters(self.model, aliases, new))
        elif piece.value is None:
            done.append(lambda: exchange_parameter(self.optimizer, group, old, None, {}))
            done.append(lambda: _set_parameters(self.model, aliases, None))
        if piece.mask is not self._masks.get(name):
            device = self._device(name)
            mask = None if piece.mask is None else piece.mask.to(device).contiguous()
            done.append(lambda: set_mask(self.model, name, mask))
        if group is not None and old is None:
            done.append(lambda: put_in_order(self.model, group))
        return done

    def _require_untouched(self) -> None:
        """ValueError where an edit would train, or not, what another one takes away or renames."""
        for name in self.training:
            place = next((m for m in self.modules if name.startswith(f"{m}.")), None)
            if place is not None:
                raise ValueError(
                    f"{name}: an edit says whether it is trained, and another one exchanges {place}"
                )

    @torch.no_grad()
    def _mask(self, name: str, keep: Tensor | None) -> None:
        set_mask(self.model, name, keep)
        if keep is None:
            return
        parameter = self.model.get_parameter(name)
        parameter.mul_(keep)
        for value in {} if self.optimizer is None else self.optimizer.state.get(parameter, {}).values():
            if is_like(value, parameter.shape):
                value.mul_(keep)

    def _train(self, name: str, active: bool) -> None:
        parameter = self.model.get_parameter(name)  # perhaps one that was just put in place
        parameter.requires_grad_(active)
        if not active:
            parameter.grad = None

    def _kept(self, value: Any, new: Tensor) -> Any:
        if not isinstance(value, Tensor):
            return value
        return laid_out(value, value.to(new.device)) if value.ndim else value.clone()

    def _is_buffer(self, name: str) -> bool:
        place, _, leaf = name.rpartition(".")
        return leaf in self.model.get_submodule(place)._buffers

    def _like(self, name: str) -> Tensor:
        """A tensor of the device and type of a parameter that is there, or is to be."""
        old = self.tensors.get(name)
        return next(self._owner(name).parameters()) if old is None else old

    def _owner(self, name: str) -> nn.Module:
        """The module that a tensor belongs to, or the layer around it, which has parameters."""
        place = name.rpartition(".")[0]
        while not any(True for _ in self.model.get_submodule(place).parameters()):
            place = place.rpartition(".")[0]
        return self.model.get_submodule(place)

    def _device(self, name: str) -> torch.device:
        return self._like(name).device


def commit(drafts: Sequence[Draft]) -> None:
    """Put several models in place together, or none of them: what writes values comes when all else is done."""
    steps = [draft.finished() for draft in drafts]
    with ExitStack() as stack:
        for draft in drafts:
            stack.enter_context(whole_or_not(draft.model, draft.optimizer))
        for which in (0, 1):
            for assignments in steps:
                for put_in_place in assignments[which]:
                    put_in_place()


def encloses(place: str, name: str) -> bool:
    """Whether a module, or a tensor, is at a place of the model or within it."""
    return not place or name == place or name.startswith(f"{place}.")


def _said_of(parameter: Tensor) -> dict[str, Any]:
    """What somebody has noted of a parameter, as far as it is plain data: anything else may be of its old shape."""
    return {
        name: value
        for name, value in vars(parameter).items()
        if all(isinstance(leaf, bool | int | float | str) for leaf in tree_leaves(value))
    }


def _forget_divisors(model: nn.Module) -> None:
    """Take away what sums are divided by where all units are there again, so that nothing is left of their absence."""
    tensors = tensors_of(model)
    for axis in declared(model):
        for name, value in axis.divisors:
            held = tensors.get(name)
            if held is not None and not held.is_meta and int(held) == value:
                _set_buffers(model, [name], None)


def _copied(value: Tensor, device: torch.device) -> Tensor:
    return value.detach().to(device, copy=True)


def _set_parameters(model: nn.Module, names: list[str], value: nn.Parameter | None) -> None:
    for name in names:
        place, _, leaf = name.rpartition(".")
        model.get_submodule(place).register_parameter(leaf, value)


def _set_buffers(model: nn.Module, names: list[str], value: Tensor | None) -> None:
    for name in names:
        place, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(place), leaf, value)
