"""Axes of any network: found in its graph, proved on a batch, and from then on its own."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from typing import Any

from torch import nn

from compressm_cli.core.axes import declared
from compressm_cli.structure.discovery.attached import Attribute, attach, detach
from compressm_cli.structure.discovery.dimensions import Factor, atoms
from compressm_cli.structure.discovery.proof import Batch, refutation
from compressm_cli.structure.discovery.search import (
    Found,
    Graph,
    axes_of_graph,
    factors_of_modules,
    factors_with,
    modules_of,
    trace,
)

MOST_TRIALS = 64
"""Choices of attributes that are tried for an axis."""
NUMBERS = re.compile(r"(^|_)(idx|index|id|number|step|seed)(_|$)")
"""Names of attributes that count something else."""


@dataclass(frozen=True)
class Discovery:
    """What was found in a network; ``str()`` is a table of it."""

    axes: dict[str, tuple[str, int]]
    """Kind and size of each axis that may be cut, by name."""
    pinned: dict[str, tuple[int, str]]
    """Size of each other dimension of its parameters, and why it may not be cut."""

    def __str__(self) -> str:
        rows = [(name, kind, str(size)) for name, (kind, size) in self.axes.items()]
        rows = [("axis", "kind", "size"), *rows]
        wide, kinds = (max(len(row[column]) for row in rows) for column in range(2))
        lines = [f"{name:{wide}}  {kind:{kinds}}  {size}" for name, kind, size in rows]
        return "\n".join(
            [*lines, *(f"pinned: {n} ({size}): {why}" for n, (size, why) in self.pinned.items())]
        )


def discover(
    model: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> Discovery:
    """Find what can be cut of a network that is called as ``model(*args, **kwargs)``, and let plans cut it.

    The network's operators, as ``torch.export`` gives them, say which dimensions of its parameters are one and the
    same. Each of these axes is proved on the batch: the network without a unit must be the one in which the unit is
    zero, in its outputs and in the gradients of all that stays. Integers that modules compute with, such as a number of
    heads, follow the cuts. ``StructureMap.of(model)`` has the axes from then on, beside those that modules declare.

    The network is left in the mode that it is in. Raises TraceError where its code cannot be followed, and ValueError
    where it declares axes itself.
    """
    kwargs = dict(kwargs or {})
    detach(model)
    if any(True for _ in declared(model)):
        raise ValueError(f"{type(model).__name__} declares its axes; nothing is to be discovered")
    was_training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        graph = trace(model, args, kwargs)
        found, held = axes_of_graph(graph)
        batch = Batch.for_proofs(model, args, kwargs)
        proved, attributes, refuted = _proved(model, graph, found, batch)
    finally:
        for module in was_training:
            module.training = True
    attach(model, graph, proved, attributes)
    pinned = {one.name: (one.size, str(one.factor.pinned)) for one in held}
    pinned |= {one.name: (one.size, refuted[one.name]) for one in found if one.name in refuted}
    return Discovery({one.name: (one.kind, one.size) for one in proved}, pinned)


def _proved(
    model: nn.Module, graph: Graph, found: Sequence[Found], batch: Batch
) -> tuple[list[Found], list[Attribute], dict[str, str]]:
    """The axes that can be cut, the attributes that follow them, and why the others cannot."""
    search = _Search(model, graph, batch)
    alike: dict[tuple[str, int], list[Found]] = {}
    for one in found:
        alike.setdefault((_pattern(one.name), one.size), []).append(one)
    for group in alike.values():
        search.decide(group)
    kept = [one for one in found if one.name in search.chosen]
    attributes = list({(a.module, a.name): a for one in kept for a in search.chosen[one.name]}.values())
    together = search.refutation(kept, attributes) if kept else None
    if together is None:
        return kept, attributes, search.refuted
    return [], [], search.refuted | {one.name: f"together with other axes: {together}" for one in kept}


class _Search:
    """For the integers that a network computes with, axis by axis."""

    def __init__(self, model: nn.Module, graph: Graph, batch: Batch) -> None:
        self._model, self._graph, self._batch = model, graph, batch
        self._learned: dict[str, list[str]] = {}
        """What did for an axis, by its name without numbers: layers are built alike."""
        self.chosen: dict[str, list[Attribute]] = {}
        """The attributes with which an axis can be cut."""
        self.refuted: dict[str, str] = {}
        """Why an axis cannot be."""

    def decide(self, group: Sequence[Found]) -> None:
        """Prove axes of layers that seem to be built alike: what does for the first is tried for the others at once.

        Where the first cannot be cut, the others are not tried.
        """
        first, *others = group
        chosen, why = self.attributes_of(first)
        if chosen is None:
            self.refuted |= {first.name: why} | {one.name: f"like {first.name}: {why}" for one in others}
            return
        self.chosen[first.name] = chosen
        learned = {one.name: self._as_learned(one) for one in others}
        if others and self.refutation(others, [a for own in learned.values() for a in own]) is None:
            self.chosen |= learned
            return
        for one in others:
            chosen, why = self.attributes_of(one)
            if chosen is None:
                self.refuted[one.name] = why
            else:
                self.chosen[one.name] = chosen

    def refutation(self, axes: Sequence[Found], attributes: Sequence[Attribute]) -> str | None:
        """Why these axes cannot be cut with these attributes; None where they can."""
        twin = copy.deepcopy(self._model)
        attach(twin, self._graph, axes, attributes)
        return refutation(twin, [one.name for one in axes], self._batch)

    def attributes_of(self, one: Found) -> tuple[list[Attribute] | None, str]:
        """The attributes with which an axis can be cut; None, and why, where there are none."""
        own, reasons = self._candidates(one), []
        for trial in _trials(own):
            why = self.refutation([one], trial)
            if why is None:
                chosen = self._with_likely(one, own, trial)
                self._learned[_pattern(one.name)] = [_pattern(f"{a.module}.{a.name}") for a in chosen]
                return chosen, ""
            reasons.append(why)
        return None, reasons[0]

    def _as_learned(self, one: Found) -> list[Attribute]:
        """The attributes that did for an axis of a layer that is built alike."""
        learned = self._learned[_pattern(one.name)]
        return [a for a in self._candidates(one) if _pattern(f"{a.module}.{a.name}") in learned]

    def _with_likely(
        self, one: Found, own: Sequence[Attribute], trial: Sequence[Attribute]
    ) -> list[Attribute]:
        """The attributes that a proof takes, and others, which other code may read, whose value is nothing else's."""
        others = {
            factor.size
            for factor in factors_of_modules(self._graph, modules_of(self._graph, one.factor))
            if not any(atom is one.factor for atom in atoms(factor))
        }
        wide = [*trial, *(a for a in own if a not in trial and a.factor.size not in others)]
        harmless = len(wide) == len(trial) or self.refutation([one], wide) is None
        return wide if harmless else list(trial)

    def _candidates(self, one: Found) -> list[Attribute]:
        """Integers of its modules that are the size of something that its units are a part of."""
        sizes: dict[int, Factor] = {}
        for factor in sorted(factors_with(self._graph, one.factor), key=lambda f: len(list(atoms(f)))):
            sizes.setdefault(factor.size, factor)
        found = []
        for place in modules_of(self._graph, one.factor):
            module = self._model.get_submodule(place)
            if type(module).__module__.startswith("torch.nn."):  # these follow their weights
                continue
            for name, value in module.__dict__.items():
                if type(value) is int and value > 1 and value in sizes and not NUMBERS.search(name):
                    found.append(Attribute(place, name, sizes[value]))
        return found


def _trials(own: Sequence[Attribute]) -> Iterator[list[Attribute]]:
    """Choices of attributes, the smallest first."""
    choices = (list(choice) for size in range(len(own) + 1) for choice in combinations(own, size))
    yield from islice(choices, MOST_TRIALS)


def _pattern(name: str) -> str:
    return re.sub(r"\d+", "#", name)
