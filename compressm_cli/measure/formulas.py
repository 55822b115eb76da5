"""FLOPs of operators, and of whatever is run."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode


def counted(run: Callable[[], Any]) -> dict[str, int]:
    """FLOPs of all that is computed while ``run`` calls a module, under "", and of each module in that, by its name."""
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run()
    totals = {name: sum(map(int, counts.values())) for name, counts in counter.get_flop_counts().items()}
    inner = {name.partition(".")[2]: flops for name, flops in totals.items() if "." in name}
    return {**inner, "": totals.get("Global", 0)}


def _multiply_adds(n: int, *tensors: Tensor) -> int:
    return n * (8 if any(t.is_complex() for t in tensors) else 2)


def _mm(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _multiply_adds(a.shape[0] * a.shape[1] * b.shape[1], a, b)


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _mm(a, b)


def _bmm(a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _multiply_adds(a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2], a, b)


def _baddbmm(bias: Tensor, a: Tensor, b: Tensor, *args: Any, **kwargs: Any) -> int:
    return _bmm(a, b)


def _mv(a: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return _multiply_adds(a.numel(), a, x)


def _addmv(bias: Tensor, a: Tensor, x: Tensor, *args: Any, **kwargs: Any) -> int:
    return _mv(a, x)


def _convolution_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    output_mask: list[bool],
    **kwargs: Any,
) -> int:
    # The gradients of input and of weight take as many multiply-adds as the forward each. The counter's
    # own formula does not divide by the groups, so it is wrong for depthwise convolutions.
    positions = math.prod((x if transposed else grad).shape[2:])
    return sum(output_mask[:2]) * _multiply_adds(x.shape[0] * positions * weight.numel(), x, weight)


def _attention(q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    # Both products of all queries with all keys, also where it is causal; keys that heads share count in each.
    return _multiply_adds(q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]), q)


def _attention_backward(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *args: Any, **kwargs: Any) -> int:
    # The scores once more, their gradient, and those of queries, keys and values.
    return _multiply_adds(q.shape[:-1].numel() * k.shape[-2] * (3 * q.shape[-1] + 2 * v.shape[-1]), q)


def _transforms(shape: torch.Size, dims: list[int]) -> float:
    """5 n log2 n times the number of transforms of n = prod(shape[dims]) points."""
    n = math.prod(shape[d] for d in dims)
    return 5 * math.prod(shape) * math.log2(n) if n > 1 else 0.0


def _fft_complex(x: Tensor, dims: list[int], *args: Any, **kwargs: Any) -> int:
    return round(_transforms(x.shape, dims))


def _fft_from_real(x: Tensor, dims: list[int], *args: Any, **kwargs: Any) -> int:
    return round(_transforms(x.shape, dims) / 2)


def _fft_to_real(x: Tensor, dims: list[int], *args: Any, out_val: Tensor, **kwargs: Any) -> int:
    return round(_transforms(out_val.shape, dims) / 2)


def _formulas() -> dict[Any, Callable[..., int]]:
    aten = torch.ops.aten
    table: dict[Any, Callable[..., int]] = {
        aten.mm: _mm,
        aten.addmm: _addmm,
        aten.bmm: _bmm,
        aten.baddbmm: _baddbmm,
        aten.mv: _mv,
        aten.addmv: _addmv,
        aten.dot: _mv,
        aten.vdot: _mv,
        aten.convolution_backward: _convolution_backward,
        # PyTorch's counter has no formula for the first, and its earlier versions none for shared keys.
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention: _attention,
        aten._scaled_dot_product_efficient_attention: _attention,
        aten._scaled_dot_product_cudnn_attention: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        aten._scaled_dot_product_flash_attention_backward: _attention_backward,
        aten._scaled_dot_product_efficient_attention_backward: _attention_backward,
        aten._scaled_dot_product_cudnn_attention_backward: _attention_backward,
        aten._fft_c2c: _fft_complex,
        aten._fft_r2c: _fft_from_real,
        aten._fft_c2r: _fft_to_real,
    }
    for formula in table.values():
        formula._get_raw = True  # type: ignore[attr-defined]  # the counter's mark for "give tensors, not shapes"
    return table


FORMULAS = _formulas()
