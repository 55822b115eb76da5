"""``diagonal_scan``: one operator with gradient, meta kernel and FLOP formula; the kernel goes by device."""

import importlib.util
import os
import shutil
import sysconfig
import warnings
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from compressm_cli.ops import cpu, torch_scan


# A number in an operator's name grows with each change of its arguments, or of its gradient's: what PyTorch's compiler
# has cached for an earlier version knows it by its name alone.
@torch.library.custom_op("compressm::diagonal_scan_v2", mutates_args=())
def _scan(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    return torch_scan.scan_forward(x, poles_re, poles_im)


# What is not asked for is empty, and without the gradients of the poles h is None.
@torch.library.custom_op("compressm::diagonal_scan_backward_v2", mutates_args=())
def _scan_backward(
    grad: Tensor, h: Tensor | None, poles_re: Tensor, poles_im: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return torch_scan.scan_backward(grad, h, poles_re, poles_im, of_x)


_scan.register_kernel("cpu")(cpu.scan_forward)
_scan_backward.register_kernel("cpu")(cpu.scan_backward)


def triton_obstacle() -> str | None:
    """Why CUDA devices do without the Triton kernels, or None where they have them. Does not import Triton."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    # Triton builds its launcher on first use, with this compiler and these headers.
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        return "triton needs a C compiler: neither gcc nor clang was found, and CC is not set"
    scheme = sysconfig.get_default_scheme().replace("posix_local", "posix_prefix")  # Debian's has no headers
    headers = Path(sysconfig.get_path("include", scheme))
    if not (headers / "Python.h").is_file():
        return f"triton needs Python's C headers, which {headers} does not have"
    return None


@cache
def _cuda_kernels() -> ModuleType:
    obstacle = triton_obstacle()
    if obstacle is not None:
        warnings.warn(f"the diagonal scan runs without its CUDA kernel: {obstacle}", stacklevel=2)
        return torch_scan
    from compressm_cli.ops import triton_scan

    return triton_scan


@_scan.register_kernel("cuda")
def _(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    return _cuda_kernels().scan_forward(x, poles_re, poles_im)


@_scan_backward.register_kernel("cuda")
def _(
    grad: Tensor, h: Tensor | None, poles_re: Tensor, poles_im: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return _cuda_kernels().scan_backward(grad, h, poles_re, poles_im, of_x)


@_scan.register_fake
def _(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    return torch.empty_like(x)


@_scan_backward.register_fake
def _(
    grad: Tensor, h: Tensor | None, poles_re: Tensor, poles_im: Tensor, of_x: bool
) -> tuple[Tensor, Tensor, Tensor]:
    poles = poles_re.shape if h is not None else (0,)
    return grad.new_empty(grad.shape if of_x else (0,)), grad.new_empty(poles), grad.new_empty(poles)


def _save(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    _, need_re, need_im = ctx.needs_input_grad[:3]
    ctx.save_for_backward(output if need_re or need_im else None, inputs[1], inputs[2])


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    h, poles_re, poles_im = ctx.saved_tensors
    needs = ctx.needs_input_grad
    found = _scan_backward(grad.contiguous(), h, poles_re, poles_im, needs[0])
    return tuple(gradient if needed else None for gradient, needed in zip(found, needs, strict=True))


_scan.register_autograd(_differentiate, setup_context=_save)


# A complex multiply-add is 8 real operations; the gradient needs one for x and one for the poles.
@register_flop_formula(torch.ops.compressm.diagonal_scan_v2)
def _(x_shape: Any, *args: Any, **kwargs: Any) -> int:
    return 8 * x_shape[0] * x_shape[1] * (x_shape[2] // 2)


@register_flop_formula(torch.ops.compressm.diagonal_scan_backward_v2)
def _(grad_shape: Any, h_shape: Any, *args: Any, **kwargs: Any) -> int:
    return (8 if h_shape is None else 16) * grad_shape[0] * grad_shape[1] * (grad_shape[2] // 2)


def load_kernels(device: torch.device) -> None:
    """Compile the scan's kernels, or load them where they were compiled before, so that no step has to wait."""
    x = torch.zeros(1, 2, 2, device=device, requires_grad=True)
    pole = torch.zeros(1, device=device, requires_grad=True)
    diagonal_scan(x, pole, pole).sum().backward()


def diagonal_scan(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """h_t = lambda h_{t-1} + x_t with h_0 = 0.

    x (batch, length, 2 N): real parts of the N states' inputs, then the imaginary parts; poles (N,).
    Returns h of the shape and layout of x, in the dtype of the poles: float32 at least, whatever x is.
    """
    return _scan(x.to(poles_re.dtype).contiguous(), poles_re.contiguous(), poles_im.contiguous())
