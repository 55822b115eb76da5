"""States in new coordinates: the edit by which a layer is truncated."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from torch import Tensor

from compressm_cli.core.axes import whole_number
from compressm_cli.core.threads import one_torch_thread
from compressm_cli.layers.interface import StateSpaceLayer, laid_out
from compressm_cli.structure.edits import Edit

if TYPE_CHECKING:
    from compressm_cli.structure.draft import Draft
    from compressm_cli.structure.optimizers import State

Moments = Literal["reset", "transport", "slice"]

LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")
"""What optimizers keep that is a mean of gradients: it moves as they do."""
SQUARED = ("exp_avg_sq", "square_avg", "max_exp_avg_sq")
"""What they keep that is a mean of squared gradients."""


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
        if not whole_number(self.order) is not None or not 1 <= self.order <= axis.size:
            raise ValueError(
                f"{self.axis}: the order is a whole number from 1 to {axis.size}, not {self.order!r}"
            )
        if self.moments not in get_args(Moments):
            raise ValueError(
                f"{self.axis}: the moments are one of {', '.join(get_args(Moments))}, not {self.moments!r}"
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
                    f"{self.axis}: the projections are of the order {_listed(list(orders))}, not {self.order}"
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
            names = _listed(sorted(map(str, values))) if isinstance(values, dict) else repr(values)
            raise ValueError(
                f"{self.axis}: the values are those of {_listed(sorted(wanted))}, not of {names}"
            )
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


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names)) or "none"
