"""What operators say of dimensions that only lay entries out anew: views, turns, pieces, copies."""

from collections.abc import Sequence
from math import prod
from typing import Any

from torch import fx

from compressm_cli.structure.discovery.dimensions import (
    added,
    fresh,
    multiplied,
    pin,
    split_product,
    split_sum,
    tag,
    unify,
)
from compressm_cli.structure.discovery.tracer import NUMBERED, Dims, Tracer, broadcast, unknown


def same(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    return tracer.turned(dims, range(len(dims)))


def like(tracer: Tracer, node: fx.Node) -> Dims:
    """``zeros_like``: as large as another one."""
    return list(tracer.dims(node.args[0]))


def regrouped(dims: Dims, shape: Sequence[int]) -> Dims:
    """The same entries in another shape."""
    out = [fresh(1) for _ in shape]
    left = [d for d in dims if d.size > 1]
    places = [i for i, size in enumerate(shape) if size > 1]
    while left or places:
        taken, targets = [left.pop(0)], [places.pop(0)]
        while (have := prod(d.size for d in taken)) != (want := prod(shape[i] for i in targets)):
            if have < want:
                taken.append(left.pop(0))
            else:
                targets.append(places.pop(0))
        whole = multiplied(taken)
        pieces = [whole] if len(targets) == 1 else split_product(whole, [shape[i] for i in targets])
        if pieces is None:
            why = "it is viewed in a shape that cuts through what it is made of"
            pin(whole, why)
            pieces = [fresh(shape[i], why) for i in targets]
        for place, piece in zip(targets, pieces, strict=True):
            out[place] = piece
    return out


def view(tracer: Tracer, node: fx.Node) -> Dims:
    return regrouped(tracer.dims(node.args[0]), tracer.shape(node))


def permute(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    return tracer.turned(dims, [int(i) % len(dims) for i in node.args[1]])  # type: ignore[union-attr, arg-type]


def transpose(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    one, other = node.args[1:3] if len(node.args) > 1 else (-1, -2)
    order = list(range(len(dims)))
    if len(dims) > 1:
        order[one], order[other] = order[other], order[one]  # type: ignore[index]
    return tracer.turned(dims, order)


def expand(tracer: Tracer, node: fx.Node) -> Dims:
    shape, dims = tracer.shape(node), tracer.dims(node.args[0])
    padded = [fresh(1)] * (len(shape) - len(dims)) + list(dims)
    out = []
    for size, factor in zip(shape, padded, strict=True):
        if factor.size == size:
            out.append(factor)
        else:
            out.append(fresh(size))
            tag(out[-1], "repeated")
    return out


def repeat(tracer: Tracer, node: fx.Node) -> Dims:
    out, dims = [], tracer.dims(node.args[0])
    shape = tracer.shape(node)
    padded = [fresh(1)] * (len(shape) - len(dims)) + list(dims)
    for size, factor in zip(shape, padded, strict=True):
        copies = size // factor.size
        new = fresh(copies)
        tag(new, "repeated")
        out.append(factor if copies == 1 else multiplied([new, factor]))
    return out


def repeat_interleave(tracer: Tracer, node: fx.Node) -> Dims:
    dims, dim = (
        list(tracer.dims(node.args[0])),
        node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None),
    )
    if dim is None or not isinstance(node.args[1], int):
        found: Dims = unknown(tracer, node)
        return found
    new = fresh(node.args[1])
    tag(new, "repeated")
    dims[dim] = multiplied([dims[dim], new])  # type: ignore[index]
    return dims


def select(tracer: Tracer, node: fx.Node) -> Dims:
    dims, dim = list(tracer.dims(node.args[0])), int(node.args[1])  # type: ignore[arg-type]
    pin(dims[dim], NUMBERED)
    del dims[dim]
    return dims


def unbind(tracer: Tracer, node: fx.Node) -> list[Dims]:
    dims = list(tracer.dims(node.args[0]))
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    count = dims[dim].size
    pin(dims[dim], NUMBERED)
    del dims[dim]
    return [list(dims) for _ in range(count)]


def parts(tracer: Tracer, node: fx.Node, dim: int, sizes: Sequence[int]) -> list[Dims]:
    """The pieces of a dimension that is cut into these sizes."""
    dims = tracer.dims(node.args[0])
    pieces = split_sum(dims[dim], sizes)
    if pieces is None:
        why = "it is cut through what it is made of"
        pin(dims[dim], why)
        pieces = [fresh(size, why) for size in sizes]
    found = []
    for piece in pieces:
        own = list(dims)
        own[dim] = piece
        found.append(own)
    return found


def sliced(tracer: Tracer, node: fx.Node) -> Dims:
    arguments: list[Any] = [*node.args, *[None] * (5 - len(node.args))]
    source = tracer.shape(node.args[0])  # type: ignore[arg-type]
    dim = int(arguments[1] or 0) % len(source)
    start, end, step = slice(arguments[2], arguments[3], arguments[4] or 1).indices(source[dim])
    if (start, end, step) == (0, source[dim], 1):
        return same(tracer, node)
    if step != 1 or end <= start:
        dims = list(tracer.dims(node.args[0]))
        pin(dims[dim], NUMBERED)
        dims[dim] = fresh(tracer.shape(node)[dim], NUMBERED)
        return dims
    sizes = [size for size in (start, end - start, source[dim] - end) if size]
    return parts(tracer, node, dim, sizes)[1 if start else 0]


def narrow(tracer: Tracer, node: fx.Node) -> Dims:
    _, dim, start, length = node.args
    source = tracer.shape(node.args[0])[dim]  # type: ignore[arg-type, index]
    sizes = [size for size in (start, length, source - start - length) if size]  # type: ignore[operator]
    return parts(tracer, node, dim, sizes)[1 if start else 0]  # type: ignore[arg-type]


def split(tracer: Tracer, node: fx.Node) -> list[Dims]:
    dim = int(node.args[2]) if len(node.args) > 2 else int(node.kwargs.get("dim", 0))  # type: ignore[arg-type]
    sizes = [int(value.shape[dim]) for value in node.meta["val"]]
    return parts(tracer, node, dim, sizes)


def cat(tracer: Tracer, node: fx.Node) -> Dims:
    tensors = [n for n in node.args[0] if tracer.dims(n)]  # type: ignore[union-attr]
    dim = int(node.args[1]) if len(node.args) > 1 else int(node.kwargs.get("dim", 0))  # type: ignore[arg-type]
    all_dims = [tracer.dims(n) for n in tensors]
    out = list(all_dims[0])
    dim %= len(out)
    for place in range(len(out)):
        if place != dim:
            for other in all_dims[1:]:
                unify(out[place], other[place])
    out[dim] = added([dims[dim] for dims in all_dims])
    return out


def stack(tracer: Tracer, node: fx.Node) -> Dims:
    tensors = list(node.args[0])  # type: ignore[arg-type]
    out = broadcast(tracer, tensors, tracer.shape(tensors[0]))
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    out.insert(dim % (len(out) + 1), fresh(len(tensors), NUMBERED))
    return out


def pad(tracer: Tracer, node: fx.Node) -> Dims:
    dims, shape = tracer.dims(node.args[0]), tracer.shape(node)
    out = []
    for factor, size in zip(dims, shape, strict=True):
        if factor.size != size:
            pin(factor, "it is padded")
        out.append(factor if factor.size == size else fresh(size, "it is padded"))
    return out


def triangle(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    for factor in dims[-2:]:
        pin(factor, NUMBERED)
    return list(dims)


def glu(tracer: Tracer, node: fx.Node) -> Dims:
    dim = int(node.args[1]) if len(node.args) > 1 else -1  # type: ignore[arg-type]
    half = tracer.shape(node)[dim]
    one, other = parts(tracer, node, dim % len(tracer.shape(node)), [half, half])
    unify(one[dim], other[dim])
    return one
