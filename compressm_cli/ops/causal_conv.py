"""Causal depthwise convolution over time of channels-last tensors, with its activation: a numba kernel on CPU.

oneDNN's gradient of a depthwise convolution takes several times as long as the rest of a small block, and works on
channels first.
"""

from math import prod
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from compressm_cli.core.kernels import compiled
from compressm_cli.ops import reference
from compressm_cli.ops.parallel import flat, last_contiguous, over_parts, parts_a_row
from compressm_cli.ops.simd import LANES, load, rounded_product, same, sigmoid, store


@numba.njit(forceinline=True)
def _before_activation(x, base, step, weight, bias, t, width, channels, c):  # type: ignore[no-untyped-def]
    # Weights lie by step, the last of them for the present.
    out = load(bias, c)
    for k in range(max(0, width - 1 - t), width):
        out = out + load(weight, k * channels + c) * load(x, base + (t - width + 1 + k) * step + c)
    return out


# Where channels do not divide into vectors, the last vector overlaps the one before: it computes the same again.
@compiled()
def _forward(sizes, strides, x, weight, bias, silu, y, first, last):  # type: ignore[no-untyped-def]
    length, channels, width, groups = sizes
    vectors = (channels + LANES - 1) // LANES
    for part in range(first, last):
        row, group = part // groups, part % groups
        base = row * strides[0]
        for t in range(length):
            for v in range(vectors * group // groups, vectors * (group + 1) // groups):
                c = min(v * LANES, channels - LANES)
                out = _before_activation(x, base, strides[1], weight, bias, t, width, channels, c)
                if silu:
                    out = out * sigmoid(out)
                store(y, (row * length + t) * channels + c, out)


@compiled()
def _backward(  # type: ignore[no-untyped-def]
    sizes, strides, needs, grad, x, weight, bias, silu, dx, dweight, dbias, first, last
):
    # None, where all are asked for, is compiled apart, without a branch.
    if needs is None:
        of_x = of_weight = of_bias = True
    else:
        of_x, of_weight, of_bias = needs
    length, channels, width, groups = sizes
    vectors = (channels + LANES - 1) // LANES
    # Gradients before the activation, of the last `width` steps: step t in row t modulo `width`.
    recent = np.zeros(width * channels, np.float32)
    weight_sums = np.zeros(width * vectors * LANES, np.float32)
    bias_sums = np.zeros(vectors * LANES, np.float32)
    rows = np.zeros(width, np.int64)
    for part in range(first, last):
        row, group = part // groups, part % groups
        base = row * strides[0]
        v_first, v_last = vectors * group // groups, vectors * (group + 1) // groups
        weight_sums[:] = 0.0
        bias_sums[:] = 0.0
        for t in range(length - 1, -1, -1):
            for later in range(width):
                rows[later] = (t + later) % width * channels
            for v in range(v_first, v_last):
                c = min(v * LANES, channels - LANES)
                g = load(grad, (row * length + t) * channels + c)
                if silu:
                    out = _before_activation(x, base, strides[1], weight, bias, t, width, channels, c)
                    s = sigmoid(out)
                    # Rounded by itself, so that each gradient is the same without the others.
                    g = rounded_product(g * s, same(1.0) + out * (same(1.0) - s))
                if of_bias:
                    store(bias_sums, v * LANES, load(bias_sums, v * LANES) + g)
                if of_weight:
                    for k in range(max(0, width - 1 - t), width):
                        at = (k * vectors + v) * LANES
                        past = load(x, base + (t - width + 1 + k) * strides[1] + c)
                        store(weight_sums, at, load(weight_sums, at) + g * past)
                if of_x:
                    store(recent, rows[0] + c, g)
                    total = same(0.0)
                    for later in range(min(width, length - t)):
                        at = (width - 1 - later) * channels + c
                        total = total + load(weight, at) * load(recent, rows[later] + c)
                    store(dx, (row * length + t) * channels + c, total)
        for v in range(v_first, v_last):
            c = min(v * LANES, channels - LANES)
            if of_bias:
                store(dbias, row * channels + c, load(bias_sums, v * LANES))
            if of_weight:
                for k in range(width):
                    sums = load(weight_sums, (k * vectors + v) * LANES)
                    store(dweight, (row * width + k) * channels + c, sums)


def _arguments(
    shape: torch.Size, x: Tensor, weight: Tensor, bias: Tensor, silu: bool
) -> tuple[int, tuple[Any, ...]]:
    """How many parts there are, and what both kernels start with; x, weight and bias may be empty, if (0, 0, 0), (0, w)
    and (0,)."""
    batch, length, channels = shape
    groups = parts_a_row(batch, -(-channels // LANES))
    sizes = (length, channels, weight.shape[1], groups)
    strides = (x.stride(0), x.stride(1))
    return batch * groups, (
        sizes,
        strides,
        flat(x),
        flat(weight.T.contiguous()),
        flat(bias.contiguous()),
        silu,
    )


@torch.library.custom_op("compressm::causal_conv1d_v2", mutates_args=(), device_types="cpu")
def _conv(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    y = x.new_empty(x.shape)
    parts, arguments = _arguments(x.shape, last_contiguous(x), weight, bias, silu)
    over_parts(_forward, parts, *arguments, flat(y))
    return y


# ``needs`` is of x, weight and bias. A gradient that is not asked for is empty, and so is a tensor that none reads.
@torch.library.custom_op("compressm::causal_conv1d_backward_v2", mutates_args=(), device_types="cpu")
def _conv_backward(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, needs: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    (batch, _, channels), width = grad.shape, weight.shape[1]
    of_x, of_weight, of_bias = needs
    dx = grad.new_empty(grad.shape if of_x else 0)
    dweight = grad.new_empty((batch, width, channels) if of_weight else (0, 0))
    dbias = grad.new_empty((batch, channels) if of_bias else (0, 0))
    parts, (sizes, strides, *rest) = _arguments(grad.shape, last_contiguous(x), weight, bias, silu)
    results = flat(dx), flat(dweight), flat(dbias)
    asked = None if all(needs) else tuple(needs)
    over_parts(_backward, parts, sizes, strides, asked, flat(grad.contiguous()), *rest, *results)
    return dx, dweight.sum(0).T.contiguous() if of_weight else dweight.sum(0), dbias.sum(0)


@_conv.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, silu: bool) -> Tensor:
    return x.new_empty(x.shape)


@_conv_backward.register_fake
def _(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, silu: bool, needs: list[bool]
) -> tuple[Tensor, ...]:
    channels = grad.shape[2]
    shapes = (grad.shape, (channels, weight.shape[1]), (channels,))
    return tuple(grad.new_empty(shape if n else (0,)) for shape, n in zip(shapes, needs, strict=True))


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
    x, weight, bias, ctx.silu = inputs
    of_x, of_weight, of_bias = ctx.needs_input_grad[:3]
    again = ctx.silu and (of_x or of_weight or of_bias)  # the output before the activation
    ctx.save_for_backward(
        x if of_weight or again else x.new_empty(0, 0, 0),
        weight if of_x or again else weight.new_empty(0, weight.shape[1]),
        bias if again else bias.new_empty(0),
    )


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    needs = ctx.needs_input_grad[:3]
    found = _conv_backward(grad, *ctx.saved_tensors, ctx.silu, list(needs))
    return *(g if needed else None for g, needed in zip(found, needs, strict=True)), None


_conv.register_autograd(_differentiate, setup_context=_save)


# A multiply-add is two operations; the gradient needs one for x, one for the weight. As torch, without activations.
@register_flop_formula(torch.ops.compressm.causal_conv1d_v2)
def _(x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * prod(x_shape) * weight_shape[1]


@register_flop_formula(torch.ops.compressm.causal_conv1d_backward_v2)
def _(grad_shape: Any, x_shape: Any, weight_shape: Any, *args: Any, **kwargs: Any) -> int:
    of_x, of_weight, _ = args[-1]
    return 2 * (of_x + of_weight) * prod(grad_shape) * weight_shape[1]


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Each channel convolved over time with its own weights, the last of them for the present; zeros before the start.

    x (batch, length, channels), weight (channels, width), bias (channels,); activation None or "silu".
    Returns y of the shape of x, in the dtype of the weight. Raises ValueError for another activation and for shapes
    that do not fit. The kernel is for float32 on CPU; everything else is PyTorch's convolution.
    """
    if activation not in (None, "silu"):
        raise ValueError(f"activation {activation!r} is neither None nor 'silu'")
    channels = x.shape[-1]
    if (
        x.ndim != 3
        or weight.ndim != 2
        or len(weight) != channels
        or (bias is not None and bias.shape != (channels,))
    ):
        shapes = [None if t is None else tuple(t.shape) for t in (x, weight, bias)]
        raise ValueError(
            "x (batch, length, channels), weight (channels, width) and bias do not fit: {}, {}, {}".format(
                *shapes
            )
        )
    x = x.to(weight.dtype)
    if x.device.type != "cpu" or x.dtype != torch.float32 or channels < LANES:
        return reference.causal_conv1d(x, weight, bias, activation)
    return _conv(x, weight, x.new_zeros(channels) if bias is None else bias, activation == "silu")
