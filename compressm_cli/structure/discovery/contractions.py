"""What operators say of dimensions that multiply: linear maps, products of matrices, attention, convolutions."""

from collections.abc import Sequence
from typing import Any

from torch import fx

from compressm_cli.structure.discovery.dimensions import Factor, fresh, pin, split_product, tag, unify
from compressm_cli.structure.discovery.tracer import COUNTED, Dims, Tracer, aligned, name_of, unknown


def linear(tracer: Tracer, node: fx.Node) -> Dims:
    x, weight = tracer.dims(node.args[0]), tracer.dims(node.args[1])
    unify(x[-1], weight[1])
    tracer.role(weight, 1, "out")
    tracer.role(weight, 0, "in")
    if len(node.args) > 2 and node.args[2] is not None:
        unify(tracer.dims(node.args[2])[0], weight[0])
    return [*x[:-1], weight[0]]


def product(tracer: Tracer, x_node: Any, y_node: Any, shape: Sequence[int]) -> Dims:
    """Of two matrices, or many of them."""
    x, y = tracer.dims(x_node), tracer.dims(y_node)
    inner = y[-2] if len(y) > 1 else y[0]
    unify(x[-1], inner)
    owned = [dims for dims in (x, y) if id(dims) in tracer.owners]
    if owned:
        tracer.role(x, len(x) - 1, "out")
        tracer.role(y, max(0, len(y) - 2), "out")
    else:
        tag(x[-1], "rank")
    tail = [x[-2]] if len(x) > 1 else []
    tail += [y[-1]] if len(y) > 1 else []
    lead = aligned([x[:-2], y[:-2]], len(shape) - len(tail))
    for factor in lead:
        if factor.size > 1:
            tag(factor, "head")
    return [*lead, *tail]


def matmul(tracer: Tracer, node: fx.Node) -> Dims:
    return product(tracer, node.args[0], node.args[1], tracer.shape(node))


def addmm(tracer: Tracer, node: fx.Node) -> Dims:
    out = product(tracer, node.args[1], node.args[2], tracer.shape(node))
    bias = tracer.dims(node.args[0])
    for place in range(1, len(bias) + 1):
        if bias[-place].size > 1:
            unify(bias[-place], out[-place])
    return out


def einsum(tracer: Tracer, node: fx.Node) -> Dims:
    equation = str(node.args[0]).replace(" ", "")
    if "." in equation or "->" not in equation:
        found: Dims = unknown(tracer, node)
        return found
    left, _, right = equation.partition("->")
    named: dict[str, Factor] = {}
    nodes = list(node.args[1])  # type: ignore[arg-type]
    for names, other in zip(left.split(","), nodes, strict=True):
        dims = tracer.dims(other)
        for dim, (name, factor) in enumerate(zip(names, dims, strict=True)):
            if name in named and factor.size > 1:
                unify(named[name], factor)
            named.setdefault(name, factor)
            tracer.role(dims, dim, "in" if name in right else "out")
    alone = {n for n in named if left.count(n) == 1 and n not in right}
    for name in alone:
        pin(named[name], COUNTED)
    return [named[name] for name in right]


def attention(tracer: Tracer, node: fx.Node) -> Dims:
    """``scaled_dot_product_attention(q, k, v, ...)``."""
    q, k, v = (tracer.dims(n) for n in node.args[:3])
    names = ("attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    given = dict(zip(names, node.args[3:], strict=False)) | dict(node.kwargs)
    for one, other in zip(q[:-3], k[:-3], strict=True):
        unify(one, other)
    if len(q) > 2:
        heads = q[-3]
        if heads.size != k[-3].size:
            pieces = split_product(heads, [k[-3].size, heads.size // k[-3].size])
            if pieces is None:
                for factor in (heads, k[-3], v[-3]):
                    pin(factor, "groups of queries cut through what heads are made of")
                pieces = [k[-3]]
            else:
                for name in ("repeated", "head"):
                    tag(pieces[1], name)
            heads = pieces[0]
        for other in (k[-3], v[-3]):
            unify(heads, other)
        tag(heads, "head")
    unify(q[-1], k[-1])
    unify(k[-2], v[-2])
    tag(q[-1], "rank")
    tag(v[-1], "rank")
    if given.get("scale") is None:
        pin(q[-1], "attention divides by the root of its size")
    mask = given.get("attn_mask")
    if isinstance(mask, fx.Node):
        scores = [*q[:-1], k[-2]]
        for place, factor in enumerate(reversed(tracer.dims(mask)), start=1):
            if factor.size > 1:
                unify(factor, scores[-place])
    return [*q[:-1], v[-1]]


def convolution(tracer: Tracer, node: fx.Node) -> Dims:
    """``conv1d`` to ``conv3d`` and their transposed forms."""
    transposed = "transpose" in name_of(node.target)
    names = ["input", "weight", "bias", "stride", "padding"]
    names += ["output_padding", "groups", "dilation"] if transposed else ["dilation", "groups"]
    given: dict[str, Any] = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    groups = int(given.get("groups", 1))
    x, weight = tracer.dims(given["input"]), tracer.dims(given["weight"])
    into, out = (0, 1) if transposed else (1, 0)
    channels, places = x[1], weight[2:]
    for factor in places:
        pin(factor, "it is the size of a kernel")
    if groups == 1:
        unify(channels, weight[into])
        tracer.role(weight, into, "out")
        tracer.role(weight, out, "in")
        made = weight[out]
    elif groups == channels.size and groups == weight[0].size and weight[1].size == 1:
        unify(channels, weight[0])
        tracer.role(weight, 0, "own")
        made = weight[0]
    else:
        for factor in (channels, weight[0], weight[1]):
            pin(factor, f"a convolution has {groups} groups of channels")
        made = fresh(tracer.shape(node)[1], f"a convolution has {groups} groups of channels")
        if not transposed:
            unify(made, weight[0])
    tag(made, "channel")
    if given.get("bias") is not None:
        unify(tracer.dims(given["bias"])[0], made)
    return [x[0], made, *(fresh(size, "it is a place in an image") for size in tracer.shape(node)[2:])]


def embedding(tracer: Tracer, node: fx.Node) -> Dims:
    weight = tracer.dims(node.args[0])
    pin(weight[0], "its entries are looked up by their number")
    tracer.role(weight, 1, "in")
    return [*tracer.dims(node.args[1]), weight[1]]
