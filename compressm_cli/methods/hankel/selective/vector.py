"""Reductions of layers with a decay for each head and state that depends on the input (gated linear attention).

Only diagonal changes of basis commute with such a decay; so states are chosen, and what the chosen ones tell of the
others is folded into the queries.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from compressm_cli.layers.selective import HeadProjection, SelectiveProjection, VectorTrace
from compressm_cli.lti import balance
from compressm_cli.methods.hankel.selective.moments import expected_loss, vector_moments, vector_products
from compressm_cli.methods.hankel.selective.reduction import SelectiveReduction
from compressm_cli.methods.hankel.selective.selection import Fold, coordinates, pivoted_fold, top
from compressm_cli.ops import gated_linear_attention


class VectorReduction(SelectiveReduction[VectorTrace]):
    """Gramians of each head, in float64."""

    default = "pivoted"

    def gramians(self) -> None:
        self.steps = steps = sum(t.steps for t in self.traces)
        self.heads, self.states = self.traces[0].k.shape[2:]
        self.P = vector_moments(self.traces) / steps
        self.Q = vector_products([t.of("q") for t in self.traces]) / steps
        if not bool(torch.isfinite(self.P).all() and torch.isfinite(self.Q).all()):
            raise ValueError("the states or queries on the calibration batches are not finite")

    @cached_property
    def _values(self) -> Tensor:
        return torch.stack([balance(P, Q).hsv for P, Q in zip(self.P, self.Q, strict=True)])

    def spectrum(self) -> Tensor:
        """Singular values of the Gramians, the mean over the heads."""
        return self._values.mean(0).cpu()

    def errors(self, projection: SelectiveProjection) -> tuple[float | None, float | None]:
        assert isinstance(projection, HeadProjection)
        identity = torch.eye(self.states, dtype=torch.float64, device=self.P.device)
        lost = identity - _rows(projection.keep, self.states).mT @ projection.to_output.double()
        wrong, whole = self.squares(_lost_output(trace, lost.to(trace.q)) for trace in self.traces)
        if whole == 0.0:
            return None, None
        predicted = expected_loss(self.P, self.Q, lost)
        return math.sqrt(wrong / whole), math.sqrt(predicted * self.steps / whole)


def _lost_output(trace: VectorTrace, lost: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weight, error and output, where ``lost`` (heads, N, N) is what the queries miss."""
    missing = torch.einsum("hnm,blhm->blhn", lost, trace.q)
    error = gated_linear_attention(missing, trace.k, trace.v, trace.log_decay)
    return trace.weight, error, gated_linear_attention(trace.q, trace.k, trace.v, trace.log_decay)


def _rows(keep: Tensor, states: int) -> Tensor:
    return torch.stack([coordinates(k, states) for k in keep])


def pivoted(reduction: VectorReduction, order: int, generator: torch.Generator) -> HeadProjection:
    """Pivoted selection in each head; the dropped states are interpolated from the kept ones."""
    folds: list[Fold] = [pivoted_fold(P, Q, order) for P, Q in zip(reduction.P, reduction.Q, strict=True)]
    return HeadProjection(torch.stack([f.keep for f in folds]), torch.stack([f.to_output for f in folds]))


def _selected(score: Tensor, order: int) -> HeadProjection:
    """The states with the largest scores (heads, N), as they are."""
    keep = torch.stack([top(s, order) for s in score])
    return HeadProjection(keep, _rows(keep, score.shape[1]))


def gramian(reduction: VectorReduction, order: int, generator: torch.Generator) -> HeadProjection:
    """By ``sqrt(P_nn Q_nn)``: the sum over dropped states bounds the mean error."""
    P, Q = (m.diagonal(dim1=1, dim2=2) for m in (reduction.P, reduction.Q))
    return _selected(P * Q, order)


def random_states(reduction: VectorReduction, order: int, generator: torch.Generator) -> HeadProjection:
    """Any states, for comparison."""
    return _selected(
        torch.rand(reduction.heads, reduction.states, generator=generator).to(reduction.P.device), order
    )


VectorReduction.variants = {"pivoted": pivoted, "gramian": gramian, "random": random_states}
