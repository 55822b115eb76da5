"""Recurrences one time step at a time, and the states that they are left with after a sequence.

Steps change the state that they are given in its place. All without gradients.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compressm_cli.ops import decoding_cpu
from compressm_cli.ops.channelwise import channelwise_selective_scan
from compressm_cli.ops.chunked import full_precision, pad_length
from compressm_cli.ops.gated_linear import gated_linear_attention
from compressm_cli.ops.parallel import flat, runs_eagerly_on_cpu
from compressm_cli.ops.scan import diagonal_scan
from compressm_cli.ops.selective import selective_scan
from compressm_cli.ops.simd import LANES
from compressm_cli.ops.ssd import ssd
from compressm_cli.ops.ssm import StackedSystem

STEPS_AT_ONCE = 64
"""Of which ``channelwise_states`` has the powers of all poles at once."""


def ends_of(x: Tensor, lengths: Tensor | None) -> Tensor:
    """(batch,) int64, how many steps of each row of x (batch, length, ...) are real; the rest is padding."""
    if lengths is None:
        return torch.full((x.shape[0],), x.shape[1], device=x.device)
    return lengths.to(x.device, torch.int64)


def last_real(x: Tensor, ends: Tensor) -> Tensor:
    """The last real step of each row of x (batch, length, ...): (batch, ...)."""
    return x[torch.arange(len(x), device=x.device), ends - 1]


def recent_steps(x: Tensor, ends: Tensor, count: int) -> Tensor:
    """The last ``count`` real steps of each row of x (batch, length, m), after zeros where there are fewer."""
    past = functional.pad(x, (0, 0, count, 0))
    rows = torch.arange(len(x), device=x.device)[:, None]
    return past[rows, ends[:, None] + torch.arange(count, device=x.device)]


@dataclass(frozen=True)
class ConvolutionWeights:
    """What steps of ``causal_conv1d`` read of its parameters, by blocks of ``LANES`` channels."""

    weight: Tensor
    """(width, blocks * LANES)"""
    bias: Tensor
    """(blocks * LANES,)"""

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """As the kernel on a CPU takes them."""
        return flat(self.weight), flat(self.bias)


def convolution_weights(weight: Tensor, bias: Tensor | None) -> ConvolutionWeights:
    """Of the weights (channels, width) and bias (channels,) of ``causal_conv1d``."""
    bias = weight.new_zeros(len(weight)) if bias is None else bias
    missing = -len(weight) % LANES
    return ConvolutionWeights(
        functional.pad(weight.mT, (0, missing)).contiguous(), functional.pad(bias, (0, missing))
    )


def causal_conv1d_step(x: Tensor, past: Tensor, weights: ConvolutionWeights) -> Tensor:
    """One step of ``causal_conv1d`` with SiLU: x (batch, channels), past (batch, width - 1, channels) the steps before.

    ``past`` becomes the steps before the next one. Returns (batch, channels), in the dtype of the weights.
    """
    x = x.to(weights.weight.dtype)
    if runs_eagerly_on_cpu(x) and x.dtype == past.dtype == torch.float32:
        return decoding_cpu.conv_step(x, past, len(weights.weight), weights.arrays)
    channels = x.shape[1]
    window = torch.cat([past, x[:, None]], dim=1)
    past.copy_(window[:, 1:])
    return functional.silu((window * weights.weight[:, :channels]).sum(1) + weights.bias[:channels])


def diagonal_step(u: Tensor, h: Tensor, system: StackedSystem) -> Tensor:
    """One step of ``diagonal_ssm``: u (batch, p), h (batch, 2 N) real and imaginary parts. Returns (batch, q)."""
    re, im, B, C, D = system
    with full_precision(u.device):
        u = u.to(h.dtype)
        h_re, h_im = h.chunk(2, dim=-1)
        turned = torch.cat([re * h_re - im * h_im, re * h_im + im * h_re], dim=-1)
        torch.addmm(turned, u, B.mT, out=h)
        y = h @ C.mT
        return y if D is None else torch.addcmul(y, u, D)


def diagonal_states(u: Tensor, ends: Tensor, system: StackedSystem) -> tuple[Tensor, Tensor]:
    """``diagonal_ssm`` of u (batch, length, p), and the states (batch, 2 N) after the last real step of each row."""
    re, im, B, C, D = system
    with full_precision(u.device):
        u = u.to(re.dtype)
        h = diagonal_scan(functional.linear(u, B), re, im)
        y = functional.linear(h, C)
        return y if D is None else torch.addcmul(y, u, D), last_real(h, ends)


def channelwise_step(u: Tensor, h: Tensor, poles: Tensor, C: Tensor) -> Tensor:
    """One step of ``channelwise_ssm``: u (batch, H), h (batch, H, N), poles, C (H, N) complex. Returns (batch, H)."""
    with full_precision(u.device):
        if runs_eagerly_on_cpu(h) and u.dtype == h.real.dtype and poles.dtype == C.dtype == h.dtype:
            return decoding_cpu.channelwise_step(u, poles, C, h)
        h.mul_(poles).add_(u[..., None])
        return (h * C).sum(-1).real


def channelwise_states(u: Tensor, ends: Tensor, log_abs: Tensor, angle: Tensor) -> Tensor:
    """The states (batch, H, N) complex of ``channelwise_ssm`` after the last real step of each row of u."""
    batch, length, _ = u.shape
    with full_precision(u.device):
        # The rows end together: what lies before the start of a shorter one is zero.
        steps = -(-length // STEPS_AT_ONCE) * STEPS_AT_ONCE
        inputs = recent_steps(u.to(log_abs.dtype), ends, steps)
        back = torch.arange(STEPS_AT_ONCE - 1, -1, -1, device=u.device)
        powers = torch.polar(torch.exp(log_abs[..., None] * back), angle[..., None] * back)
        onward = torch.polar(torch.exp(log_abs * STEPS_AT_ONCE), angle * STEPS_AT_ONCE)
        h = torch.zeros(batch, *log_abs.shape, dtype=powers.dtype, device=u.device)
        for part in inputs.split(STEPS_AT_ONCE, dim=1):
            by_channel = part.permute(2, 1, 0)
            added = torch.complex(powers.real @ by_channel, powers.imag @ by_channel)
            h = onward * h + added.permute(2, 0, 1)
        return h


@dataclass(frozen=True)
class SelectiveWeights:
    """What steps of a selective scan read of its parameters, by blocks of ``LANES`` channels."""

    A: Tensor
    """(blocks, N, LANES)"""
    exists: Tensor | None
    """(blocks, N, LANES), one where a channel has a state, zero elsewhere; None where each has all."""
    bias: Tensor
    """(blocks * LANES,), of the step sizes."""
    D: Tensor
    """(blocks * LANES,)"""

    def by_channel(self, channels: int) -> tuple[Tensor, Tensor, Tensor]:
        """A (channels, N), bias and D (channels,)."""
        return self.A.mT.flatten(0, 1)[:channels], self.bias[:channels], self.D[:channels]

    @cached_property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """As the kernel on a CPU takes them."""
        exists = self.D.new_empty(0) if self.exists is None else self.exists
        return tuple(flat(tensor) for tensor in (self.bias, self.A, exists, self.D))


def selective_weights(A: Tensor, bias: Tensor, D: Tensor, kept: Tensor | None) -> SelectiveWeights:
    """Of A (channels, N), bias and D (channels,), and how many states each channel has, kept (channels,) or None."""
    exists = None
    if kept is not None:
        exists = by_blocks((torch.arange(A.shape[1], device=A.device) < kept[:, None]).to(A.dtype))
    missing = -len(A) % LANES
    return SelectiveWeights(
        by_blocks(A), exists, functional.pad(bias, (0, missing)), functional.pad(D.to(A.dtype), (0, missing))
    )


def by_blocks(x: Tensor) -> Tensor:
    """(..., channels, N) as (..., blocks, N, LANES), with zeros beyond the last channel."""
    padded = functional.pad(x, (0, 0, 0, -x.shape[-2] % LANES))
    return padded.unflatten(-2, (-1, LANES)).mT.contiguous()


def selective_step(
    x: Tensor, dt_raw: Tensor, z: Tensor, B: Tensor, C: Tensor, weights: SelectiveWeights, h: Tensor
) -> Tensor:
    """One step of ``selective_scan_gated``: x, dt_raw and z (batch, channels), h (batch, blocks, N, LANES).

    B and C (batch, N), or those of each channel, (batch, channels, N). Returns (batch, channels).
    """
    x, dt_raw, z, B, C = (value.to(h.dtype) for value in (x, dt_raw, z, B, C))
    if runs_eagerly_on_cpu(h) and B.ndim == 2 and h.dtype == weights.A.dtype:
        return decoding_cpu.selective_step(x, dt_raw, z, B, C, weights.arrays, h)
    channels, missing, exists = x.shape[1], -x.shape[1] % LANES, weights.exists
    now, raw = functional.pad(x, (0, missing)), functional.pad(dt_raw, (0, missing))
    dt = functional.softplus(raw + weights.bias)
    B, C = (by_blocks(value) if value.ndim == 3 else value[:, None, :, None] for value in (B, C))
    u, dt_by_block = (value.unflatten(1, (-1, 1, LANES)) for value in (dt * now, dt))
    h.mul_(torch.exp(dt_by_block * weights.A)).addcmul_(u, B if exists is None else B * exists)
    y = (h * C).sum(2).flatten(1) + weights.D * now
    return y[:, :channels] * functional.silu(z)


def selective_states(
    x: Tensor, ends: Tensor, dt_raw: Tensor, z: Tensor, B: Tensor, C: Tensor, weights: SelectiveWeights
) -> tuple[Tensor, Tensor]:
    """``selective_scan_gated``, and the states (batch, blocks, N, LANES) after the last real step of each row.

    B and C may be those of each channel, (batch, length, channels, N). On a CPU the kernel of a step goes through all;
    elsewhere N more steps, in which nothing decays and nothing comes in, read one state each: every kernel of the scan
    can do that.
    """
    x, dt_raw, z, B, C = (value.to(weights.A.dtype) for value in (x, dt_raw, z, B, C))
    if runs_eagerly_on_cpu(x) and B.ndim == 3:
        h = x.new_zeros(len(x), *weights.A.shape)
        return decoding_cpu.selective_steps(x, ends, dt_raw, z, B, C, weights.arrays, h), h
    length, channels, states = x.shape[1], x.shape[2], weights.A.shape[1]
    A, bias, D = weights.by_channel(channels)
    dt = _without_padding(functional.softplus(dt_raw + bias), ends)
    eye = torch.eye(states, dtype=A.dtype, device=A.device)
    reading = eye[:, None].expand(-1, channels, -1) if C.ndim == 4 else eye
    C = torch.cat([C, reading.expand(len(x), *reading.shape)], dim=1)
    x, dt, B = (pad_length(value, length + states) for value in (x, dt, B))
    if C.ndim == 4:
        y = channelwise_selective_scan(x, dt, A, B, C, D)
    else:
        kept = None if weights.exists is None else weights.exists.sum(1).flatten()[:channels].long()
        y = selective_scan(x, dt, A, B, C, D, kept=kept)
    return y[:, :length] * functional.silu(z), by_blocks(y[:, length:].mT)


def ssd_step(
    x: Tensor, h: Tensor, dt: Tensor, log_decay: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> Tensor:
    """One step of ``ssd``: x (batch, heads, P), h (batch, heads, P, N), dt and log_decay (batch, heads).

    B and C (batch, groups, N). Returns (batch, heads, P).
    """
    x, dt, B, C = (value.to(h.dtype) for value in (x, dt, B, C))
    u, decay = dt[..., None] * x, torch.exp(log_decay)
    if runs_eagerly_on_cpu(h) and decay.dtype == h.dtype:
        y = decoding_cpu.ssd_step(u, decay, B, C, h)
        return y if D is None else y + D[:, None] * x
    by_group = h.unflatten(1, (B.shape[1], -1))
    h.mul_(decay[..., None, None])
    by_group.addcmul_(u.reshape(by_group.shape[:-1])[..., None], B[:, :, None, None])
    y = (by_group.flatten(2, 3) @ C[..., None]).view(x.shape)
    return y if D is None else y + D[:, None] * x


def ssd_states(
    x: Tensor, ends: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """``ssd``, and the states (batch, heads, P, N) after the last real step of each row, as ``selective_states``."""
    length, states = x.shape[1], B.shape[3]
    dt = _without_padding(dt, ends)
    x, dt, B, C = (pad_length(value, length + states) for value in (x, dt, B, C))
    C = _reading(C, length)
    y = ssd(x, dt, A, B, C, D)
    return y[:, :length], y[:, length:].permute(0, 2, 3, 1).contiguous()


def gated_linear_step(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, h: Tensor) -> Tensor:
    """One step of ``gated_linear_attention``: q, k, log_decay (batch, heads, N), v (.., P), h (batch, heads, N, P)."""
    decay = torch.exp(log_decay)
    if runs_eagerly_on_cpu(h) and {t.dtype for t in (q, k, v, decay)} == {h.dtype}:
        return decoding_cpu.gated_linear_step(q, k, v, decay, h)
    h.mul_(decay[..., None]).addcmul_(k[..., None], v[..., None, :])
    return (q[..., None, :] @ h).squeeze(-2)


def gated_linear_states(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor]:
    """``gated_linear_attention``, and the states (batch, heads, N, P) after each row, as ``selective_states``."""
    length, states = q.shape[1], q.shape[3]
    k, log_decay = _without_padding(k, ends), _without_padding(log_decay, ends)
    q, k, v, log_decay = (pad_length(value, length + states) for value in (q, k, v, log_decay))
    y = gated_linear_attention(_reading(q, length), k, v, log_decay)
    return y[:, :length], y[:, length:].transpose(1, 2).contiguous()


def _without_padding(x: Tensor, ends: Tensor) -> Tensor:
    """Zeros in the place of the padded steps of x (batch, length, ...)."""
    padding = torch.arange(x.shape[1], device=x.device) >= ends[:, None]
    return x.masked_fill(padding.reshape(*padding.shape, *(1,) * (x.ndim - 2)), 0.0)


def _reading(C: Tensor, first: int) -> Tensor:
    """C (batch, length, groups, N) with its steps from ``first`` on reading one state each."""
    eye = torch.eye(C.shape[3], dtype=C.dtype, device=C.device)
    return torch.cat([C[:, :first], eye[:, None].expand(len(C), -1, *C.shape[2:])], dim=1)
