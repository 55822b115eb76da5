"""A model that is read a layer at a time: what has no memory is fetched when it is looked at, and then let go."""

import copy
from collections.abc import Callable, Iterator, MutableMapping
from typing import Any
from weakref import WeakValueDictionary

from torch import Tensor, nn

from compressm_cli.layers.interface import state_space_layers

Fetch = Callable[[list[str]], dict[str, Tensor]]
"""Names of parameters -> their values."""


class _Parameters(MutableMapping[str, nn.Parameter | None]):
    """The parameters of one module, which are brought into memory when one of them is looked at."""

    def __init__(self, placeholders: dict[str, nn.Parameter | None], bring: Callable[[], None]) -> None:
        self._entries, self._bring = placeholders, bring

    def __getitem__(self, name: str) -> nn.Parameter | None:
        entry = self._entries[name]
        if entry is not None and entry.is_meta:
            self._bring()
        return self._entries[name]

    def __setitem__(self, name: str, value: nn.Parameter | None) -> None:
        self._entries[name] = value

    def __delitem__(self, name: str) -> None:
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, nn.Parameter | None]:
        """Of a copy all is in memory."""
        return copy.deepcopy(dict(self), memo)


class _Unit:
    """What comes and goes together: the parameters of a state space layer, or of any other single module."""

    def __init__(self) -> None:
        self.places: list[tuple[_Parameters, str, nn.Parameter]] = []
        """Each with its placeholder, which has no memory."""


class Reader:
    """Gives the parameters of a model without memory, in place, their values for as long as one unit is looked at.

    A parameter that somebody still holds is the same object when it is looked at again, under any of its names.
    """

    def __init__(self, skeleton: nn.Module, fetch: Fetch) -> None:
        self._fetch = fetch
        self._names = {id(p): name for name, p in skeleton.named_parameters()}
        self._present: _Unit | None = None
        self._held = WeakValueDictionary[str, nn.Parameter]()
        units: dict[str, _Unit] = {}
        known: dict[int, _Unit] = {}
        layers = state_space_layers(skeleton)
        for path, module in skeleton.named_modules():
            own = {id(p) for p in module._parameters.values() if p is not None}
            if not own:
                continue
            owner = next((name for name in layers if f"{path}.".startswith(f"{name}.")), path)
            # Modules that share a parameter are of one unit.
            unit = next((known[p] for p in own if p in known), None) or units.setdefault(owner, _Unit())
            known |= dict.fromkeys(own, unit)
            self._watch(module, unit)

    def _watch(self, module: nn.Module, unit: _Unit) -> None:
        watched = _Parameters(module._parameters, lambda: self._bring(unit))
        unit.places += [(watched, leaf, p) for leaf, p in module._parameters.items() if p is not None]
        module._parameters = watched  # type: ignore[assignment]

    def _bring(self, unit: _Unit) -> None:
        if self._present is not None:
            for parameters, leaf, placeholder in self._present.places:
                parameters[leaf] = placeholder
        self._present = None
        named = {self._names[id(p)]: p for _, _, p in unit.places}
        found = {name: held for name in named if (held := self._held.get(name)) is not None}
        if missing := [name for name in named if name not in found]:
            values = self._fetch(missing)
            found |= {n: nn.Parameter(values[n], requires_grad=named[n].requires_grad) for n in missing}
        self._held.update(found)
        for parameters, leaf, placeholder in unit.places:
            parameters[leaf] = found[self._names[id(placeholder)]]
        self._present = unit
