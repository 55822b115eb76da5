"""Selective layers, whose recurrence depends on the input: what they promise to the compression methods.

Three families, by what their decay depends on (shared/private coordinates follow from it):

* ``ChannelTrace``: a decay for each channel and state, B and C shared by all channels (Mamba, S6);
* ``HeadTrace``: one scalar decay a head (Mamba-2, SSD; scalar-decay linear attention);
* ``VectorTrace``: a decay for each head and state that depends on the input (gated linear attention).
"""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Literal, Self

import torch
from torch import Tensor

from compressm_cli.layers.discretization import DiscretizedConfig
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.ops import mamba_ssm_kernels


class _Steps:
    """What the traces have in common: each step of each row has a weight, and may be padding."""

    weight: Tensor
    real: Tensor | None

    @property
    def steps(self) -> int:
        """How many there are, without padding."""
        rows, length = self.weight.shape[:2]
        return rows * length if self.real is None else int(self.real.sum())

    def of(self, name: str) -> Tensor:
        """A field (batch, length, ...) without padding, of all rows one after the other: (steps, ...)."""
        values: Tensor = getattr(self, name)
        return values.flatten(0, 1) if self.real is None else values[self.real]

    def where(self, real: Tensor | None) -> Self:
        """The same with padding wherever not ``real`` (batch, length), which weighs nothing."""
        return self if real is None else replace(self, weight=_masked(self.weight, real), real=real)  # type: ignore[type-var]

    def unweighted(self) -> Self:
        """The same with one weight for all outputs."""
        weight = torch.ones_like(self.weight)
        return replace(self, weight=weight if self.real is None else _masked(weight, self.real))  # type: ignore[type-var]


def _masked(weight: Tensor, real: Tensor) -> Tensor:
    return weight * real.reshape(*real.shape, *(1,) * (weight.ndim - 2))


@dataclass(frozen=True)
class ChannelTrace(_Steps):
    """``h_t[d, n] = exp(dt_t[d] A[d, n]) h_{t-1}[d, n] + dt_t[d] B_t[n] x_t[d]``, ``y_t[d] = C_t . h_t[d]``."""

    x: Tensor
    """(batch, length, D)"""
    dt: Tensor
    """(batch, length, D), positive."""
    A: Tensor
    """(D, N), negative."""
    B: Tensor
    """(batch, length, N)"""
    C: Tensor
    """(batch, length, N)"""
    weight: Tensor
    """(batch, length, D), how much a squared error of y_t[d] adds to that of the layer's output."""
    real: Tensor | None = None
    """(batch, length) bool, false where a row is padded; None where none is."""


@dataclass(frozen=True)
class HeadTrace(_Steps):
    """``h_t = exp(log_decay_t) h_{t-1} + u_t B_t^T`` (P, N) in each head, ``y_t = h_t C_t``."""

    u: Tensor
    """(batch, length, heads, P), dt x of Mamba-2, v of linear attention."""
    log_decay: Tensor
    """(batch, length, heads), at most 0."""
    B: Tensor
    """(batch, length, groups, N); head h is of group h // (heads // groups)."""
    C: Tensor
    """(batch, length, groups, N)"""
    weight: Tensor
    """(batch, length, heads, P)"""
    real: Tensor | None = None
    """(batch, length) bool, false where a row is padded; None where none is."""


@dataclass(frozen=True)
class VectorTrace(_Steps):
    """``h_t = diag(exp(log_decay_t)) h_{t-1} + k_t v_t^T`` (N, P) in each head, ``y_t = h_t^T q_t``."""

    q: Tensor
    """(batch, length, heads, N)"""
    k: Tensor
    """(batch, length, heads, N)"""
    v: Tensor
    """(batch, length, heads, P)"""
    log_decay: Tensor
    """(batch, length, heads, N), at most 0."""
    weight: Tensor
    """(batch, length, heads, P)"""
    real: Tensor | None = None
    """(batch, length) bool, false where a row is padded; None where none is."""


Trace = ChannelTrace | HeadTrace | VectorTrace


@dataclass(frozen=True)
class ChannelProjection:
    """New states for a layer of a ``ChannelTrace``: ``B' = to_input B``, ``C' = to_output C``, decays ``A``."""

    to_input: Tensor
    """(r, N) for one basis that all channels share, or (D, r, N)."""
    to_output: Tensor
    """The same shape."""
    A: Tensor
    """(D, r), negative."""
    kept: Tensor | None = None
    """(D,) int64, how many of its first states each channel keeps; None for all r."""

    @property
    def order(self) -> int:
        """Number of new states r."""
        return self.A.shape[1]


@dataclass(frozen=True)
class GroupProjection:
    """New states for a layer of a ``HeadTrace``: ``B' = to_input B``, ``C' = to_output C`` in each group."""

    to_input: Tensor
    """(groups, r, N)"""
    to_output: Tensor
    """(groups, r, N)"""
    keep: Tensor | None = None
    """(groups, r) int64 where the new states are some of the old ones, which every layer can do without maps."""

    @property
    def order(self) -> int:
        """Number of new states r."""
        return self.to_input.shape[1]


@dataclass(frozen=True)
class HeadProjection:
    """New states for a layer of a ``VectorTrace``: some of the old ones, and ``q' = to_output q``."""

    keep: Tensor
    """(heads, r) int64"""
    to_output: Tensor
    """(heads, r, N)"""

    @property
    def order(self) -> int:
        """Number of new states r."""
        return self.keep.shape[1]


SelectiveProjection = ChannelProjection | GroupProjection | HeadProjection


class KernelConfig(DiscretizedConfig):
    """The part of a recipe that layers with kernels in mamba-ssm share."""

    backend: Literal["auto", "own", "mamba_ssm"] = "auto"
    """Whose kernels compute the recurrence; ``auto`` takes mamba-ssm's on CUDA where that library is installed."""

    def check_device(self, device: torch.device) -> None:
        if self.backend == "mamba_ssm" and (reason := mamba_ssm_kernels.obstacle(device)) is not None:
            raise ValueError(f"layer.backend is mamba_ssm, but {reason}, or write layer.backend: auto")

    def uses_mamba_ssm(self, device: torch.device) -> bool:
        """Whether mamba-ssm's kernels are wanted and there."""
        return self.backend != "own" and mamba_ssm_kernels.obstacle(device) is None


class SelectiveLayer(StateSpaceLayer):
    """A layer whose decay, input and read-out vectors depend on its input.

    Its ``reduced_parameters`` take one ``SelectiveProjection``, of the family of its ``trace``, and give the
    state parameters that change.
    """

    gated = True

    def kernel_order(self, order: int) -> int:
        """The order that mamba-ssm's kernels compute with for a layer of ``order`` states."""
        return order

    def state_rows(self) -> dict[str, slice]:
        """The rows that are the states' own, of those state parameters that have others too."""
        return {}

    @property
    @abstractmethod
    def trace_kind(self) -> type[Trace]:
        """The family of its ``trace``."""

    @abstractmethod
    def trace(self, u: Tensor) -> Trace:
        """What its recurrence sees when the layer sees u (batch, length, H); in float32 at least, detached."""


def balancing_rows(B: Tensor, C: Tensor) -> Tensor:
    """The scale (..., r) of states that gives the rows of B (..., r, k) and of C (..., r, k) one norm.

    B times the scale and C over it is the same function; with unequal norms Adam would move one of the two,
    relative to its size, many times faster than the other. 1 where a row is zero.
    """
    rows, columns = B.norm(dim=-1), C.norm(dim=-1)
    idle = (rows == 0) | (columns == 0)
    return (columns / rows).sqrt().where(~idle, rows.new_ones(()))


def inverse_softplus(value: Tensor) -> Tensor:
    """x with softplus(x) = value > 0."""
    return value + torch.log(-torch.expm1(-value))


def mean_square(x: Tensor) -> Tensor:
    """Over the last axis, which stays as one entry."""
    return x.pow(2).mean(-1, keepdim=True)
