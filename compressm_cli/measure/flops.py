"""FLOPs, counted from the operators that a model executes; never guessed from the number of parameters."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.data.interface import Split
from compressm_cli.measure.probe import inference, on_copy, training_step
from compressm_cli.objectives.objective import Objective

CONVENTION = (
    "1 multiply-add = 2 FLOPs, of complex numbers 8. Counted as executed, forward and backward: matrix "
    "products (in attention of all steps with all, causal or not), convolutions (as without padding), "
    "recurrent scans (8 a complex state and step, backward 16; selective ones 7 a state and step, backward 17), "
    "FFTs (5 n log2 n a complex transform of length n, half for a real one). Not counted: elementwise work "
    "(normalization, activations, gates, biases, residuals, dropout, pooling, loss), look-ups, copies, "
    "the optimizer, evaluations, and what a compression check computes."
)
"""What a FLOP is here; written beside every count."""


@dataclass(frozen=True)
class FlopCount:
    """FLOPs in total and by operator, such as ``aten.mm``."""

    total: int
    by_operator: dict[str, int]


def count_inference(model: nn.Module, batch: Split) -> FlopCount:
    """One forward of ``model(inputs, lengths)`` in evaluation mode, without gradient."""
    return on_copy(model, batch, lambda twin, rows: _count(inference, twin, rows))


def count_training_step(model: nn.Module, batch: Split, objective: Objective | None = None) -> FlopCount:
    """One forward of ``model(inputs, lengths)`` in training mode, the objective's loss and backward."""
    step = partial(training_step, objective=objective)
    return on_copy(model, batch, lambda twin, rows: _count(step, twin, rows))


def inference_flops(model: nn.Module, batch: Split) -> int:
    """Total of ``count_inference``; for the cost of a sequence give one row of the longest length."""
    return count_inference(model, batch).total


def training_step_flops(model: nn.Module, batch: Split, objective: Objective | None = None) -> int:
    """Total of ``count_training_step``."""
    return count_training_step(model, batch, objective).total


def counted(run: Callable[[], Any]) -> dict[str, int]:
    """FLOPs of all that is computed while ``run`` calls a module, under "", and of each module in that, by its name."""
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        run()
    totals = {name: sum(map(int, counts.values())) for name, counts in counter.get_flop_counts().items()}
    inner = {name.partition(".")[2]: flops for name, flops in totals.items() if "." in name}
    return {**inner, "": totals.get("Global", 0)}


class TrainingFlops:
    """FLOPs of a training run: steps times FLOPs a step, summed over the segments between cuts."""

    def __init__(self) -> None:
        self.total = 0
        self._per_step: int | None = None

    @property
    def per_step(self) -> int | None:
        """Of a step as the model is; None before the first segment."""
        return self._per_step

    def segment(self, flops_per_step: int) -> None:
        """From now on a step costs this much: at the start, and after every change of shape."""
        self._per_step = flops_per_step

    def step(self, n: int = 1) -> None:
        """``n`` steps were trained (also those of a trial that is undone later: they were computed)."""
        if self._per_step is None:
            raise RuntimeError("no segment has begun; call segment(flops_per_step) first")
        self.total += n * self._per_step

    def state_dict(self) -> dict[str, int | None]:
        return {"total": self.total, "per_step": self._per_step}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        self.total, self._per_step = state["total"] or 0, state["per_step"]


def _count(run: Callable[[nn.Module, Split], None], model: nn.Module, batch: Split) -> FlopCount:
    with FlopCounterMode(display=False, custom_mapping=_FORMULAS) as counter:
        run(model, batch)
    by_operator = {str(op): int(n) for op, n in counter.get_flop_counts().get("Global", {}).items() if n}
    return FlopCount(sum(by_operator.values()), by_operator)


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


_FORMULAS = _formulas()
