"""All axes of a model, derived from its modules whenever they are asked for."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from compressm_cli.core.axes import Axis, Slot, axes_of, declared
from compressm_cli.core.outlines import outline_of
from compressm_cli.structure.arguments import require_module
from compressm_cli.structure.computed import computed_axes


class NoAxisError(ValueError, KeyError):
    """A model has no axis of this name; a KeyError too, as of any mapping."""

    __str__ = Exception.__str__


class StructureMap(Mapping[str, Axis]):
    """The axes of a model by name, in the order of its modules. Derived anew after each change of shapes."""

    def __init__(
        self, axes: Iterable[Axis], tensors: Mapping[str, Tensor], left_out: Mapping[str, str] | None = None
    ) -> None:
        """Raises ValueError where an axis does not fit the ``tensors`` (parameters and buffers by name)."""
        self.left_out = dict(left_out or {})
        """Axes that the model declares and that cannot be cut as it is, with the reason and what to do."""
        self._axes: dict[str, Axis] = {}
        for axis in axes:
            if axis.name in self._axes:
                raise ValueError(f"{axis.name}: two axes have this name")
            _require_fit(axis, tensors)
            self._axes[axis.name] = axis
        for axis in self._axes.values():
            for name in axis.tied_to:
                if name not in self._axes or self._axes[name].size != axis.size:
                    raise ValueError(f"{axis.name}: is tied to {name}, which is no axis of its size")

    @classmethod
    def of(cls, model: nn.Module, extra: Iterable[Axis] = ()) -> "StructureMap":
        """What the parts of a model declare (``axes()``), and ``extra`` axes of an adapter.

        Axes of tensors that are computed of others, as ``weight_norm`` does, are ``left_out``. Raises TypeError for
        what is no model, or no axes.
        """
        require_module("StructureMap.of", model)
        model = outline_of(model)
        axes = [*declared(model), *axes_of(extra, "StructureMap.of: extra is")]
        tensors = tensors_of(model)
        left_out = computed_axes(model, axes, tensors)
        return cls([axis for axis in axes if axis.name not in left_out], tensors, left_out)

    def __getitem__(self, name: str) -> Axis:
        """Raises NoAxisError, a ValueError, for a name that there is not, with those that come near."""
        if isinstance(name, str) and name in self.left_out:
            raise NoAxisError(f"{name}: cannot be cut: {self.left_out[name]}")
        if not isinstance(name, str) or name not in self._axes:
            near = get_close_matches(str(name), self._axes, n=3) or list(self._axes)[:3]
            raise NoAxisError(f"the model has no axis {name!r}; it has {', '.join(near) or 'none'}")
        return self._axes[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._axes)

    def __len__(self) -> int:
        return len(self._axes)

    def __str__(self) -> str:
        """A table: each axis, of what kind its units are, how many there are, and which axes keep the same ones.

        Below it, those that are left out, and why.
        """
        rows = [("axis", "kind", "size", "tied to")]
        rows += [(a.name, a.kind, str(a.size), ", ".join(a.tied_to)) for a in self._axes.values()]
        wide, kinds, sizes = (max(len(row[column]) for row in rows) for column in range(3))
        lines = [f"{n:{wide}}  {k:{kinds}}  {s:>{sizes}}  {t}".rstrip() for n, k, s, t in rows]
        return "\n".join([*lines, *(f"left out: {name}: {why}" for name, why in self.left_out.items())])

    def sizes(self) -> dict[str, int]:
        """How many units each axis has: what a checkpoint stores of the shapes."""
        return {name: axis.size for name, axis in self._axes.items()}

    def together(self, name: str) -> list[Axis]:
        """The axis and all that keep the same units, itself first."""
        found, waiting = {}, [name]
        while waiting:
            axis = self[waiting.pop(0)]
            if axis.name not in found:
                found[axis.name] = axis
                others = (other for other in self._axes.values() if axis.name in other.tied_to)
                waiting += [*axis.tied_to, *(other.name for other in others)]
        return list(found.values())


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by every name that they have."""
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _require_fit(axis: Axis, tensors: Mapping[str, Tensor]) -> None:
    for slot in axis.slots:
        if slot.tensor not in tensors:
            raise ValueError(f"{axis.name}: there is no tensor {slot.tensor}")
        shape = tuple(tensors[slot.tensor].shape)
        if not -len(shape) <= slot.dim < len(shape):
            raise ValueError(f"{axis.name}: {slot.tensor} has the shape {shape}, and no dimension {slot.dim}")
        if axis.size:
            _require_room(axis, slot, shape)


def _require_room(axis: Axis, slot: Slot, shape: tuple[int, ...]) -> None:
    entries = slot.entries(torch.arange(axis.size))
    if int(entries[0]) < 0 or int(entries[-1]) >= shape[slot.dim] or len(entries.unique()) < len(entries):
        raise ValueError(
            f"{axis.name}: its {axis.size} units do not fit dimension {slot.dim} of {slot.tensor} {shape}"
        )
