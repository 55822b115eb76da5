"""Time-invariant systems as convolutions: the kernel for all lags at once, then the FFT."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

FINE = 32
"""Lags a row of the kernel: lambda^(FINE i + j) = lambda^(FINE i) lambda^j."""


def _powers(log_abs: Tensor, angle: Tensor, exponents: Tensor) -> tuple[Tensor, Tensor]:
    """lambda^k for k in exponents (K,) as real and imaginary parts (K, ...), in the dtype of log_abs.

    The exponent is formed in float64: in float32 the phase k angle would be off by k times the rounding
    of the angle, 1e-3 at a lag of 16,000.
    """
    k = exponents.view(-1, *[1] * log_abs.ndim)
    size = torch.exp(k * log_abs.double())
    phase = k * angle.double()
    return (size * torch.cos(phase)).to(log_abs.dtype), (size * torch.sin(phase)).to(log_abs.dtype)


def _split_powers(
    log_abs: Tensor, angle: Tensor, length: int
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """lambda^(FINE i) for the rows i of the kernel and lambda^j for j < FINE: few exponentials."""
    fine = torch.arange(FINE, dtype=torch.float64, device=log_abs.device)
    coarse = torch.arange(0, length, FINE, dtype=torch.float64, device=log_abs.device)
    return _powers(log_abs, angle, coarse), _powers(log_abs, angle, fine)


def mimo_convolution(
    u: Tensor, log_abs: Tensor, angle: Tensor, B_re: Tensor, B_im: Tensor, C_re: Tensor, C_im: Tensor
) -> Tensor:
    """y = Re(C h), h_t = diag(lambda) h_{t-1} + B u_t, as a convolution with K_k = Re(C diag(lambda^k) B).

    u (batch, length, p), lambda = exp(log_abs + i angle) (N,), B (N, p), C (q, N). Returns
    (batch, length, q). Its cost does not grow with batch times N, so it wins where p q is small.
    """
    length, p, q = u.shape[1], B_re.shape[1], C_re.shape[0]
    n = log_abs.shape[0]
    (row_re, row_im), (lag_re, lag_im) = _split_powers(log_abs, angle, length)
    re = (row_re[:, None] * lag_re - row_im[:, None] * lag_im).view(-1, n)[:length]
    im = (row_re[:, None] * lag_im + row_im[:, None] * lag_re).view(-1, n)[:length]
    outer_re = torch.einsum("qn,np->nqp", C_re, B_re) - torch.einsum("qn,np->nqp", C_im, B_im)
    outer_im = torch.einsum("qn,np->nqp", C_re, B_im) + torch.einsum("qn,np->nqp", C_im, B_re)
    kernel = re @ outer_re.reshape(n, q * p) - im @ outer_im.reshape(n, q * p)
    return _Convolve.apply(u.to(kernel.dtype), kernel.view(length, q, p))


class _Convolve(torch.autograd.Function):
    """u (batch, L, p), kernel (L, q, p) -> y (batch, L, q), y_t = sum over k <= t of kernel_k u_{t-k}.

    Its gradient takes real transforms alone, where that of ``rfft`` takes complex ones of twice the size.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, kernel: Tensor) -> Tensor:
        need_u, need_kernel = ctx.needs_input_grad
        u_f, kernel_f = _transform(u.transpose(0, 1)), _transform(kernel)
        ctx.save_for_backward(u_f if need_kernel else None, kernel_f if need_u else None)
        return _back(torch.bmm(u_f.flatten(2), _as_real_matrices(kernel_f)), u.shape[1]).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        u_f, kernel_f = ctx.saved_tensors
        grad_f, length = _transform(grad.transpose(0, 1)), grad.shape[1]
        need_u, need_kernel = ctx.needs_input_grad
        return (
            _correlated_with_kernel(grad_f, kernel_f, length) if need_u else None,
            _correlated_with_inputs(grad_f, u_f, length) if need_kernel else None,
        )


def _correlated_with_kernel(grad_f: Tensor, kernel_f: Tensor, length: int) -> Tensor:
    """The gradient of u: the adjoint of a causal convolution, with the kernel's transform conjugated."""
    adjoint = _as_real_matrices(kernel_f).mT
    return _back(torch.bmm(grad_f.flatten(2), adjoint), length).transpose(0, 1)


def _correlated_with_inputs(grad_f: Tensor, u_f: Tensor, length: int) -> Tensor:
    """The gradient of the kernel, the rows of the batch summed: [Re, Im] of grad^T conj(u)."""
    products = torch.bmm(grad_f.flatten(2).mT, u_f.flatten(2)).unflatten(1, (-1, 2)).unflatten(3, (-1, 2))
    re = products[:, :, 0, :, 0] + products[:, :, 1, :, 1]
    im = products[:, :, 1, :, 0] - products[:, :, 0, :, 1]
    return torch.fft.irfft(torch.complex(re, im), n=2 * length, dim=0)[:length]


def _transform(x: Tensor) -> Tensor:
    """x (L, a, b) real, padded against wrapping around -> (L + 1, a, b, 2): real and imaginary parts."""
    return torch.view_as_real(torch.fft.rfft(x, n=2 * x.shape[0], dim=0))


def _back(x_f: Tensor, length: int) -> Tensor:
    """(L + 1, a, 2 b), parts of an entry adjacent -> (L, a, b) real."""
    x_f = torch.view_as_complex(x_f.unflatten(2, (-1, 2)))
    return torch.fft.irfft(x_f, n=2 * length, dim=0)[:length]


def _as_real_matrices(K: Tensor) -> Tensor:
    """(F, q, p, 2), complex K -> (F, 2 p, 2 q): ``[Re u, Im u] -> [Re K u, Im K u]``, parts of an entry adjacent.

    One product of real matrices: those of complex ones are taken one after the other on a CPU, with copies.
    """
    re, im = K.permute(3, 0, 2, 1)
    from_re, from_im = torch.stack([re, im], dim=-1), torch.stack([-im, re], dim=-1)
    return torch.stack([from_re, from_im], dim=2).reshape(K.shape[0], 2 * K.shape[2], 2 * K.shape[1])


def channelwise_convolution(u: Tensor, log_abs: Tensor, angle: Tensor, C_re: Tensor, C_im: Tensor) -> Tensor:
    """``reference.channelwise_ssm`` as one convolution a channel.

    u (batch, length, H); lambda = exp(log_abs + i angle) (H, N); C (H, N). Returns (batch, length, H).
    The kernel is a product of two thin matrices a channel, so no (length, H, N) tensor is ever held.
    """
    length = u.shape[1]
    (row_re, row_im), (lag_re, lag_im) = _split_powers(log_abs, angle, length)
    rows = torch.cat([C_re * row_re - C_im * row_im, -(C_re * row_im + C_im * row_re)], dim=-1)
    lags = torch.cat([lag_re, lag_im], dim=-1)
    kernel = torch.bmm(rows.transpose(0, 1), lags.permute(1, 2, 0)).flatten(1)[:, :length]
    size = 2 * length
    kernel_f = torch.fft.rfft(kernel.T, n=size, dim=0)
    u_f = torch.fft.rfft(u.to(kernel.dtype), n=size, dim=1)
    return torch.fft.irfft(u_f * kernel_f, n=size, dim=1)[:, :length]
