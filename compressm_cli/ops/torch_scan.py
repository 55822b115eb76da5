"""The diagonal scan in plain PyTorch for any device: doubling strides, log2(length) passes."""

import torch
from torch import Tensor


def _powers(re: Tensor, im: Tensor) -> tuple[Tensor, Tensor]:
    return re * re - im * im, 2 * re * im


def scan_forward(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """``reference.diagonal_scan``; after the pass of stride s each entry sums up its last 2 s inputs."""
    n = poles_re.shape[0]
    h_re, h_im = x[..., :n], x[..., n:]
    stride = 1
    while stride < x.shape[1]:
        past_re, past_im = h_re[:, :-stride], h_im[:, :-stride]
        new_re = h_re[:, stride:] + poles_re * past_re - poles_im * past_im
        new_im = h_im[:, stride:] + poles_re * past_im + poles_im * past_re
        h_re = torch.cat([h_re[:, :stride], new_re], dim=1)
        h_im = torch.cat([h_im[:, :stride], new_im], dim=1)
        poles_re, poles_im = _powers(poles_re, poles_im)
        stride *= 2
    return torch.cat([h_re, h_im], dim=-1)


def scan_backward(
    grad: Tensor, h: Tensor | None, poles_re: Tensor, poles_im: Tensor, of_x: bool = True
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients with respect to x, poles_re and poles_im; empty that of x if not ``of_x``, those of poles without h."""
    n = poles_re.shape[0]
    dx = scan_forward(grad.flip(1), poles_re, -poles_im).flip(1)
    kept = dx if of_x else grad.new_empty(0)
    if h is None:
        return kept, grad.new_empty(0), grad.new_empty(0)
    re, im = dx[:, 1:, :n], dx[:, 1:, n:]
    h_re, h_im = h[:, :-1, :n], h[:, :-1, n:]
    return kept, (re * h_re + im * h_im).sum((0, 1)), (im * h_re - re * h_im).sum((0, 1))
