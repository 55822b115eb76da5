"""Gated linear attention, states that are matrices (Yang et al. 2023, arXiv 2312.06635).

``decay: vector`` is that paper's; ``scalar`` has one decay a head, as RetNet and others do, but from the input.
Parameters have the names of flash-linear-attention's ``GatedLinearAttention``.
"""

from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.layers.config import LayerConfig, StateDim
from compressm_cli.layers.precision import wide
from compressm_cli.layers.selective import (
    GroupProjection,
    HeadProjection,
    HeadTrace,
    SelectiveLayer,
    VectorTrace,
    balancing_rows,
    mean_square,
)
from compressm_cli.layers.slots import rows
from compressm_cli.layers.state import State
from compressm_cli.ops import gated_linear_attention, ssd
from compressm_cli.ops.decoding import ends_of, gated_linear_states, gated_linear_step, ssd_states, ssd_step
from compressm_cli.ops.rms_norm import rms_norm

EPSILON = 1e-5


class GLAConfig(LayerConfig):
    """``layer: {kind: gla}``; model_dim must be a multiple of heads."""

    kind: Literal["gla"] = "gla"
    state_dim: StateDim | Annotated[list[StateDim], Field(min_length=1)] = 32
    """Length N of a key; the state of a head is a matrix of N times model_dim / heads."""
    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Number of heads."""
    decay: Literal["vector", "scalar"] = "vector"
    """A decay for each entry of the key, or one a head."""
    gate_rank: Annotated[int, Field(ge=1)] = 16
    """Rank of the map that makes the decays."""
    decay_slowness: Annotated[float, Field(gt=0.0)] = 16.0
    """Decays are sigmoid(.) to the power of one over this."""

    def check_width(self, model_dim: int) -> None:
        if model_dim % self.heads:
            raise ValueError(f"layer.heads ({self.heads}) must divide model_dim ({model_dim})")


class _Decayed(torch.autograd.Function):
    """q and k as they are; from their gradients follows that of the log decays (batch, length, heads).

    A step's decay weighs all that it and later steps read of earlier ones: the sum from there on of q dq - k dk. The
    gradient of SSD's step sizes would be that of v / dt and of dt, which cancel: with slow decays nothing is left.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(q, k)
        return q.view_as(q), k.view_as(k)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dq: Tensor, dk: Tensor) -> tuple[Tensor | None, ...]:
        need_q, need_k, _ = ctx.needs_input_grad
        q, k = ctx.saved_tensors
        each = (q * dq - k * dk).sum(-1, dtype=torch.float64)
        dlog_decay = each.flip(1).cumsum(1).flip(1).to(q.dtype)
        return dq if need_q else None, dk if need_k else None, dlog_decay


class GLA(SelectiveLayer):
    """q, k, v, decays and a gate from the input; the recurrence; RMS norm a head; times silu(gate); o_proj.

    Queries are divided by the root of the length of keys: of that which they had, ``divisor``, where single entries
    were taken out.
    """

    Config = GLAConfig
    recurrent_parameters = frozenset({"gk_proj.1.bias"})
    state_parameters = frozenset({"q_proj.weight", "k_proj.weight", "gk_proj.1.weight", "gk_proj.1.bias"})
    state_buffers: ClassVar = frozenset({"divisor"})
    output_parameter: ClassVar = "o_proj.weight"

    def __init__(self, config: GLAConfig, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        config.check_width(model_dim)
        self.heads, self.scalar, self.slowness = config.heads, config.decay == "scalar", config.decay_slowness
        keys = config.heads * state_dim
        self.q_proj = nn.Linear(model_dim, keys, bias=False)
        self.k_proj = nn.Linear(model_dim, keys, bias=False)
        self.v_proj = nn.Linear(model_dim, model_dim, bias=False)
        self.g_proj = nn.Linear(model_dim, model_dim, bias=False)
        self.gk_proj = nn.Sequential(
            nn.Linear(model_dim, config.gate_rank, bias=False),
            nn.Linear(config.gate_rank, config.heads if self.scalar else keys),
        )
        self.g_norm = nn.RMSNorm(model_dim // config.heads, eps=EPSILON)
        self.o_proj = nn.Linear(model_dim, model_dim, bias=False)
        self.divisor: Tensor | None
        self.register_buffer("divisor", None)

    @property
    def state_dim(self) -> int:
        return self.k_proj.weight.shape[0] // self.heads

    def state_slots(self) -> tuple[Slot, ...]:
        """A state is one entry of the keys and queries of every head."""
        place = {"repeat": self.heads, "span": self.state_dim}
        found = rows("q_proj", self.q_proj, "out", **place) + rows("k_proj", self.k_proj, "in", **place)
        decays = self.gk_proj[1]
        assert isinstance(decays, nn.Linear)
        return found if self.scalar else found + rows("gk_proj.1", decays, "in", **place)

    def axes(self) -> list[Axis]:
        """Its states; queries go on being divided by the root of how many there were."""
        (states,) = super().axes()
        return [replace(states, divisors=(("divisor", self.state_dim),))]

    def forward(self, u: Tensor) -> Tensor:
        return self._read_out(self._recurrence(*self._selected(u)), u)

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        return State({"h": wide(self.k_proj.weight).new_zeros(self._state_size(batch))})

    def _state_size(self, batch: int) -> tuple[int, ...]:
        values = self.v_proj.weight.shape[0] // self.heads
        both = (values, self.state_dim) if self.scalar else (self.state_dim, values)
        return batch, self.heads, *both

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_step(x)
        (h,) = state.take(h=self._state_size(len(x)))
        q, k, v, log_decay = self._selected(x)
        if self.scalar:
            y = ssd_step(v, h, torch.ones_like(log_decay), log_decay, k, q)
        else:
            y = gated_linear_step(q, k, v, log_decay, h)
        return self._read_out(y, x), State({"h": h})

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        ends, (q, k, v, log_decay) = ends_of(u, lengths), self._selected(u)
        if self.scalar:
            dt, A = self._as_step_sizes(log_decay)
            y, h = ssd_states(v / dt[..., None], ends, dt, A, k, q)
        else:
            y, h = gated_linear_states(q, k, v, log_decay, ends)
        return self._read_out(y, u), State({"h": h})

    def _read_out(self, y: Tensor, u: Tensor) -> Tensor:
        """The layer's output (..., H) from that of the recurrence (..., heads, P), for its input u (..., H)."""
        y = rms_norm(y, wide(self.g_norm.weight), EPSILON)
        return self.o_proj((y.flatten(-2) * functional.silu(wide(self.g_proj(u)))).to(u.dtype))

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """q, k (batch, length, heads, N), v (.., heads, P), log decays (.., heads) or (.., heads, N)."""
        q, k, v = (
            wide(p(u)).unflatten(-1, (self.heads, -1)) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        log_decay = functional.logsigmoid(wide(self.gk_proj(u))) / self.slowness
        if not self.scalar:
            log_decay = log_decay.unflatten(-1, (self.heads, -1))
        scale = self.state_dim**-0.5 if self.divisor is None else self.divisor.to(q.dtype).rsqrt()
        return q * scale, k, v, log_decay

    def _recurrence(self, q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor) -> Tensor:
        if not self.scalar:
            return gated_linear_attention(q, k, v, log_decay)
        dt, A = self._as_step_sizes(log_decay)
        if log_decay.requires_grad:
            q, k = _Decayed.apply(q, k, log_decay)
        return ssd(v / dt[..., None], dt, A, k, q)

    def _as_step_sizes(self, log_decay: Tensor) -> tuple[Tensor, Tensor]:
        """dt and A of SSD: with A = -1 its step sizes are the log decays, and v / dt is what they multiply."""
        dt = (-log_decay.detach()).clamp_min(torch.finfo(log_decay.dtype).tiny ** 0.5)
        return dt, -dt.new_ones(self.heads)

    @property
    def trace_kind(self) -> type[HeadTrace | VectorTrace]:
        return HeadTrace if self.scalar else VectorTrace

    @torch.no_grad()
    def trace(self, u: Tensor) -> HeadTrace | VectorTrace:
        q, k, v, log_decay = self._selected(u)
        power = mean_square(self._recurrence(q, k, v, log_decay)) + EPSILON
        gate = functional.silu(wide(self.g_proj(u))).unflatten(-1, (self.heads, -1))
        read = wide(self.o_proj.weight).pow(2).sum(0).view(self.heads, -1)
        weight = (gate * wide(self.g_norm.weight)) ** 2 / power * read
        if self.scalar:
            return HeadTrace(v, log_decay, k, q, weight)
        return VectorTrace(q, k, v, log_decay, weight)

    def reduced_parameters(self, projections: GroupProjection | HeadProjection) -> dict[str, Tensor]:
        q, k = (self._by_head(p.weight.detach().double()) for p in (self.q_proj, self.k_proj))
        to_key, to_query = self._balanced(projections)
        values = {"q_proj.weight": (to_query @ q).flatten(0, 1), "k_proj.weight": (to_key @ k).flatten(0, 1)}
        if isinstance(projections, HeadProjection):
            rows = self._rows(projections.keep)
            values |= {
                n: self.get_parameter(n).detach()[rows] for n in ("gk_proj.1.weight", "gk_proj.1.bias")
            }
        return values

    def transported_moments(
        self,
        projections: GroupProjection | HeadProjection,
        first: dict[str, Tensor],
        second: dict[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        to_key, to_query = self._balanced(projections)
        shorter = self._shorter(projections)
        results = []
        for moments, power in ((first, 1), (second, 2)):
            q, k = (self._by_head(moments[f"{name}_proj.weight"].double()) for name in ("q", "k"))
            # Old keys are read off new ones by the queries' map, and the other way round; the two roots of lengths
            # in forward and in ``to_query`` cancel for queries, so that they are left over here.
            new = {
                "q_proj.weight": (to_key / shorter) ** power @ q,
                "k_proj.weight": (to_query / shorter) ** power @ k,
            }
            values = {name: value.flatten(0, 1) for name, value in new.items()}
            if isinstance(projections, HeadProjection):
                rows = self._rows(projections.keep)
                values |= {n: moments[n][rows] for n in ("gk_proj.1.weight", "gk_proj.1.bias")}
            results.append(values)
        return results[0], results[1]

    def sliced_moments(self, order: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        rows = self._rows(torch.arange(order).expand(self.heads, -1))
        return {name: moment[rows] for name, moment in moments.items()}

    def _balanced(self, projection: GroupProjection | HeadProjection) -> tuple[Tensor, Tensor]:
        """The maps (heads, r, N) of keys and queries; queries are divided by the root of their new length.

        Where keys are mapped, each new state is scaled so that its rows of k_proj and q_proj have one norm.
        """
        if isinstance(projection, HeadProjection):
            keys = torch.eye(self.state_dim, dtype=torch.float64, device=projection.keep.device)[
                projection.keep
            ]
        else:
            keys = projection.to_input.double()
        queries = projection.to_output.double() * self._shorter(projection)
        q, k = (self._by_head(p.weight.detach().double()) for p in (self.q_proj, self.k_proj))
        scale = balancing_rows(keys @ k, queries @ q)[..., None]
        return keys * scale, queries / scale

    def _shorter(self, projection: GroupProjection | HeadProjection) -> float:
        """Root of the new length of keys over the old one; 1 where queries are divided by another one's."""
        return float((projection.order / self.state_dim) ** 0.5) if self.divisor is None else 1.0

    def _by_head(self, rows: Tensor) -> Tensor:
        return rows.unflatten(0, (self.heads, -1))

    def _rows(self, keep: Tensor) -> Tensor:
        """Rows of all heads' keys, for kept entries (heads, r)."""
        return (keep + self.state_dim * torch.arange(self.heads, device=keep.device)[:, None]).flatten()

    def backend(self, device: torch.device) -> str:
        return "chunked linear attention"

    def set_state_parameters(self, values: dict[str, Any]) -> None:
        super().set_state_parameters(values)
        for linear in (self.q_proj, self.k_proj, self.gk_proj.get_submodule("1")):
            assert isinstance(linear, nn.Linear)
            linear.out_features = linear.weight.shape[0]
