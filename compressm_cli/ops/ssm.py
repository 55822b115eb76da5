"""The time-invariant state space operations: one function each, the form chosen by cost."""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from compressm_cli.ops.convolution import channelwise_convolution, mimo_convolution
from compressm_cli.ops.forms import DEFAULT, Form, Problem
from compressm_cli.ops.parallel import runs_eagerly_on_cpu
from compressm_cli.ops.recurrent import recurrent_ssm
from compressm_cli.ops.scan import diagonal_scan


class DiagonalSystem(NamedTuple):
    """What ``diagonal_ssm`` computes: log_abs and angle (N,), B (N, p), C (q, N), D (q,) with q = p or None."""

    log_abs: Tensor
    angle: Tensor
    B_re: Tensor
    B_im: Tensor
    C_re: Tensor
    C_im: Tensor
    D: Tensor | None = None

    def stacked(self) -> "StackedSystem":
        """In the layout of ``diagonal_scan``, so that the read-out is a real product."""
        size = torch.exp(self.log_abs)
        poles = size * torch.cos(self.angle), size * torch.sin(self.angle)
        B = torch.cat([self.B_re, self.B_im], dim=0)
        return StackedSystem(*poles, B, torch.cat([self.C_re, -self.C_im], dim=1), self.D)


class StackedSystem(NamedTuple):
    """h_t = diag(poles) h_{t-1} + B u_t and y_t = C h_t + D u_t, real parts of states first, then imaginary ones."""

    poles_re: Tensor
    """(N,)"""
    poles_im: Tensor
    B: Tensor
    """(2 N, p)"""
    C: Tensor
    """(q, 2 N)"""
    D: Tensor | None


def _parameter_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast switched off; the meta device, on which FLOPs are counted, has none."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()


def diagonal_ssm(
    u: Tensor,
    log_abs: Tensor,
    angle: Tensor,
    B_re: Tensor,
    B_im: Tensor,
    C_re: Tensor,
    C_im: Tensor,
    D: Tensor | None = None,
    form: Form | None = None,
) -> Tensor:
    """y_t = Re(C h_t) + D u_t, h_t = diag(lambda) h_{t-1} + B u_t, lambda = exp(log_abs + i angle).

    u (batch, length, p), log_abs and angle (N,), B (N, p), C (q, N), D (q,) with q = p. Returns (batch, length, q).
    ``form`` None stands for the cheaper one by ``forms.DEFAULT``. Under autocast the projections of the recurrent form
    run in the lower precision, the recurrence in that of the poles.
    """
    if form is None:
        batch, length, inputs = u.shape
        form = DEFAULT.cheapest(Problem(batch, length, log_abs.shape[0], inputs, C_re.shape[0]))
    if form == "convolution":
        with _parameter_precision(u.device):
            y = mimo_convolution(u, log_abs, angle, B_re, B_im, C_re, C_im)
        return y if D is None else torch.addcmul(y, u, D)
    re, im, B, C, _ = DiagonalSystem(log_abs, angle, B_re, B_im, C_re, C_im, D).stacked()
    if runs_eagerly_on_cpu(u):
        return recurrent_ssm(u, re, im, B, C, D)
    y = functional.linear(diagonal_scan(functional.linear(u, B), re, im), C)
    return y if D is None else torch.addcmul(y, u, D)


def channelwise_ssm(u: Tensor, log_abs: Tensor, angle: Tensor, C_re: Tensor, C_im: Tensor) -> Tensor:
    """One single-input single-output system a channel, with input weights of one.

    u (batch, length, H), log_abs, angle and C (H, N). Returns (batch, length, H).
    """
    with _parameter_precision(u.device):
        return channelwise_convolution(u, log_abs, angle, C_re, C_im)
