"""What the operators of a network say of the dimensions of what they take and give."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from compressm_cli.structure.discovery import contractions, layouts
from compressm_cli.structure.discovery.dimensions import fresh, pin, unify
from compressm_cli.structure.discovery.tracer import (
    COUNTED,
    Dims,
    Tracer,
    broadcast,
    name_of,
    tensors_of,
    unknown,
    unknown_outputs,
)

MADE = "it is made as a constant, whose size no cut changes"


def run(tracer: Tracer, node: fx.Node) -> None:
    """Let an operator say what it knows; of one that is called in a way that is not known nothing may be cut."""
    name = name_of(node.target)
    rule = RULES.get(name) or RULES.get(name.rstrip("_"))
    if rule is None and torch.Tag.pointwise in getattr(node.target, "tags", ()):
        rule = _pointwise
    try:
        tracer.known[node] = (rule or unknown)(tracer, node)
    except (IndexError, KeyError, TypeError, ValueError, AttributeError):
        tracer.known[node] = unknown(tracer, node)


def _made(tracer: Tracer, node: fx.Node) -> Any:
    return unknown_outputs(node, MADE)


def _pointwise(tracer: Tracer, node: fx.Node) -> Dims:
    found = broadcast(tracer, tensors_of(node), tracer.shape(node))
    for other in tensors_of(node):  # gains and biases
        dims = tracer.dims(other)
        for dim in range(len(dims)):
            tracer.role(dims, dim, "own")
    return found


def _batch_norm(tracer: Tracer, node: fx.Node) -> Any:
    x = tracer.dims(node.args[0])
    for other in node.args[1:5]:
        if isinstance(other, fx.Node) and tracer.dims(other):
            unify(tracer.dims(other)[0], x[1])
            tracer.role(tracer.dims(other), 0, "own")
    value = node.meta["val"]
    return list(x) if isinstance(value, Tensor) else [list(x), *unknown_outputs(node, COUNTED)[1:]]


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


def _along(tracer: Tracer, node: fx.Node) -> Dims:
    """What looks along one dimension, such as a softmax, and gives one entry for each."""
    dims = tracer.dims(node.args[0])
    chosen = node.args[1] if len(node.args) > 1 else node.kwargs["dim"]
    for dim in [chosen] if isinstance(chosen, int) else chosen:  # type: ignore[union-attr]
        pin(dims[dim], COUNTED)  # type: ignore[index]
    return list(dims)


def _prelu(tracer: Tracer, node: fx.Node) -> Dims:
    x, slope = tracer.dims(node.args[0]), tracer.dims(node.args[1])
    if slope[0].size > 1:
        unify(slope[0], x[1])
    return list(x)


def _reduction(tracer: Tracer, node: fx.Node) -> Any:
    dims, shape = tracer.dims(node.args[0]), node.meta["val"]
    place = 2 if "norm" in name_of(node.target) else 1  # behind the order of a norm
    chosen = node.args[place] if len(node.args) > place else node.kwargs.get("dim")
    chosen = [chosen] if isinstance(chosen, int) else chosen
    over = range(len(dims)) if not isinstance(chosen, (list, tuple)) or not chosen else chosen
    gone = {int(d) % len(dims) for d in over} if dims else set()
    for dim in gone:
        pin(dims[dim], COUNTED)
    if not isinstance(shape, Tensor):
        return unknown(tracer, node)
    if shape.ndim == len(dims):
        return [fresh(1) if d in gone else factor for d, factor in enumerate(dims)]
    return [factor for d, factor in enumerate(dims) if d not in gone]


def _places(tracer: Tracer, node: fx.Node) -> Any:
    """Pooling and resizing of images: what is left of places is new."""
    dims, value = tracer.dims(node.args[0]), node.meta["val"]
    if not isinstance(value, Tensor):
        return unknown(tracer, node)
    kept = 2 if len(dims) > 2 else len(dims)
    return [*dims[:kept], *(fresh(int(size), "it is a place in an image") for size in value.shape[kept:])]


def _item(tracer: Tracer, node: fx.Node) -> Any:
    return tracer.known[node.args[0]][node.args[1]]  # type: ignore[index]


def _nothing(tracer: Tracer, node: fx.Node) -> Any:
    return []


Rule = Callable[[Tracer, fx.Node], Any]
_GROUPS: dict[Rule, str] = {
    layouts.same: """dropout native_dropout feature_dropout alpha_dropout clone contiguous detach alias to _to_copy
        lift_fresh_copy lift_fresh positive type_as masked_fill""",
    layouts.like: "zeros_like ones_like rand_like randn_like empty_like full_like",
    _made: """arange zeros ones full empty scalar_tensor tensor rand randn eye linspace new_zeros new_ones new_full
        new_empty _assert_tensor_metadata""",
    layouts.view: "view reshape _unsafe_view flatten unflatten squeeze unsqueeze ravel",
    layouts.permute: "permute",
    layouts.transpose: "transpose t mT swapaxes numpy_T",
    layouts.expand: "expand expand_as broadcast_to",
    layouts.repeat: "repeat tile",
    layouts.repeat_interleave: "repeat_interleave",
    layouts.select: "select",
    layouts.unbind: "unbind",
    layouts.sliced: "slice",
    layouts.narrow: "narrow",
    layouts.split: "split split_with_sizes chunk tensor_split",
    layouts.cat: "cat concat concatenate",
    layouts.stack: "stack",
    contractions.linear: "linear",
    contractions.matmul: "matmul mm bmm mv dot",
    contractions.addmm: "addmm baddbmm",
    contractions.einsum: "einsum",
    contractions.attention: "scaled_dot_product_attention",
    contractions.convolution: "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d",
    _batch_norm: "batch_norm _native_batch_norm_legit native_batch_norm",
    _layer_norm: "layer_norm rms_norm",
    _group_norm: "group_norm instance_norm",
    contractions.embedding: "embedding",
    _along: "softmax log_softmax _softmax _log_softmax cumsum cumprod flip logcumsumexp",
    layouts.glu: "glu",
    _prelu: "prelu",
    _pointwise: """hardswish hardsigmoid hardtanh relu6 leaky_relu elu celu selu mish softplus log_sigmoid threshold
        rrelu""",
    _reduction: "mean sum amax amin var std any all prod argmax argmin logsumexp linalg_vector_norm norm",
    _places: """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d adaptive_max_pool2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
        upsample_bicubic2d _upsample_nearest_exact2d""",
    layouts.pad: "pad constant_pad_nd",
    layouts.triangle: "tril triu",
    _nothing: "sym_size _assert_async _assert_scalar sym_constrain_range_for_size",
}
RULES: dict[str, Rule] = {f"aten.{name}": rule for rule, names in _GROUPS.items() for name in names.split()}
RULES["getitem"] = _item
"""By the name of an operator."""
