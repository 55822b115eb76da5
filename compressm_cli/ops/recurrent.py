"""The recurrent form on a CPU: projection, scan and read-out of a few rows at a time, while they are in the cache."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm_cli.ops import cpu

ENTRIES_AT_ONCE = 1 << 19
"""Entries of the widest array in a part: few enough for the cache, enough for a product to run at full speed."""


def recurrent_ssm(
    u: Tensor, poles_re: Tensor, poles_im: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Tensor:
    """y_t = C h_t + D u_t, h_t = diag(lambda) h_{t-1} + B u_t, all on a CPU.

    u (batch, length, p), poles (N,), B (2 N, p) and C (q, 2 N) in the layout of ``diagonal_scan``, D (q,) with q = p
    or None. Returns (batch, length, q). The states h alone are kept for the gradient. Under autocast the projections
    run in the lower precision, the recurrence in that of the poles.
    """
    low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else poles_re.dtype
    return _RecurrentSSM.apply(u, poles_re, poles_im, B, C, D, low)


def _parts(u: Tensor, B: Tensor, C: Tensor) -> Iterator[slice]:
    """Consecutive rows; as many as there are threads, for the scan goes by rows, or a multiple."""
    threads = torch.get_num_threads()
    widest = max(B.shape[0], B.shape[1], C.shape[0])
    rows = threads * max(1, ENTRIES_AT_ONCE // (u.shape[1] * widest * threads))
    for first in range(0, u.shape[0], rows):
        yield slice(first, first + rows)


class _RecurrentSSM(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        poles_re: Tensor,
        poles_im: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        low: torch.dtype,
    ) -> Tensor:
        ctx.low = low
        u, poles_re, poles_im = u.contiguous(), poles_re.contiguous(), poles_im.contiguous()
        h = poles_re.new_empty(*u.shape[:2], B.shape[0])
        y = poles_re.new_empty(*u.shape[:2], C.shape[0])
        with torch.autocast("cpu", enabled=False):
            B_low, C_low = B.to(low), C.to(low)
            for part in _parts(u, B, C):
                _product(u[part].to(low), B_low.mT, h[part])
                cpu.scan_(h[part], poles_re, poles_im)
                _product(h[part].to(low), C_low.mT, y[part])
                if D is not None:
                    y[part].addcmul_(u[part], D)
        ctx.save_for_backward(u, h, poles_re, poles_im, B_low, C_low, D)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, h, poles_re, poles_im, B, C, D = ctx.saved_tensors
        low, grad = ctx.low, grad.contiguous()
        B_rows = B.mT.contiguous().mT  # faster to multiply by where there are few inputs
        du = h.new_empty(u.shape) if ctx.needs_input_grad[0] else None
        dre, dim, dB, dC = (torch.zeros_like(t, dtype=h.dtype) for t in (poles_re, poles_im, B, C))
        dD = None if D is None else torch.zeros_like(D)
        for part in _parts(u, B, C):
            g, states, inputs = (t[part].to(low) for t in (grad, h, u))
            dh = (g @ C).to(h.dtype)
            dC += g.flatten(0, 1).mT @ states.flatten(0, 1)
            dx, part_re, part_im = cpu.scan_backward_(dh, h[part], poles_re, poles_im)
            dre += part_re
            dim += part_im
            dx = dx.to(low)
            # The thin matrix first: three times as fast as the other way round where there are few inputs.
            dB += (inputs.flatten(0, 1).mT @ dx.flatten(0, 1)).mT
            if du is not None:
                _product(dx, B_rows, du[part])
            if D is not None:
                dD += (grad[part] * u[part]).sum((0, 1))
                if du is not None:
                    du[part].addcmul_(grad[part], D)
        return None if du is None else du.to(u.dtype), dre, dim, dB, dC, dD, None


def _product(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    """x (rows, length, k) times matrix (k, m), written to a contiguous ``out`` of perhaps another dtype."""
    if x.dtype == out.dtype:
        torch.mm(x.flatten(0, 1), matrix, out=out.flatten(0, 1))
    else:
        out.copy_(x @ matrix)
