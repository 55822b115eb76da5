"""Reductions of layers with one scalar decay a head (Mamba-2, SSD; scalar-decay linear attention).

The decay commutes with every change of basis of the states, whatever its value: ``h' = h W`` holds exactly. So the
square-root method on ``P = E[w h^T h]`` and ``Q = E[C C^T]`` gives the projection of rank r with the least mean square
error of all, as long as C_t is uncorrelated with h_t^T h_t (Eckart and Young); without that, the error is at most the
sum of the discarded singular values.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from compressm_cli.layers.selective import GroupProjection, HeadTrace, SelectiveProjection
from compressm_cli.lti import Balancing, balance
from compressm_cli.methods.hankel.selective.moments import (
    driven,
    expected_loss,
    head_moments,
    vector_products,
)
from compressm_cli.methods.hankel.selective.reduction import SelectiveReduction
from compressm_cli.methods.hankel.selective.selection import coordinates, top
from compressm_cli.ops import ssd


class GroupReduction(SelectiveReduction[HeadTrace]):
    """Gramians of each group of heads, in float64."""

    default = "balanced"

    def gramians(self) -> None:
        self.steps = steps = sum(t.steps for t in self.traces)
        self.groups, self.states = self.traces[0].B.shape[2:]
        self.P = head_moments(self.traces) / steps
        self.Q = vector_products([t.of("C") for t in self.traces]) / steps
        if not bool(torch.isfinite(self.P).all() and torch.isfinite(self.Q).all()):
            raise ValueError("the states or read-outs on the calibration batches are not finite")

    @cached_property
    def balancings(self) -> list[Balancing]:
        return [balance(P, Q) for P, Q in zip(self.P, self.Q, strict=True)]

    def spectrum(self) -> Tensor:
        """The mean over the groups."""
        return torch.stack([b.hsv for b in self.balancings]).mean(0).cpu()

    def errors(self, projection: SelectiveProjection) -> tuple[float | None, float | None]:
        assert isinstance(projection, GroupProjection)
        lost = self._lost(projection)
        wrong, whole = self.squares(_lost_output(trace, lost.to(trace.B)) for trace in self.traces)
        if whole == 0.0:
            return None, None
        return math.sqrt(wrong / whole), math.sqrt(self._predicted(projection) * self.steps / whole)

    def _predicted(self, projection: GroupProjection) -> float:
        """Mean square of the error, for a C that is uncorrelated with the states."""
        return expected_loss(self.P, self.Q, self._lost(projection))

    def _lost(self, projection: GroupProjection) -> Tensor:
        """What the projection misses of each group's read-out, (groups, N, N) float64."""
        identity = torch.eye(self.states, dtype=torch.float64, device=self.P.device)
        return identity - projection.to_input.double().mT @ projection.to_output.double()


def _lost_output(trace: HeadTrace, lost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, error and output, where ``lost`` (groups, N, N) is what the read-out misses.

    What is lost of the read-out is a read-out itself; so the error is no difference of large numbers.
    """
    x, dt, A = driven(trace)
    error = ssd(x, dt, A, trace.B, torch.einsum("gnm,blgm->blgn", lost, trace.C))
    return trace.weight, error, ssd(x, dt, A, trace.B, trace.C)


def balanced(reduction: GroupReduction, order: int, generator: torch.Generator) -> GroupProjection:
    """Balanced truncation of each group; one of lower numerical rank than ``order`` gets idle states."""
    shape = (reduction.groups, order, reduction.states)
    to_input, to_output = (reduction.P.new_zeros(shape) for _ in range(2))
    for g, balancing in enumerate(reduction.balancings):
        r = min(order, balancing.rank)
        left, right = balancing.coordinates(slice(r))
        to_input[g, :r], to_output[g, :r] = left.mT, right.mT
    return GroupProjection(to_input, to_output)


def _selected(score: Tensor, order: int) -> GroupProjection:
    """The states with the largest scores (groups, N), as they are."""
    keep = torch.stack([top(s, order) for s in score])
    rows = torch.stack([coordinates(k, score.shape[1]) for k in keep])
    return GroupProjection(rows, rows, keep)


def gramian(reduction: GroupReduction, order: int, generator: torch.Generator) -> GroupProjection:
    """By ``sqrt(P_nn Q_nn)``; the layer stays one of the original kind."""
    return _selected(_diagonals(reduction.P) * _diagonals(reduction.Q), order)


def _diagonals(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1)


def ghost(reduction: GroupReduction, order: int, generator: torch.Generator) -> GroupProjection:
    """By ``E[h_n^2] E[C_n^2]``, channels without weights (GHOST, arXiv 2602.11408)."""
    plain = head_moments([t.unweighted() for t in reduction.traces])
    return _selected(_diagonals(plain) * _diagonals(reduction.Q), order)


def random_states(reduction: GroupReduction, order: int, generator: torch.Generator) -> GroupProjection:
    """Any states, for comparison."""
    score = torch.rand(reduction.groups, reduction.states, generator=generator)
    return _selected(score.to(reduction.P.device), order)


GroupReduction.variants = {"balanced": balanced, "gramian": gramian, "ghost": ghost, "random": random_states}
