"""The readable truth: every recurrence as its definition, in plain PyTorch, for any dtype.

Slow and memory-hungry on purpose; all other implementations must match these in output and gradient.
"""

import torch
from torch import Tensor
from torch.nn import functional


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


def selective_steps(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, kept: Tensor | None, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Some steps of ``selective_scan`` without D, from the states before: outputs, and the states after.

    before (batch, channels, N): as ``selective_scan``'s h; its arguments are otherwise the same.
    """
    if kept is not None:
        exists = torch.arange(A.shape[1], device=A.device) < kept[:, None]
        before = before * exists
    h, outputs = before, []
    for x_t, dt_t, B_t, C_t in zip(x.unbind(1), dt.unbind(1), B.unbind(1), C.unbind(1), strict=True):
        B_t = B_t[:, None] if kept is None else B_t[:, None] * exists
        h = torch.exp(dt_t[..., None] * A) * h + (dt_t * x_t)[..., None] * B_t
        outputs.append((h * C_t[:, None]).sum(-1))
    return torch.stack(outputs, dim=1), h


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    *,
    kept: Tensor | None = None,
) -> Tensor:
    """h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + dt_t[d] B_t[n] x_t[d];  y_t[d] = C_t h_t[d] + D[d] x_t[d].

    x and dt (batch, length, channels), A (channels, N), B and C (batch, length, N), D (channels,). Of channel d only
    the first kept[d] states exist; kept (channels,). Returns y of the shape of x.
    """
    if x.shape[1] == 0:
        return torch.zeros_like(x)
    y, _ = selective_steps(x, dt, A, B, C, kept, x.new_zeros(x.shape[0], *A.shape))
    return y if D is None else y + D * x


def selective_scan_gated(
    x: Tensor,
    dt_raw: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor,
    kept: Tensor | None = None,
) -> Tensor:
    """``selective_scan`` between what comes before and after it in a Mamba block; z of the shape of x."""
    y = selective_scan(x, functional.softplus(dt_raw + dt_bias), A, B, C, D, kept=kept)
    return y * functional.silu(z)


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """Each channel convolved over time with its own weights, the last of them for the present.

    x (batch, length, channels), weight (channels, width), bias (channels,); activation None or "silu".
    """
    past = functional.pad(x.mT, (weight.shape[1] - 1, 0))
    y = functional.conv1d(past, weight[:, None], bias, groups=weight.shape[0]).mT
    return y if activation is None else functional.silu(y)
