"""Reductions of layers with a decay a channel and state, B and C shared by the channels (Mamba, S6).

In the time ``tau_t = sum of dt`` of a channel its A is constant, so that a constant change of basis is an exact
similarity for every step size: balancing and diagonalizing in continuous time is valid for all inputs.
"""

import math
from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from torch import Tensor

from compressm_cli.layers.selective import ChannelProjection, ChannelTrace, SelectiveProjection
from compressm_cli.lti import Balancing, balance
from compressm_cli.methods.hankel.selective.moments import channel_moments, expected_loss
from compressm_cli.methods.hankel.selective.reduction import SelectiveReduction
from compressm_cli.methods.hankel.selective.selection import coordinates, pivoted_fold, regression, top
from compressm_cli.ops import selective_scan
from compressm_cli.ops.channelwise import channelwise_selective_scan

LEAST_DECAY = 1e-4
"""Decays of new states are at least so fast, per unit of the step size: ``A_log`` needs negative ones."""


class ChannelReduction(SelectiveReduction[ChannelTrace]):
    """Gramians of a layer with a ``ChannelTrace``, all in float64."""

    default = "balanced"

    def gramians(self) -> None:
        first = self.traces[0]
        self.A = first.A.double()
        self.channels, self.states = self.A.shape
        self.steps = steps = sum(t.steps for t in self.traces)
        self.P = channel_moments(self.traces, self.A, self.identity) / steps
        self.read = _total(_outer(t.of("C")) for t in self.traces) / steps
        """E[C C^T] (N, N)."""
        self.weights = _total(t.weight.double().sum((0, 1)) for t in self.traces) / steps
        """Mean weight of each channel's output, (D,)."""
        self.mean_decay = _total(_summed_decays(t) for t in self.traces) / steps
        """E exp(dt A), (D, N)."""
        self.Q = torch.einsum("d,dij->ij", self.weights, 1 / (1 - _outer_each(self.mean_decay))) * self.read
        if not bool(torch.isfinite(self.P).all() and torch.isfinite(self.Q).all()):
            raise ValueError("the states or read-outs on the calibration batches are not finite")

    @cached_property
    def identity(self) -> Tensor:
        return torch.eye(self.states, dtype=torch.float64, device=self.A.device)

    @cached_property
    def balancing(self) -> Balancing:
        return balance(self.P, self.Q)

    @cached_property
    def input_moments(self) -> tuple[Tensor, Tensor, Tensor]:
        """E[B B^T] (N, N), E[B] (N,) and E[(dt x)^2] (D,)."""
        steps = self.steps
        second = _total(_outer(t.of("B")) for t in self.traces) / steps
        mean = _total(t.of("B").double().sum(0) for t in self.traces) / steps
        drive = _total((t.of("dt") * t.of("x")).double().pow(2).sum(0) for t in self.traces) / steps
        return second, mean, drive

    def spectrum(self) -> Tensor:
        """Of the shared balancing, of the surrogate that has the mean step sizes."""
        return self.balancing.hsv.cpu()

    def errors(self, projection: SelectiveProjection) -> tuple[float | None, float | None]:
        assert isinstance(projection, ChannelProjection)
        whole_outputs = ((t, selective_scan(t.x, t.dt, t.A, t.B, t.C)) for t in self.traces)
        wrong, whole = self.squares(
            (t.weight, y - _reduced_output(t, projection), y) for t, y in whole_outputs
        )
        if whole == 0.0:
            return None, None
        predicted = self._predicted(projection)
        relative = None if predicted is None else math.sqrt(predicted * self.steps / whole)
        return math.sqrt(wrong / whole), relative

    def _predicted(self, projection: ChannelProjection) -> float | None:
        """Mean square of the error for a choice of states, for a C that is uncorrelated with the states.

        New dynamics have no such prediction.
        """
        if projection.kept is not None or projection.to_input.ndim == 3:
            return None
        keep = projection.to_input.argmax(1)
        chosen = coordinates(keep, self.states), self.A[:, keep]
        if not all(
            torch.equal(*pair) for pair in zip(chosen, (projection.to_input, projection.A), strict=True)
        ):
            return None
        lost = self.identity - chosen[0].mT @ projection.to_output
        return expected_loss(self.P, self.read, lost)


def _total(parts: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(parts)).sum(0)


def _outer(vectors: Tensor) -> Tensor:
    """Sum of ``v v^T`` (N, N) over steps, of vectors (steps, N)."""
    flat = vectors.double()
    return flat.mT @ flat


def _outer_each(vectors: Tensor) -> Tensor:
    return vectors[:, :, None] * vectors[:, None, :]


def _summed_decays(trace: ChannelTrace) -> Tensor:
    """Sum of exp(dt A) over steps, (D, N)."""
    total = trace.A.new_zeros(trace.A.shape, dtype=torch.float64)
    for dt in trace.of("dt").split(1024):
        total += torch.exp(dt[..., None] * trace.A).sum(0, dtype=torch.float64)
    return total


def _reduced_output(trace: ChannelTrace, projection: ChannelProjection) -> Tensor:
    A = projection.A.to(trace.A)
    maps = projection.to_input.to(trace.A), projection.to_output.to(trace.A)
    if projection.to_input.ndim == 3:
        B, C = (torch.einsum("drn,bln->bldr", m, v) for m, v in zip(maps, (trace.B, trace.C), strict=True))
        return channelwise_selective_scan(trace.x, trace.dt, A, B, C, trace.x.new_zeros(len(A)))
    B, C = trace.B @ maps[0].mT, trace.C @ maps[1].mT
    return selective_scan(trace.x, trace.dt, A, B, C, kept=projection.kept)


# ---- one basis that all channels share ---------------------------------------------------------------------


def balanced(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """The best, on the calibration batches, of ``balanced_basis``, ``galerkin_basis`` and the pivoted selection."""
    bases = []
    for basis in (balanced_basis, galerkin_basis):
        try:
            bases.append(basis(reduction, order))
        except (ValueError, torch.linalg.LinAlgError):
            continue
    candidates = [_pivoted(reduction, order), *_refitted(reduction, bases)]
    errors = [reduction.errors(candidate)[0] or 0.0 for candidate in candidates]
    finite = [(error, i) for i, error in enumerate(errors) if math.isfinite(error)]
    if not finite:
        raise ValueError("no basis gives a finite output on the calibration batches")
    return candidates[min(finite)[1]]


def balanced_real(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """``galerkin_basis`` with the read-out refitted: real and stable by construction."""
    return _refitted(reduction, [galerkin_basis(reduction, order)])[0]


def balanced_basis(reduction: ChannelReduction, order: int) -> ChannelProjection:
    """Square-root balanced truncation in the shared basis, diagonalized with the channels' mean decays.

    Where eigenvalues turn out complex, a pair keeps its real plane and loses its rotation.
    """
    left, right = _leading(reduction, order)
    mean = _mean_poles(reduction.A)
    vectors = _real_modes(left.mT @ (mean[:, None] * right))
    return _in_basis(reduction, torch.linalg.solve(vectors, left.mT), right @ vectors)


def galerkin_basis(reduction: ChannelReduction, order: int) -> ChannelProjection:
    """The trial space of balanced truncation, tested by ``M V`` with M = diag(sqrt(Q_nn / P_nn)).

    A symmetric definite pencil: its eigenvalues are real and lie between the smallest and largest decay.
    """
    _, right = _leading(reduction, order)
    P, Q = reduction.P.diagonal().clamp_min(0.0), reduction.Q.diagonal().clamp_min(0.0)
    metric = torch.sqrt(Q.clamp_min(1e-300) / P.clamp_min(1e-300))
    weighted = metric[:, None] * right
    lower = torch.linalg.cholesky(right.mT @ weighted)
    half = torch.linalg.solve_triangular(lower, weighted.mT, upper=False)
    mean = _mean_poles(reduction.A)
    pencil = half @ (mean[:, None] * torch.linalg.solve_triangular(lower, right.mT, upper=False).mT)
    _, turn = torch.linalg.eigh((pencil + pencil.mT) / 2)
    lift = torch.linalg.solve_triangular(lower, right.mT, upper=False).mT @ turn
    return _in_basis(reduction, turn.mT @ half, lift)


def _leading(reduction: ChannelReduction, order: int) -> tuple[Tensor, Tensor]:
    """W and V (N, r) of the balancing; ValueError where fewer coordinates exist."""
    if order > reduction.balancing.rank:
        raise ValueError(
            f"the Gramians have numerical rank {reduction.balancing.rank}, less than order {order}"
        )
    return reduction.balancing.coordinates(slice(order))


def _mean_poles(A: Tensor) -> Tensor:
    """(N,) mean over the channels of their decays, each divided by the channel's own mean."""
    return -(A / A.mean(dim=1, keepdim=True)).mean(0)


def _real_modes(A: Tensor) -> Tensor:
    """Real (r, r): the eigenvectors of A, and real and imaginary part of one of each complex pair."""
    poles, vectors = torch.linalg.eig(A)
    columns = [
        column
        for pole, vector in zip(poles, vectors.mT, strict=True)
        for column in (
            () if pole.imag < 0 else (vector.real,) if pole.imag == 0 else (vector.real, vector.imag)
        )
    ]
    return torch.stack([column / column.norm() for column in columns], dim=1)


def _in_basis(reduction: ChannelReduction, restrict: Tensor, lift: Tensor) -> ChannelProjection:
    """Each channel's decays are the diagonal of its A in the new basis."""
    A = torch.einsum("rn,dn,nr->dr", restrict, reduction.A, lift)
    return ChannelProjection(restrict, lift.mT, A.clamp_max(-LEAST_DECAY))


def _refitted(reduction: ChannelReduction, candidates: list[ChannelProjection]) -> list[ChannelProjection]:
    """The read-outs of new states by regression of the full state on them, all candidates in one pass."""
    if not candidates:
        return []
    A = torch.cat([reduction.A, *(c.A for c in candidates)], dim=1)
    to_input = torch.cat([reduction.identity, *(c.to_input for c in candidates)])
    moments = channel_moments(reduction.traces, A, to_input)
    results, start = [], reduction.states
    for candidate in candidates:
        end = start + candidate.order
        inner, cross = moments[start:end, start:end], moments[start:end, : reduction.states]
        results.append(ChannelProjection(candidate.to_input, regression(inner, cross), candidate.A))
        start = end
    return results


# ---- some of the states ------------------------------------------------------------------------------------


def pivoted(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """Pivoted selection; the dropped states are interpolated from the kept ones (``selection.pivoted_fold``)."""
    return _pivoted(reduction, order)


def _pivoted(reduction: ChannelReduction, order: int) -> ChannelProjection:
    fold = pivoted_fold(reduction.P, reduction.read, order)
    rows = coordinates(fold.keep, reduction.states)
    return ChannelProjection(rows, fold.to_output, reduction.A[:, fold.keep])


def _selected(reduction: ChannelReduction, score: Tensor, order: int) -> ChannelProjection:
    """The states with the largest scores, as they are."""
    keep = top(score, order)
    rows = coordinates(keep, reduction.states)
    return ChannelProjection(rows, rows, reduction.A[:, keep])


def gramian(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """By ``sqrt(P_nn Q_nn)``, P = E[w h h^T], Q = E[C C^T]: the sum over dropped states bounds the mean error."""
    return _selected(reduction, _scores(reduction.P, reduction.read), order)


def _scores(P: Tensor, Q: Tensor) -> Tensor:
    return (P.diagonal().clamp_min(0.0) * Q.diagonal().clamp_min(0.0)).sqrt()


def ghost(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """As GHOST (arXiv 2602.11408) scores Mamba-2's states: ``E[h_n^2] E[C_n^2]``, channels without weights."""
    P = channel_moments([t.unweighted() for t in reduction.traces], reduction.A, reduction.identity)
    return _selected(reduction, _scores(P, reduction.read), order)


def aire(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """The energy of a state's impulse response (AIRE-Prune, arXiv 2602.00534), mean over the channels.

    ``E[C_n^2] E[B_n^2] / (1 - e_dn^2)`` with e = E exp(dt A): B, C and decays at their means over the batches.
    """
    second, _, _ = reduction.input_moments
    gain = reduction.read.diagonal() * second.diagonal()
    return _selected(reduction, (gain / (1 - reduction.mean_decay**2)).mean(0), order)


def last(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """The H-infinity norm of a state's subsystem (LAST, arXiv 2411.02824), mean over the channels.

    ``sqrt(E[C_n^2] E[B_n^2]) / (1 - e_dn)``; within one layer its normalization changes no order.
    """
    second, _, _ = reduction.input_moments
    gain = (reduction.read.diagonal() * second.diagonal()).sqrt()
    return _selected(reduction, (gain / (1 - reduction.mean_decay)).mean(0), order)


def random_states(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """Any states, for comparison."""
    score = torch.rand(reduction.states, generator=generator).to(reduction.A.device)
    return _selected(reduction, score, order)


def channel_orders(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """The states in one order that all channels share, of which each channel keeps a number of its own.

    ``order`` is the mean number over the channels. Slots are dropped from the ends of the channels, the one that
    explains least first; the layer keeps as many slots as the channel with the most.
    """
    P = channel_moments(reduction.traces, reduction.A, reduction.identity, by_channel=True)
    importance = P.diagonal(dim1=1, dim2=2).clamp_min(0.0) * reduction.read.diagonal()
    ranking = torch.argsort(importance.sum(0), descending=True, stable=True)
    # What a channel loses with a slot and all behind it must not grow from slot to slot: so the largest
    # are prefixes, ties included.
    tail = importance[:, ranking].flip(1).cumsum(1).flip(1)
    chosen = torch.argsort(tail.flatten(), descending=True, stable=True)[: order * reduction.channels]
    kept = torch.bincount(chosen // reduction.states, minlength=reduction.channels)
    slots = ranking[: int(kept.max())]
    rows = coordinates(slots, reduction.states)
    return ChannelProjection(rows, rows, reduction.A[:, slots], kept)


# ---- a basis for each channel ------------------------------------------------------------------------------


def channel_balanced(
    reduction: ChannelReduction, order: int, generator: torch.Generator
) -> ChannelProjection:
    """Balanced truncation of each channel apart, with its own empirical Gramians."""
    P = channel_moments(reduction.traces, reduction.A, reduction.identity, by_channel=True)
    return _channelwise(
        reduction, order, lambda d: (P[d], reduction.read / (1 - _square(reduction.mean_decay[d])))
    )


def mean_lti(reduction: ChannelReduction, order: int, generator: torch.Generator) -> ChannelProjection:
    """Balanced truncation of each channel's mean system: our reading of the paper's recipe for Mamba.

    B, C and the decays are replaced by their means over the batches, which makes a linear time-invariant system with
    one input and one output. It sees E[B] E[B]^T, a matrix of rank one, instead of E[B B^T].
    """
    _, mean_B, drive = reduction.input_moments
    mean_C = _total(t.of("C").double().sum(0) for t in reduction.traces) / reduction.steps
    B, C = torch.outer(mean_B, mean_B), torch.outer(mean_C, mean_C)

    def gramians(d: int) -> tuple[Tensor, Tensor]:
        sums = 1 / (1 - _square(reduction.mean_decay[d]))
        return drive[d] * B * sums, C * sums

    return _channelwise(reduction, order, gramians)


def _square(vector: Tensor) -> Tensor:
    return torch.outer(vector, vector)


def _channelwise(
    reduction: ChannelReduction, order: int, gramians: Callable[[int], tuple[Tensor, Tensor]]
) -> ChannelProjection:
    """Balance each channel; one of lower numerical rank than ``order`` gets idle states."""
    channels, states = reduction.A.shape
    to_input, to_output = (reduction.A.new_zeros(channels, order, states) for _ in range(2))
    A = torch.full_like(to_input[:, :, 0], -1.0)
    for d in range(channels):
        balancing = balance(*gramians(d))
        r = min(order, balancing.rank)
        if r == 0:
            continue
        left, right = balancing.coordinates(slice(r))
        vectors = _real_modes(left.mT @ (reduction.A[d][:, None] * right))
        to_input[d, :r] = torch.linalg.solve(vectors, left.mT)
        to_output[d, :r] = (right @ vectors).mT
        A[d, :r] = torch.einsum("rn,n,nr->r", to_input[d, :r], reduction.A[d], to_output[d, :r].mT)
    return ChannelProjection(to_input, to_output, A.clamp_max(-LEAST_DECAY))


ChannelReduction.variants = {
    "balanced": balanced,
    "balanced_real": balanced_real,
    "pivoted": pivoted,
    "gramian": gramian,
    "channel_orders": channel_orders,
    "channel_balanced": channel_balanced,
    "mean_lti": mean_lti,
    "aire": aire,
    "last": last,
    "ghost": ghost,
    "random": random_states,
}
