"""The recurrent form on a CPU: projection, scan and read-out of a few rows at a time, while they are in the cache."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from compressm_cli.core.gradients import low_type
from compressm_cli.ops import cpu

ENTRIES_AT_ONCE = 1 << 19
"""Entries of the widest array in a part: few enough for the cache, enough for a product to run at full speed."""


def recurrent_ssm(
    u: Tensor, poles_re: Tensor, poles_im: Tensor, B: Tensor, C: Tensor, D: Tensor | None
) -> Tensor:
    """y_t = C h_t + D u_t, h_t = diag(lambda) h_{t-1} + B u_t, all on a CPU.

    u (batch, length, p), poles (N,), B (2 N, p) and C (q, 2 N) in the layout of ``diagonal_scan``, D (q,) with q = p
    or None. Returns (batch, length, q). Of what is computed the gradient keeps the states h alone, and those only where
    that of the poles or of C is asked for. Under autocast the projections
    run in the lower precision, the recurrence in that of the poles.
    """
    return _RecurrentSSM.apply(u, poles_re, poles_im, B, C, D, low_type(poles_re))


def _parts(u: Tensor, widest: int) -> Iterator[slice]:
    """Consecutive rows; as many as there are threads, for the scan goes by rows, or a multiple."""
    threads = torch.get_num_threads()
    rows = threads * max(1, ENTRIES_AT_ONCE // (u.shape[1] * widest * threads))
    for first in range(0, u.shape[0], rows):
        yield slice(first, first + rows)


class _Needs(NamedTuple):
    """Whose gradients are asked for; the poles are one, for their parts are computed together."""

    u: bool
    poles: bool
    B: bool
    C: bool
    D: bool

    @classmethod
    def of(cls, ctx: Any) -> "_Needs":
        u, re, im, B, C, D, _ = ctx.needs_input_grad
        return cls(u, re or im, B, C, D)

    @property
    def scan(self) -> bool:
        """The gradient of the scan's inputs, from which those of u, the poles and B come."""
        return self.u or self.poles or self.B

    @property
    def states(self) -> bool:
        return self.poles or self.C


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
        ctx.low, ctx.u_dtype, ctx.widest = low, u.dtype, max(*B.shape, C.shape[0])
        needs = _Needs.of(ctx)
        u, poles_re, poles_im = u.contiguous(), poles_re.contiguous(), poles_im.contiguous()
        h = poles_re.new_empty(*u.shape[:2], B.shape[0]) if needs.states else None
        y = poles_re.new_empty(*u.shape[:2], C.shape[0])
        with torch.autocast("cpu", enabled=False):
            B_low, C_low = B.to(low), C.to(low)
            for part in _parts(u, ctx.widest):
                inputs = u[part]
                states = y.new_empty(*inputs.shape[:2], B.shape[0]) if h is None else h[part]
                _product(inputs.to(low), B_low.mT, states)
                cpu.scan_(states, poles_re, poles_im)
                _product(states.to(low), C_low.mT, y[part])
                if D is not None:
                    y[part].addcmul_(inputs, D)
        ctx.save_for_backward(
            u if needs.B or needs.D else None,
            h,
            *((poles_re, poles_im, C_low) if needs.scan else (None, None, None)),
            *((B_low, D) if needs.u else (None, None)),
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, h, poles_re, poles_im, C, B, D = ctx.saved_tensors
        needs, low, grad = _Needs.of(ctx), ctx.low, grad.contiguous()
        B_rows = B.mT.contiguous().mT if needs.u else None  # faster to multiply by where there are few inputs
        du = grad.new_empty(*grad.shape[:2], B.shape[1]) if needs.u else None
        dre, dim = (torch.zeros_like(t) if needs.poles else None for t in (poles_re, poles_im))
        dB = grad.new_zeros(C.shape[1], u.shape[2]) if needs.B else None
        dC = grad.new_zeros(grad.shape[2], h.shape[2]) if needs.C else None
        dD = grad.new_zeros(grad.shape[2]) if needs.D else None
        for part in _parts(grad, ctx.widest):
            g = grad[part].to(low)
            if dC is not None:
                dC += _summed_product(g, h[part].to(low))
            if dD is not None:
                dD += (grad[part] * u[part]).sum((0, 1))
            if not needs.scan:
                continue
            dx = (g @ C).to(grad.dtype)
            if dre is None or dim is None:
                cpu.adjoint_scan_(dx, poles_re, poles_im)
            else:
                _, part_re, part_im = cpu.scan_backward_(dx, h[part], poles_re, poles_im)
                dre += part_re
                dim += part_im
            dx = dx.to(low)
            if dB is not None:
                # The thin matrix first: three times as fast as the other way round where there are few inputs.
                dB += _summed_product(u[part].to(low), dx).mT
            if du is not None and B_rows is not None:
                _product(dx, B_rows, du[part])
                if D is not None:
                    du[part].addcmul_(grad[part], D)
        return None if du is None else du.to(ctx.u_dtype), dre, dim, dB, dC, dD, None


def _summed_product(x: Tensor, y: Tensor) -> Tensor:
    """The sum over rows and steps of x^T y: (k, m) for x (rows, length, k), y (rows, length, m)."""
    return x.flatten(0, 1).mT @ y.flatten(0, 1)


def _product(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    """x (rows, length, k) times matrix (k, m), written to a contiguous ``out`` of perhaps another dtype."""
    if x.dtype == out.dtype:
        torch.mm(x.flatten(0, 1), matrix, out=out.flatten(0, 1))
    else:
        out.copy_(x @ matrix)
