"""The dimensions of the tensors in a network's graph, and what rules for operators have in common."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx

from compressm_cli.core.axes import Role
from compressm_cli.structure.discovery.dimensions import Factor, fresh, pin, unify

Dims = list[Factor]
"""Of one tensor."""
COUNTED = "what is computed over it counts its entries"
NUMBERED = "entries of it are taken by their number"


@dataclass
class Tracer:
    """The dimensions of every tensor in a graph, as far as it has been gone through."""

    known: dict[fx.Node, Any] = field(default_factory=dict)
    """``Dims`` of a tensor; a list of them where an operator gives several."""
    roles: dict[tuple[str, int], Role] = field(default_factory=dict)
    """What a dimension of a parameter is used as."""
    owners: dict[int, tuple[str, list[int]]] = field(default_factory=dict)
    """By the id of a list of dimensions: the parameter or buffer that it is of, and which of its dimensions."""

    def dims(self, node: Any) -> Dims:
        """Of an argument; fresh ones of numbers."""
        found: Dims = self.known[node] if isinstance(node, fx.Node) else []
        return found

    def shape(self, node: fx.Node) -> tuple[int, ...]:
        return tuple(int(size) for size in node.meta["val"].shape)

    def role(self, dims: Dims, dim: int, role: Role) -> None:
        """Say what a dimension of a parameter is used as; ``out`` stays."""
        if id(dims) in self.owners:
            name, order = self.owners[id(dims)]
            if self.roles.get((name, order[dim])) != "out":
                self.roles[name, order[dim]] = role

    def turned(self, dims: Dims, order: Sequence[int]) -> Dims:
        """Dimensions in another order; those of a parameter are known as its own from then on."""
        found = [dims[i] for i in order]
        if id(dims) in self.owners:
            name, old = self.owners[id(dims)]
            self.owners[id(found)] = (name, [old[i] for i in order])
        return found


def name_of(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(target, "__name__", str(target))


def tensors_of(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that are tensors, also in lists."""
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]


def unknown_outputs(node: fx.Node, why: str) -> Any:
    """Dimensions of which nothing is known."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return [fresh(int(size), why) for size in value.shape]
    if isinstance(value, (list, tuple)):
        return [[fresh(int(s), why) for s in v.shape] if isinstance(v, Tensor) else [] for v in value]
    return []


def unknown(tracer: Tracer, node: fx.Node) -> Any:
    why = f"the operator {name_of(node.target)} is not known to the search"
    for other in tensors_of(node):
        for factor in tracer.dims(other):
            pin(factor, why)
    return unknown_outputs(node, why)


def aligned(tensors: Sequence[Dims], places: int) -> Dims:
    """The last ``places`` dimensions that tensors have in common, of which those of one entry are repeated."""
    out: Dims = []
    for place in range(1, places + 1):
        here = [dims[-place] for dims in tensors if len(dims) >= place and dims[-place].size > 1]
        for other in here[1:]:
            unify(here[0], other)
        out.insert(0, here[0] if here else fresh(1))
    return out


def broadcast(tracer: Tracer, nodes: Sequence[Any], shape: Sequence[int]) -> Dims:
    """What several tensors have in common that are combined entry by entry."""
    return aligned([tracer.dims(node) for node in nodes], len(shape))
