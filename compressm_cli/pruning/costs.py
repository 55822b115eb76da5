"""What a network costs at sizes of its axes, and what one unit of each costs: counted, not estimated."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn

from compressm_cli.core.invocation import INVOCATION
from compressm_cli.measure.copies import device_of, on_fake_copy, without_values
from compressm_cli.measure.formulas import counted
from compressm_cli.pruning.groups import Group
from compressm_cli.pruning.workload import Workload
from compressm_cli.structure.map import tensors_of
from compressm_cli.structure.surgery import apply_edits

QUICK = 10**9
"""FLOPs that take no longer than some hundred operators without values."""


@dataclass(frozen=True)
class Cost:
    """Of a network, or of a unit: what its leaving saves."""

    flops: float
    """Of one call with the workload's example, in evaluation mode."""
    parameters: float
    by_module: Mapping[str, int] = field(default_factory=dict, repr=False)
    """FLOPs of each module and all in it, by name; of a network alone."""


class Costs:
    """Counts what a network costs once its axes have other sizes; which units stay does not matter."""

    def __init__(self, model: nn.Module, groups: Sequence[Group], workload: Workload) -> None:
        """Counts it as it is, so an error in calling it is raised here."""
        self._model, self._workload = model, workload
        self._groups = {group.name: group for group in groups}
        self._device = device_of(model, torch.device("cpu"))
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}
        self._outline = without_values(model).eval()
        self._ways = [self._on_fake, self._on_copy]
        self._known: dict[tuple[tuple[str, int], ...], Cost] = {}
        self._units: dict[object, Cost] = {}
        self.whole = self.at({})
        self._take_the_quickest()

    def _take_the_quickest(self) -> None:
        """Small networks are counted on a copy with values: operators without any take longer than the arithmetic."""
        if self.whole.flops < QUICK and self._on_copy(self._outline, {}) == self.whole.by_module:
            self._ways = [self._on_copy]

    def at(self, sizes: Mapping[str, int]) -> Cost:
        """With so many units of each group, by its name; all of them where none are given.

        Raises ValueError where the network cannot have these sizes.
        """
        changed = {n: size for n, size in sizes.items() if size != self._groups[n].size}
        key = tuple(sorted(changed.items()))
        if key not in self._known:
            self._known[key] = self._count(changed)
        return self._known[key]

    def of_unit(self, group: Group) -> Cost:
        """What one unit costs in the whole network: the mean of those that would leave first at once, counted.

        One of groups with the same FLOPs in the same modules of layers that are built alike is counted for all.
        """
        flops = [self._own(self.whole, place) for place in self._places(group)]
        shapes = [(self._shapes[s.tensor], s.dim, s.block, s.repeat) for s in group.slots]
        key = (group.pattern, tuple(flops), tuple(shapes))
        if key not in self._units:
            first = group.steps()[1]
            fewer, units = self.at({group.name: first}), group.size - first
            saved = (
                (self.whole.flops - fewer.flops) / units,
                (self.whole.parameters - fewer.parameters) / units,
            )
            self._units[key] = Cost(*saved)
        return self._units[key]

    def flops_of_unit(self, group: Group, sizes: Mapping[str, int]) -> float:
        """What one unit costs in FLOPs in a network of these sizes: what a query costs depends on the groups of keys.

        As many as in the whole network, times what became of the FLOPs per unit in the modules that hold its tensors
        and in what these lie in together; so it is exact where these are products of sizes of axes.
        """
        price, places = self.of_unit(group).flops, self._places(group)
        before = sum(self._own(self.whole, place) for place in places) / group.size
        after = sum(self._own(self.at(sizes), place) for place in places) / sizes.get(group.name, group.size)
        return price * after / before if before else price

    def _places(self, group: Group) -> list[str]:
        """The modules that hold a group's tensors, and those around them up to the one that holds them all."""
        modules = list(dict.fromkeys(slot.tensor.rpartition(".")[0] for slot in group.slots))
        common = _common(modules)
        found = dict[str, None]()
        for module in modules:
            for place in _around(module):
                found[place] = None
                if place == common:
                    break
        return list(found)

    def _own(self, cost: Cost, place: str) -> int:
        """FLOPs of a module without those of the modules in it."""
        inner = (n for n in cost.by_module if n != place and (n.rpartition(".")[0] == place) and n)
        return cost.by_module.get(place, 0) - sum(cost.by_module[name] for name in inner)

    # ---- counting -----------------------------------------------------------------------------------------

    def _count(self, sizes: Mapping[str, int]) -> Cost:
        twin = copy.deepcopy(self._outline)
        _resize(twin, self._groups, sizes)
        flops = self._flops(twin, sizes)
        return Cost(flops[""], sum(p.numel() for p in twin.parameters()), flops)

    def _flops(self, twin: nn.Module, sizes: Mapping[str, int]) -> dict[str, int]:
        while len(self._ways) > 1:
            try:
                return self._ways[0](twin, sizes)
            except (RuntimeError, ValueError) as error:  # of what asks for values
                first, *_ = str(error).splitlines() or [type(error).__name__]
                self._ways.pop(0)
                if len(self._ways) == 1:
                    INVOCATION.warn(
                        f"FLOPs are counted on a copy with values, which takes longer, since without them {first}"
                    )
        return self._ways[0](twin, sizes)

    def _on_fake(self, twin: nn.Module, sizes: Mapping[str, int]) -> dict[str, int]:
        return on_fake_copy(twin, self._workload.example, self._device, self._call)

    def _on_copy(self, twin: nn.Module, sizes: Mapping[str, int]) -> dict[str, int]:
        real = copy.deepcopy(self._model).eval()
        _resize(real, self._groups, sizes)
        return self._call(real, self._workload.example)

    def _call(self, model: nn.Module, example: object) -> dict[str, int]:
        with torch.no_grad():
            return counted(partial(self._workload.run, model, example))


def _resize(model: nn.Module, groups: Mapping[str, Group], sizes: Mapping[str, int]) -> None:
    apply_edits(model, None, [groups[name].keep(range(size)) for name, size in sizes.items()])


def _common(places: Sequence[str]) -> str:
    """The innermost module that holds all of some."""
    first, *rest = ([*_around(place)][::-1] for place in places)
    shared = [one for i, one in enumerate(first) if all(len(r) > i and r[i] == one for r in rest)]
    return shared[-1]


def _around(place: str) -> Iterator[str]:
    """A module and those that it is in, up to the network."""
    yield place
    while place:
        place = place.rpartition(".")[0]
        yield place
