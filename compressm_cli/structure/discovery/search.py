"""Axes of a network that declares none: found in the graph of its operators."""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from compressm_cli.core.axes import Kind
from compressm_cli.core.expressions import Expression
from compressm_cli.core.text import error_line
from compressm_cli.structure.discovery.dimensions import Factor, atoms, factors_of, fresh, multiplied, pin
from compressm_cli.structure.discovery.expressions import expression_of
from compressm_cli.structure.discovery.operators import run
from compressm_cli.structure.discovery.tracer import Dims, Tracer
from compressm_cli.structure.map import tensors_of

PLURALS: dict[str, str] = {
    "head": "heads",
    "kv_group": "kv_groups",
    "query": "queries",
    "rank": "ranks",
    "channel": "channels",
    "neuron": "neurons",
}


LONGEST_ERROR = 200
"""Characters of an error of a network's code that are told."""


class TraceError(ValueError):
    """A network cannot be gone through; ``str()`` says why."""


@dataclass
class Found:
    """A dimension that tensors share, in one network."""

    name: str
    kind: Kind
    size: int
    factor: Factor


@dataclass
class Graph:
    """What a graph says of the parameters and buffers of a network."""

    tensors: dict[str, Dims] = field(default_factory=dict)
    """Dimensions by name; those of a tensor with several names by the first."""
    roles: dict[tuple[str, int], Any] = field(default_factory=dict)
    """What a dimension is used as."""
    others: list[Factor] = field(default_factory=list)
    """Dimensions of what is computed."""


def trace(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Graph:
    """Go through what a network computes of a batch. Raises TraceError where ``torch.export`` cannot."""
    try:
        with _unheard():
            exported = torch.export.export(model, tuple(args), dict(kwargs), strict=False)
    except Exception as error:  # whatever a network's code does
        raise TraceError(f"torch.export cannot follow {type(model).__name__}: {said_by(error)}") from error
    signature, tensors = exported.graph_signature, tensors_of(model)
    tracer, graph, known = Tracer(), Graph(), dict[int, str]()
    places = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            tracer.known[node] = _of_input(node, places.get(node.name), tensors, known, tracer, graph)
    _interpret(exported.graph_module, tracer)
    for node in exported.graph.nodes:
        if node.op == "output":
            for result in node.all_input_nodes:
                for factor in _flat(tracer.known.get(result)):
                    pin(factor, "it is given back")
    graph.roles = tracer.roles
    graph.others = [factor for dims in tracer.known.values() for factor in _flat(dims)]
    return graph


@contextmanager
def _unheard() -> Iterator[None]:
    """Nothing is told but errors: PyTorch logs tracebacks of operators that fail, also where it then goes on."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    was, logger.disabled = logger.disabled, True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was


def said_by(error: Exception) -> str:
    """What an error of a network's code says, on one line that is not too long."""
    text = error_line(error, lambda _: False)
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 4]} ..."


def _of_input(
    node: fx.Node,
    name: str | None,
    tensors: Mapping[str, Tensor],
    known: dict[int, str],
    tracer: Tracer,
    graph: Graph,
) -> Any:
    value = node.meta.get("val")
    if name is None or name not in tensors:
        why = "it is an input" if name is None else "it is a constant of the network"
        return [fresh(int(size), why) for size in value.shape] if isinstance(value, Tensor) else []
    tensor = tensors[name]
    first = known.setdefault(id(tensor), name)
    if first not in graph.tensors:
        dims = [fresh(size) for size in tensor.shape]
        graph.tensors[first] = dims
        tracer.owners[id(dims)] = (first, list(range(len(dims))))
    return graph.tensors[first]


def _interpret(module: fx.GraphModule, tracer: Tracer) -> None:
    """Go through a graph whose inputs are known, and through those within it."""
    for node in module.graph.nodes:
        if node.op != "call_function":
            continue
        inner = [a for a in node.args if isinstance(a, fx.Node) and a.op == "get_attr"]
        graphs = [getattr(module, str(a.target), None) for a in inner]
        if graphs and isinstance(graphs[0], fx.GraphModule):
            tracer.known[node] = _call(graphs[0], node, inner[0], tracer)
        else:
            run(tracer, node)


def _call(module: fx.GraphModule, node: fx.Node, at: fx.Node, tracer: Tracer) -> Any:
    """A graph within another one: its outputs."""
    given = list(node.args[list(node.args).index(at) + 1 :])
    inputs = [n for n in module.graph.nodes if n.op == "placeholder"]
    for place, value in zip(inputs, given, strict=False):
        tracer.known[place] = tracer.known.get(value, []) if isinstance(value, fx.Node) else []
    _interpret(module, tracer)
    (output,) = (n for n in module.graph.nodes if n.op == "output")
    results = output.args[0]
    if isinstance(results, (list, tuple)):
        return [tracer.known.get(r, []) for r in results]
    return tracer.known.get(results, [])


def _flat(dims: Any) -> Iterator[Factor]:
    for one in dims or ():
        if isinstance(one, Factor):
            yield one
        else:
            yield from _flat(one)


def axes_of_graph(graph: Graph) -> tuple[list[Found], list[Found]]:
    """The axes whose units may leave, and those that are pinned, each with more than one unit."""
    free, held, seen = list[Factor](), list[Factor](), set[int]()
    for dims in graph.tensors.values():
        for dim in dims:
            for atom in atoms(dim):
                if id(atom) not in seen and atom.size > 1:
                    seen.add(id(atom))
                    (held if atom.pinned else free).append(atom)
    used = [atom for atom in free if _is_used(graph, atom)]
    for atom in free:
        if atom not in used:
            atom.pinned = "nothing that is trained reads it"
            held.append(atom)
    return _with_names(graph, used), _with_names(graph, held)


def _is_used(graph: Graph, atom: Factor) -> bool:
    """Whether a matrix reads its units, or two tensors that are multiplied have them in common."""
    return "rank" in atom.tags or any(
        graph.roles.get((name, d)) == "out" and atom in set(atoms(dim))
        for name, dims in graph.tensors.items()
        for d, dim in enumerate(dims)
    )


def _with_names(graph: Graph, found: list[Factor]) -> list[Found]:
    kinds = {id(atom): _kind(graph, atom) for atom in found}
    groups = {
        id(other)
        for atom in found
        if kinds[id(atom)] == "query"
        for other in _neighbours(graph, atom)
        if kinds.get(id(other)) == "head"
    }
    kinds |= dict.fromkeys(groups, "kv_group")
    wide = [(_common(graph, atom), _producer(graph, atom)) for atom in found]
    names: dict[str, int] = {}
    for atom, (common, _) in zip(found, wide, strict=True):
        key = f"{common}:{PLURALS[kinds[id(atom)]]}"
        names[key] = names.get(key, 0) + 1
    result, taken = [], dict[str, int]()
    for atom, (common, producer) in zip(found, wide, strict=True):
        plural = PLURALS[kinds[id(atom)]]
        name = f"{common}:{plural}"
        if not common or names[name] > 1:
            name = f"{producer}:{plural}"
        taken[name] = taken.get(name, 0) + 1
        if taken[name] > 1:
            name = f"{name}_{taken[name]}"
        result.append(Found(name, kinds[id(atom)], atom.size, atom))
    return result


def _kind(graph: Graph, atom: Factor) -> Kind:
    if {"repeated", "head"} <= atom.tags:
        return "query"
    for kind in ("head", "rank", "channel"):
        if kind in atom.tags:
            return kind
    return "neuron"


def _neighbours(graph: Graph, atom: Factor) -> list[Factor]:
    """What an atom is a factor of a dimension together with."""
    return [
        other
        for dims in graph.tensors.values()
        for dim in dims
        if atom in (inside := list(atoms(dim)))
        for other in inside
        if other is not atom
    ]


def _modules_of(graph: Graph, atom: Factor) -> list[str]:
    """The modules that hold its tensors, those first that make its units."""
    places = [
        (graph.roles.get((name, d)) != "in", name.rpartition(".")[0])
        for name, dims in graph.tensors.items()
        for d, dim in enumerate(dims)
        if any(one is atom for one in atoms(dim))
    ]
    return [name for _, name in sorted(places, key=lambda place: place[0])]


def _producer(graph: Graph, atom: Factor) -> str:
    """The module that makes its units; a tensor of the network's own by its name."""
    found = _modules_of(graph, atom)[0]
    return found or next(
        name for name, dims in graph.tensors.items() if any(one is atom for dim in dims for one in atoms(dim))
    )


def _common(graph: Graph, atom: Factor) -> str:
    """The innermost module that holds all of its tensors."""
    split = [name.split(".") for name in _modules_of(graph, atom)]
    common = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(common)


def expressions(graph: Graph, found: Sequence[Found]) -> dict[str, list[Expression]]:
    """The dimensions of each tensor in terms of these axes."""
    names = {one.factor: one.name for one in found}
    return {tensor: [expression_of(dim, names) for dim in dims] for tensor, dims in graph.tensors.items()}


def factors_with(graph: Graph, atom: Factor) -> list[Factor]:
    """All that an atom is a part of: dimensions, their parts, and factors that lie next to one another."""
    found: dict[int, Factor] = {}
    for dim in (*(dim for dims in graph.tensors.values() for dim in dims), *graph.others):
        if any(one is atom for one in atoms(dim)):
            for factor in _within(dim):
                if any(one is atom for one in atoms(factor)):
                    found[id(factor)] = factor
    return list(found.values())


def factors_of_modules(graph: Graph, places: Sequence[str]) -> list[Factor]:
    """The dimensions of the tensors that some modules hold themselves, and all that these are made of."""
    return [
        factor
        for name, dims in graph.tensors.items()
        if name.rpartition(".")[0] in places
        for dim in dims
        for factor in _within(dim)
    ]


def _within(factor: Factor) -> Iterator[Factor]:
    factor = factor.found()
    yield factor
    if factor.product:
        inner = factors_of(factor)
        for first in range(len(inner)):
            for last in range(first + 2, len(inner) + 1):
                if last - first < len(inner):
                    yield multiplied(inner[first:last])
    for part in (*factor.product, *factor.parts):
        yield from _within(part)


def modules_of(graph: Graph, atom: Factor) -> list[str]:
    """The modules that hold its tensors, and those that these are in, up to the one that holds them all."""
    common, found = _common(graph, atom), dict[str, None]()
    for name in _modules_of(graph, atom):
        parts = name.split(".")
        for count in range(len(parts), -1, -1):
            place = ".".join(parts[:count])
            found[place] = None
            if place == common:
                break
    return list(found)
