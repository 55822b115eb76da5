"""The diagonal scan as a CPU kernel: compiled by numba, parallel over the batch."""

from torch import Tensor

from compressm_cli.core.kernels import compiled
from compressm_cli.ops.parallel import over_parts


@compiled(fastmath={"contract", "reassoc", "nsz"})
def _forward(h, poles_re, poles_im, first, last):  # type: ignore[no-untyped-def]
    n = poles_re.shape[0]
    for b in range(first, last):
        for t in range(1, h.shape[1]):
            for i in range(n):
                re, im = h[b, t - 1, i], h[b, t - 1, n + i]
                h[b, t, i] += poles_re[i] * re - poles_im[i] * im
                h[b, t, n + i] += poles_re[i] * im + poles_im[i] * re


@compiled(fastmath={"contract", "reassoc", "nsz"})
def _backward(dx, h, poles_re, poles_im, dpoles, first, last):  # type: ignore[no-untyped-def]
    # dx_t = grad_t + conj(lambda) dx_{t+1}; dlambda = sum over t of dx_t conj(h_{t-1}), for each row apart.
    n = poles_re.shape[0]
    for b in range(first, last):
        for t in range(dx.shape[1] - 1, 0, -1):
            for i in range(n):
                re, im = dx[b, t, i], dx[b, t, n + i]
                h_re, h_im = h[b, t - 1, i], h[b, t - 1, n + i]
                dpoles[b, i] += re * h_re + im * h_im
                dpoles[b, n + i] += im * h_re - re * h_im
                dx[b, t - 1, i] += poles_re[i] * re + poles_im[i] * im
                dx[b, t - 1, n + i] += poles_re[i] * im - poles_im[i] * re


@compiled(fastmath={"contract", "reassoc", "nsz"})
def _adjoint(dx, poles_re, poles_im, first, last):  # type: ignore[no-untyped-def]
    n = poles_re.shape[0]
    for b in range(first, last):
        for t in range(dx.shape[1] - 1, 0, -1):
            for i in range(n):
                re, im = dx[b, t, i], dx[b, t, n + i]
                dx[b, t - 1, i] += poles_re[i] * re + poles_im[i] * im
                dx[b, t - 1, n + i] += poles_re[i] * im - poles_im[i] * re


def scan_(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """``reference.diagonal_scan`` in place, for contiguous CPU tensors of one floating dtype."""
    over_parts(_forward, x.shape[0], x.numpy(), poles_re.numpy(), poles_im.numpy())
    return x


def adjoint_scan_(grad: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """Gradient with respect to x alone, in the place of ``grad``, to the bits of ``scan_backward_``."""
    over_parts(_adjoint, grad.shape[0], grad.numpy(), poles_re.numpy(), poles_im.numpy())
    return grad


def scan_backward_(
    grad: Tensor, h: Tensor, poles_re: Tensor, poles_im: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, in the place of ``grad``, and to poles_re and poles_im."""
    dpoles = grad.new_zeros(grad.shape[0], grad.shape[2])
    arrays = (grad, h, poles_re, poles_im, dpoles)
    over_parts(_backward, grad.shape[0], *(a.numpy() for a in arrays))
    total = dpoles.sum(0)
    n = poles_re.shape[0]
    return grad, total[:n].clone(), total[n:].clone()


def scan_forward(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """As ``scan_``, into a new tensor."""
    return scan_(x.clone(), poles_re, poles_im)


def scan_backward(
    grad: Tensor, h: Tensor | None, poles_re: Tensor, poles_im: Tensor, of_x: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Into new tensors; empty are the gradient of x if not ``of_x``, those of the poles without h."""
    if h is None:
        return adjoint_scan_(grad.clone(), poles_re, poles_im), grad.new_empty(0), grad.new_empty(0)
    dx, dre, dim = scan_backward_(grad.clone(), h, poles_re, poles_im)
    return dx if of_x else grad.new_empty(0), dre, dim
