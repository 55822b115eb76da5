"""The readable truth: every recurrence as its definition, in plain PyTorch, for any dtype.

Slow and memory-hungry on purpose; all other implementations must match these in output and gradient.
"""

import torch
from torch import Tensor


def diagonal_scan(x: Tensor, poles_re: Tensor, poles_im: Tensor) -> Tensor:
    """h_t = lambda h_{t-1} + x_t with h_0 = 0, one step after the other.

    x (batch, length, 2 N): real parts of the N states' inputs, then the imaginary parts.
    poles_re, poles_im (N,). Returns h, of the shape and layout of x.
    """
    n = poles_re.shape[0]
    h_re = h_im = torch.zeros_like(x[:, 0, :n])
    states = []
    for now in x.unbind(1):
        h_re, h_im = (
            poles_re * h_re - poles_im * h_im + now[:, :n],
            poles_re * h_im + poles_im * h_re + now[:, n:],
        )
        states.append(torch.cat([h_re, h_im], dim=-1))
    return torch.stack(states, dim=1)


def diagonal_ssm(
    u: Tensor, poles_re: Tensor, poles_im: Tensor, B_re: Tensor, B_im: Tensor, C_re: Tensor, C_im: Tensor
) -> Tensor:
    """y_t = Re(C h_t) with h_t = diag(lambda) h_{t-1} + B u_t.

    u (batch, length, p), poles (N,), B (N, p), C (q, N), each as real and imaginary part.
    Returns y (batch, length, q).
    """
    x = torch.cat([u @ B_re.T, u @ B_im.T], dim=-1)
    h = diagonal_scan(x, poles_re, poles_im)
    n = poles_re.shape[0]
    return h[..., :n] @ C_re.T - h[..., n:] @ C_im.T


def channelwise_ssm(u: Tensor, poles_re: Tensor, poles_im: Tensor, C_re: Tensor, C_im: Tensor) -> Tensor:
    """One single-input single-output diagonal system a channel, with input weights of one.

    u (batch, length, H), poles and C (H, N), each as real and imaginary part.
    Returns y (batch, length, H): y[..., d] = Re(C[d] h_d), h_d = diag(poles[d]) h_d + u[..., d].
    """
    ones = torch.ones_like(poles_re[0])[:, None]
    zeros = torch.zeros_like(ones)
    columns = [
        diagonal_ssm(u[..., [d]], poles_re[d], poles_im[d], ones, zeros, C_re[[d]], C_im[[d]])
        for d in range(u.shape[-1])
    ]
    return torch.cat(columns, dim=-1)
