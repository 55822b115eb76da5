"""What the operators of a network say of the dimensions of what they take and give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from compressm_cli.core.axes import Role
from compressm_cli.structure.discovery.dimensions import (
    Factor,
    added,
    fresh,
    multiplied,
    pin,
    split_product,
    split_sum,
    tag,
    unify,
)

Dims = list[Factor]
"""Of one tensor."""
MADE = "it is made as a constant, whose size no cut changes"
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

    def run(self, node: fx.Node) -> None:
        """Let an operator say what it knows; of one that is called in a way that is not known nothing may be cut."""
        name = _name(node.target)
        rule = RULES.get(name) or RULES.get(name.rstrip("_"))
        if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
            rule = _pointwise
        try:
            self.known[node] = (rule or _unknown)(self, node)
        except (IndexError, KeyError, TypeError, ValueError, AttributeError):
            self.known[node] = _unknown(self, node)


def _name(target: Any) -> str:
    packet = getattr(target, "overloadpacket", None)
    return str(packet) if packet is not None else getattr(target, "__name__", str(target))


def _tensors(node: fx.Node) -> list[fx.Node]:
    """The arguments of a node that are tensors, also in lists."""
    return [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]


def _outputs(node: fx.Node, why: str) -> Any:
    """Dimensions of which nothing is known."""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return [fresh(int(size), why) for size in value.shape]
    if isinstance(value, (list, tuple)):
        return [[fresh(int(s), why) for s in v.shape] if isinstance(v, Tensor) else [] for v in value]
    return []


def _unknown(tracer: Tracer, node: fx.Node) -> Any:
    why = f"the operator {_name(node.target)} is not known to the search"
    for other in _tensors(node):
        for factor in tracer.dims(other):
            pin(factor, why)
    return _outputs(node, why)


def _made(tracer: Tracer, node: fx.Node) -> Any:
    return _outputs(node, MADE)


def _same(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    return tracer.turned(dims, range(len(dims)))


def _like(tracer: Tracer, node: fx.Node) -> Dims:
    """``zeros_like``: as large as another one."""
    return list(tracer.dims(node.args[0]))


def broadcast(tracer: Tracer, nodes: Sequence[Any], shape: Sequence[int]) -> Dims:
    """What several tensors have in common that are combined entry by entry."""
    out: Dims = []
    for place in range(1, len(shape) + 1):
        here = [d[-place] for n in nodes if len(d := tracer.dims(n)) >= place and d[-place].size > 1]
        for other in here[1:]:
            unify(here[0], other)
        out.insert(0, here[0] if here else fresh(1))
    return out


def _pointwise(tracer: Tracer, node: fx.Node) -> Dims:
    found = broadcast(tracer, _tensors(node), tracer.shape(node))
    for other in _tensors(node):  # gains and biases
        dims = tracer.dims(other)
        for dim in range(len(dims)):
            tracer.role(dims, dim, "own")
    return found


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


def _view(tracer: Tracer, node: fx.Node) -> Dims:
    return regrouped(tracer.dims(node.args[0]), tracer.shape(node))


def _permute(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    return tracer.turned(dims, [int(i) % len(dims) for i in node.args[1]])  # type: ignore[union-attr, arg-type]


def _transpose(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    one, other = node.args[1:3] if len(node.args) > 1 else (-1, -2)
    order = list(range(len(dims)))
    if len(dims) > 1:
        order[one], order[other] = order[other], order[one]  # type: ignore[index]
    return tracer.turned(dims, order)


def _expand(tracer: Tracer, node: fx.Node) -> Dims:
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


def _repeat(tracer: Tracer, node: fx.Node) -> Dims:
    out, dims = [], tracer.dims(node.args[0])
    shape = tracer.shape(node)
    padded = [fresh(1)] * (len(shape) - len(dims)) + list(dims)
    for size, factor in zip(shape, padded, strict=True):
        copies = size // factor.size
        new = fresh(copies)
        tag(new, "repeated")
        out.append(factor if copies == 1 else multiplied([new, factor]))
    return out


def _repeat_interleave(tracer: Tracer, node: fx.Node) -> Dims:
    dims, dim = (
        list(tracer.dims(node.args[0])),
        node.kwargs.get("dim", node.args[2] if len(node.args) > 2 else None),
    )
    if dim is None or not isinstance(node.args[1], int):
        found: Dims = _unknown(tracer, node)
        return found
    new = fresh(node.args[1])
    tag(new, "repeated")
    dims[dim] = multiplied([dims[dim], new])  # type: ignore[index]
    return dims


def _select(tracer: Tracer, node: fx.Node) -> Dims:
    dims, dim = list(tracer.dims(node.args[0])), int(node.args[1])  # type: ignore[arg-type]
    pin(dims[dim], NUMBERED)
    del dims[dim]
    return dims


def _unbind(tracer: Tracer, node: fx.Node) -> list[Dims]:
    dims = list(tracer.dims(node.args[0]))
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    count = dims[dim].size
    pin(dims[dim], NUMBERED)
    del dims[dim]
    return [list(dims) for _ in range(count)]


def _parts(tracer: Tracer, node: fx.Node, dim: int, sizes: Sequence[int]) -> list[Dims]:
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


def _slice(tracer: Tracer, node: fx.Node) -> Dims:
    arguments: list[Any] = [*node.args, *[None] * (5 - len(node.args))]
    source = tracer.shape(node.args[0])  # type: ignore[arg-type]
    dim = int(arguments[1] or 0) % len(source)
    start, end, step = slice(arguments[2], arguments[3], arguments[4] or 1).indices(source[dim])
    if (start, end, step) == (0, source[dim], 1):
        return _same(tracer, node)
    if step != 1 or end <= start:
        dims = list(tracer.dims(node.args[0]))
        pin(dims[dim], NUMBERED)
        dims[dim] = fresh(tracer.shape(node)[dim], NUMBERED)
        return dims
    sizes = [size for size in (start, end - start, source[dim] - end) if size]
    return _parts(tracer, node, dim, sizes)[1 if start else 0]


def _narrow(tracer: Tracer, node: fx.Node) -> Dims:
    _, dim, start, length = node.args
    source = tracer.shape(node.args[0])[dim]  # type: ignore[arg-type, index]
    sizes = [size for size in (start, length, source - start - length) if size]  # type: ignore[operator]
    return _parts(tracer, node, dim, sizes)[1 if start else 0]  # type: ignore[arg-type]


def _split(tracer: Tracer, node: fx.Node) -> list[Dims]:
    dim = int(node.args[2]) if len(node.args) > 2 else int(node.kwargs.get("dim", 0))  # type: ignore[arg-type]
    sizes = [int(value.shape[dim]) for value in node.meta["val"]]
    return _parts(tracer, node, dim, sizes)


def _cat(tracer: Tracer, node: fx.Node) -> Dims:
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


def _stack(tracer: Tracer, node: fx.Node) -> Dims:
    tensors = list(node.args[0])  # type: ignore[arg-type]
    out = broadcast(tracer, tensors, tracer.shape(tensors[0]))
    dim = int(node.args[1]) if len(node.args) > 1 else 0  # type: ignore[arg-type]
    out.insert(dim % (len(out) + 1), fresh(len(tensors), NUMBERED))
    return out


def _linear(tracer: Tracer, node: fx.Node) -> Dims:
    x, weight = tracer.dims(node.args[0]), tracer.dims(node.args[1])
    unify(x[-1], weight[1])
    tracer.role(weight, 1, "out")
    tracer.role(weight, 0, "in")
    if len(node.args) > 2 and node.args[2] is not None:
        unify(tracer.dims(node.args[2])[0], weight[0])
    return [*x[:-1], weight[0]]


def _product(tracer: Tracer, x_node: Any, y_node: Any, shape: Sequence[int]) -> Dims:
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
    batch = [d for d in (x[:-2], y[:-2]) if d]
    lead: Dims = []
    for place in range(1, len(shape) - len(tail) + 1):
        here = [d[-place] for d in batch if len(d) >= place and d[-place].size > 1]
        for other in here[1:]:
            unify(here[0], other)
        for factor in here:
            tag(factor, "head")
        lead.insert(0, here[0] if here else fresh(1))
    return [*lead, *tail]


def _matmul(tracer: Tracer, node: fx.Node) -> Dims:
    return _product(tracer, node.args[0], node.args[1], tracer.shape(node))


def _addmm(tracer: Tracer, node: fx.Node) -> Dims:
    out = _product(tracer, node.args[1], node.args[2], tracer.shape(node))
    bias = tracer.dims(node.args[0])
    for place in range(1, len(bias) + 1):
        if bias[-place].size > 1:
            unify(bias[-place], out[-place])
    return out


def _einsum(tracer: Tracer, node: fx.Node) -> Dims:
    equation = str(node.args[0]).replace(" ", "")
    if "." in equation or "->" not in equation:
        found: Dims = _unknown(tracer, node)
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


def _attention(tracer: Tracer, node: fx.Node) -> Dims:
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


def _convolution(tracer: Tracer, node: fx.Node) -> Dims:
    """``conv1d`` to ``conv3d`` and their transposed forms."""
    transposed = "transpose" in _name(node.target)
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


def _batch_norm(tracer: Tracer, node: fx.Node) -> Any:
    x = tracer.dims(node.args[0])
    for other in node.args[1:5]:
        if isinstance(other, fx.Node) and tracer.dims(other):
            unify(tracer.dims(other)[0], x[1])
            tracer.role(tracer.dims(other), 0, "own")
    value = node.meta["val"]
    return list(x) if isinstance(value, Tensor) else [list(x), *_outputs(node, COUNTED)[1:]]


def _layer_norm(tracer: Tracer, node: fx.Node) -> Any:
    x, shape = tracer.dims(node.args[0]), list(node.args[1])  # type: ignore[arg-type]
    weights = [n for n in (*node.args[2:4], *node.kwargs.values()) if isinstance(n, fx.Node)]
    for place in range(1, len(shape) + 1):
        pin(x[-place], "it is normalized, by what its entries have together")
        for other in weights:
            unify(tracer.dims(other)[-place], x[-place])
    return list(x)


def _group_norm(tracer: Tracer, node: fx.Node) -> Any:
    x = tracer.dims(node.args[0])
    pin(x[1], "it is normalized in groups, by what their entries have together")
    for other in (*node.args[2:4], *node.kwargs.values()):
        if isinstance(other, fx.Node):
            unify(tracer.dims(other)[0], x[1])
    return list(x)


def _embedding(tracer: Tracer, node: fx.Node) -> Dims:
    weight = tracer.dims(node.args[0])
    pin(weight[0], "its entries are looked up by their number")
    tracer.role(weight, 1, "in")
    return [*tracer.dims(node.args[1]), weight[1]]


def _along(tracer: Tracer, node: fx.Node) -> Dims:
    """What looks along one dimension, such as a softmax, and gives one entry for each."""
    dims = tracer.dims(node.args[0])
    chosen = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    for dim in [chosen] if isinstance(chosen, int) else chosen:  # type: ignore[union-attr]
        pin(dims[dim], COUNTED)  # type: ignore[index]
    return list(dims)


def _glu(tracer: Tracer, node: fx.Node) -> Dims:
    dim = int(node.args[1]) if len(node.args) > 1 else -1  # type: ignore[arg-type]
    half = tracer.shape(node)[dim]
    one, other = _parts(tracer, node, dim % len(tracer.shape(node)), [half, half])
    unify(one[dim], other[dim])
    return one


def _prelu(tracer: Tracer, node: fx.Node) -> Dims:
    x, slope = tracer.dims(node.args[0]), tracer.dims(node.args[1])
    if slope[0].size > 1:
        unify(slope[0], x[1])
    return list(x)


def _reduction(tracer: Tracer, node: fx.Node) -> Any:
    dims, shape = tracer.dims(node.args[0]), node.meta["val"]
    place = 2 if "norm" in _name(node.target) else 1  # behind the order of a norm
    chosen = node.args[place] if len(node.args) > place else node.kwargs.get("dim")
    chosen = [chosen] if isinstance(chosen, int) else chosen
    over = range(len(dims)) if not isinstance(chosen, (list, tuple)) or not chosen else chosen
    gone = {int(d) % len(dims) for d in over} if dims else set()
    for dim in gone:
        pin(dims[dim], COUNTED)
    if not isinstance(shape, Tensor):
        return _unknown(tracer, node)
    if shape.ndim == len(dims):
        return [fresh(1) if d in gone else factor for d, factor in enumerate(dims)]
    return [factor for d, factor in enumerate(dims) if d not in gone]


def _places(tracer: Tracer, node: fx.Node) -> Any:
    """Pooling and resizing of images: what is left of places is new."""
    dims, value = tracer.dims(node.args[0]), node.meta["val"]
    if not isinstance(value, Tensor):
        return _unknown(tracer, node)
    kept = 2 if len(dims) > 2 else len(dims)
    return [*dims[:kept], *(fresh(int(size), "it is a place in an image") for size in value.shape[kept:])]


def _pad(tracer: Tracer, node: fx.Node) -> Dims:
    dims, shape = tracer.dims(node.args[0]), tracer.shape(node)
    out = []
    for factor, size in zip(dims, shape, strict=True):
        if factor.size != size:
            pin(factor, "it is padded")
        out.append(factor if factor.size == size else fresh(size, "it is padded"))
    return out


def _triangle(tracer: Tracer, node: fx.Node) -> Dims:
    dims = tracer.dims(node.args[0])
    for factor in dims[-2:]:
        pin(factor, NUMBERED)
    return list(dims)


def _item(tracer: Tracer, node: fx.Node) -> Any:
    return tracer.known[node.args[0]][node.args[1]]  # type: ignore[index]


def _nothing(tracer: Tracer, node: fx.Node) -> Any:
    return []


Rule = Callable[[Tracer, fx.Node], Any]
_GROUPS: dict[Rule, str] = {
    _same: """dropout native_dropout feature_dropout alpha_dropout clone contiguous detach alias to _to_copy
        lift_fresh_copy lift_fresh positive type_as masked_fill""",
    _like: "zeros_like ones_like rand_like randn_like empty_like full_like",
    _made: """arange zeros ones full empty scalar_tensor tensor rand randn eye linspace new_zeros new_ones new_full
        new_empty _assert_tensor_metadata""",
    _view: "view reshape _unsafe_view flatten unflatten squeeze unsqueeze ravel",
    _permute: "permute",
    _transpose: "transpose t mT swapaxes numpy_T",
    _expand: "expand expand_as broadcast_to",
    _repeat: "repeat tile",
    _repeat_interleave: "repeat_interleave",
    _select: "select",
    _unbind: "unbind",
    _slice: "slice",
    _narrow: "narrow",
    _split: "split split_with_sizes chunk tensor_split",
    _cat: "cat concat concatenate",
    _stack: "stack",
    _linear: "linear",
    _matmul: "matmul mm bmm mv dot",
    _addmm: "addmm baddbmm",
    _einsum: "einsum",
    _attention: "scaled_dot_product_attention",
    _convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _batch_norm: "batch_norm _native_batch_norm_legit native_batch_norm",
    _layer_norm: "layer_norm rms_norm",
    _group_norm: "group_norm instance_norm",
    _embedding: "embedding",
    _along: "softmax log_softmax _softmax _log_softmax cumsum cumprod flip logcumsumexp",
    _glu: "glu",
    _prelu: "prelu",
    _pointwise: """hardswish hardsigmoid hardtanh relu6 leaky_relu elu celu selu mish softplus log_sigmoid threshold
        rrelu""",
    _reduction: "mean sum amax amin var std any all prod argmax argmin logsumexp linalg_vector_norm norm",
    _places: """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
        upsample_bicubic2d _upsample_nearest_exact2d""",
    _pad: "pad constant_pad_nd",
    _triangle: "tril triu",
    _nothing: "sym_size _assert_async _assert_scalar sym_constrain_range_for_size",
}
RULES: dict[str, Rule] = {f"aten.{name}": rule for rule, names in _GROUPS.items() for name in names.split()}
RULES["getitem"] = _item
"""By the name of an operator."""
