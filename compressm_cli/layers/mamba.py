"""Mamba's selective state space layer, S6 (Gu and Dao 2023, arXiv 2312.00752).

Parameters have the names and shapes of ``mamba_ssm.Mamba``, so that weights move both ways.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Slot
from compressm_cli.layers.config import StateDim
from compressm_cli.layers.precision import narrow_as, wide
from compressm_cli.layers.selective import (
    ChannelProjection,
    ChannelTrace,
    KernelConfig,
    SelectiveLayer,
    balancing_rows,
    inverse_softplus,
)
from compressm_cli.layers.state import State
from compressm_cli.ops import causal_conv1d, mamba_ssm_kernels, selective_scan_gated
from compressm_cli.ops.channelwise import channelwise_selective_scan
from compressm_cli.ops.decoding import (
    ConvolutionWeights,
    SelectiveWeights,
    causal_conv1d_step,
    convolution_weights,
    ends_of,
    recent_steps,
    selective_states,
    selective_step,
    selective_weights,
)
from compressm_cli.ops.simd import LANES


class MambaConfig(KernelConfig):
    """``layer: {kind: mamba}``."""

    kind: Literal["mamba"] = "mamba"
    state_dim: StateDim | Annotated[list[StateDim], Field(min_length=1)] = 16
    """Number of states N of each block; a list gives one number a block."""
    expand: Annotated[int, Field(ge=1, le=16)] = 2
    """Channels of the recurrence, in model_dim."""
    conv_width: Annotated[int, Field(ge=1, le=16)] = 4
    """Steps of the causal convolution before the recurrence."""
    dt_rank: Annotated[int, Field(ge=1)] | None = None
    """Rank of the map that makes the step sizes; null means model_dim / 16, rounded up."""

    def rank(self, model_dim: int) -> int:
        """``dt_rank`` with its default resolved."""
        return self.dt_rank or math.ceil(model_dim / 16)


class Mamba(SelectiveLayer):
    """in_proj to x and z; x through a causal convolution and SiLU; dt, B, C from x; the selective scan; y silu(z).

    After a cut in one shared basis it is a smaller layer of the same kind. After a cut with a basis a channel,
    ``B_map`` and ``C_map`` (D, r, N) make each channel's own B and C; with orders a channel, ``kept`` (D,) holds them.
    """

    Config = MambaConfig
    recurrent_parameters = frozenset({"A_log", "D", "dt_proj.bias"})
    state_parameters = frozenset({"A_log", "x_proj.weight", "B_map", "C_map"})
    state_buffers: ClassVar = frozenset({"kept"})

    def __init__(self, config: MambaConfig, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        self.config = config
        channels, rank = config.expand * model_dim, config.rank(model_dim)
        self.rank = rank
        self.in_proj = nn.Linear(model_dim, 2 * channels, bias=False)
        self.conv1d = nn.Conv1d(channels, channels, config.conv_width, groups=channels)
        self.x_proj = nn.Linear(channels, rank + 2 * state_dim, bias=False)
        self.dt_proj = nn.Linear(rank, channels)
        nn.init.uniform_(self.dt_proj.weight, -(rank**-0.5), rank**-0.5)
        with torch.no_grad():
            self.dt_proj.bias.copy_(inverse_softplus(torch.exp(config.draw_log_dt(channels))))
        # S4D-Real: the poles -1, ..., -N in every channel.
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, state_dim + 1)).repeat(channels, 1))
        self.D = nn.Parameter(torch.ones(channels))
        self.out_proj = nn.Linear(channels, model_dim, bias=False)
        self.B_map: nn.Parameter | None
        self.C_map: nn.Parameter | None
        self.register_parameter("B_map", None)
        self.register_parameter("C_map", None)
        self.kept: Tensor | None
        self.register_buffer("kept", None)

    @property
    def state_dim(self) -> int:
        return self.A_log.shape[1]

    def state_slots(self) -> tuple[Slot, ...]:
        own = Slot("A_log", 1)
        if self.kept is not None:  # counts each channel's first states
            return ()
        if self.B_map is not None:
            return own, Slot("B_map", 1), Slot("C_map", 1, role="out")
        states = self.state_dim
        return (
            own,
            Slot("x_proj.weight", 0, offset=self.rank),
            Slot("x_proj.weight", 0, offset=self.rank + states, role="out"),
        )

    def axes(self) -> list[Axis]:
        """Its states, and the channels of the recurrence."""
        channels = self.D.shape[0]
        slots = [
            Slot("in_proj.weight", 0),
            Slot("in_proj.weight", 0, offset=channels),
            Slot("x_proj.weight", 1, role="out"),
            Slot("out_proj.weight", 1, role="out"),
        ]
        rows = ("conv1d.weight", "conv1d.bias", "dt_proj.weight", "dt_proj.bias", "A_log", "D")
        slots += [Slot(name, 0) for name in rows]
        slots += [Slot(name, 0) for name in ("B_map", "C_map", "kept") if getattr(self, name) is not None]
        return [*super().axes(), Axis(":channels", "channel", channels, tuple(slots), "")]

    def forward(self, u: Tensor) -> Tensor:
        x, z, raw, B, C = self._selected(u)
        A, bias = -torch.exp(wide(self.A_log)), wide(self.dt_proj.bias)
        if self.B_map is not None and self.C_map is not None:
            dt = functional.softplus(wide(raw) + bias)
            y = channelwise_selective_scan(x, dt, A, *self._mapped(B, C), self.D) * functional.silu(z)
        elif self._uses_mamba_ssm(u.device):
            y = mamba_ssm_kernels.selective_scan_gated(x, raw, bias, A, B, C, self.D, z)
        else:
            y = selective_scan_gated(x, raw, bias, A, B, C, self.D, z, kept=self.kept)
        return self._read_out(y)

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        self.remembered.forget()
        A, sizes = wide(self.A_log), self._state_sizes(batch)
        return State({"h": A.new_zeros(sizes["h"]), "past": self.conv1d.weight.new_zeros(sizes["past"])})

    def _state_sizes(self, batch: int) -> dict[str, tuple[int, ...]]:
        channels, _, width = self.conv1d.weight.shape
        return {
            "h": (batch, -(-channels // LANES), self.state_dim, LANES),
            "past": (batch, width - 1, channels),
        }

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_step(x)
        h, past = state.take(**self._state_sizes(len(x)))
        convolution, scan = self._step_weights()
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = causal_conv1d_step(x, past, convolution)
        raw, B, C = self._vectors(x)
        if self.B_map is not None:
            B, C = self._mapped(B, C)
        y = selective_step(x, raw, z, B, C, scan, h)
        return self._read_out(y), State({"h": h, "past": past})

    def _step_weights(self) -> tuple[ConvolutionWeights, SelectiveWeights]:
        """Those of the convolution and of the scan, as steps read them."""
        conv, dt = self.conv1d, self.dt_proj
        found = (conv.weight, conv.bias, self.A_log, dt.bias, self.D, self.kept)

        def make() -> tuple[ConvolutionWeights, SelectiveWeights]:
            A = -torch.exp(wide(self.A_log))
            scan = selective_weights(A, wide(dt.bias), self.D, self.kept)
            return convolution_weights(*self._convolution()), scan

        return self.remembered.of((t for t in found if t is not None), make)

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self.remembered.forget()
        ends = ends_of(u, lengths)
        entering, z = self.in_proj(u).chunk(2, dim=-1)
        x = causal_conv1d(entering, *self._convolution(), activation="silu")
        raw, B, C = self._vectors(x)
        if self.B_map is not None:
            B, C = self._mapped(B, C)
        y, h = selective_states(x, ends, raw, z, B, C, self._step_weights()[1])
        past = recent_steps(entering, ends, self.conv1d.weight.shape[2] - 1)
        return self._read_out(y), State({"h": h, "past": past})

    def _read_out(self, y: Tensor) -> Tensor:
        return self.out_proj(narrow_as(self.out_proj.weight, y))

    def _convolution(self) -> tuple[Tensor, Tensor | None]:
        """Its weights (D, width) and bias (D,)."""
        return self.conv1d.weight.squeeze(1), self.conv1d.bias

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x, z, step sizes before bias and softplus (batch, length, D), and B, C (batch, length, N)."""
        x, z = self.in_proj(u).chunk(2, dim=-1)
        x = causal_conv1d(x, *self._convolution(), activation="silu")
        return x, z, *self._vectors(x)

    def _vectors(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of x (..., D) behind the convolution the step sizes before bias and softplus, B and C (..., N)."""
        small = self.x_proj(x)
        states = (small.shape[-1] - self.rank) // 2
        low, B, C = small.split([self.rank, states, states], dim=-1)
        # The bias comes later, in float32: steps of 0.001 are lost beside it in bfloat16.
        return functional.linear(low, self.dt_proj.weight), B, C

    def _mapped(self, B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
        """Each channel's own B and C, (..., D, r)."""
        return tuple(
            torch.einsum("drn,...n->...dr", m, wide(v)) for m, v in ((self.B_map, B), (self.C_map, C))
        )  # type: ignore[return-value]

    @property
    def trace_kind(self) -> type[ChannelTrace]:
        return ChannelTrace

    @torch.no_grad()
    def trace(self, u: Tensor) -> ChannelTrace:
        if self.B_map is not None:
            raise ValueError("its channels have bases of their own already; no common one can be found")
        if self.kept is not None:
            raise ValueError("its channels have orders of their own already; no common one can be found")
        x, z, raw, B, C = (wide(value) for value in self._selected(u))
        dt = functional.softplus(raw + wide(self.dt_proj.bias))
        weight = functional.silu(z) ** 2 * wide(self.out_proj.weight).pow(2).sum(0)
        return ChannelTrace(x, dt, -torch.exp(wide(self.A_log)), B, C, weight)

    def reduced_parameters(self, projections: ChannelProjection) -> dict[str, Tensor]:
        A_log = torch.log(-projections.A)
        if projections.to_input.ndim == 3:
            return {"A_log": A_log, "B_map": projections.to_input, "C_map": projections.to_output}
        low, B, C = self._split(self.x_proj.weight.detach().double())
        to_input, to_output = self._balanced(projections)
        values = {"A_log": A_log, "x_proj.weight": torch.cat([low, to_input @ B, to_output @ C])}
        if projections.kept is not None:
            values["kept"] = projections.kept
        return values

    def transported_moments(
        self, projections: ChannelProjection, first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if projections.to_input.ndim == 3:
            return {}, {}
        to_input, to_output = self._balanced(projections)
        results = []
        for moments, power in ((first, 1), (second, 2)):
            low, B, C = self._split(moments["x_proj.weight"].double())
            # Old rows are read off new ones by the other map: B ~= to_output^T B', C ~= to_input^T C'.
            weight = torch.cat([low, to_output**power @ B, to_input**power @ C])
            results.append({"x_proj.weight": weight, "A_log": torch.zeros_like(projections.A)})
        return results[0], results[1]

    def sliced_moments(self, order: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        values = {"A_log": moments["A_log"][:, :order]}
        # Where channels get bases of their own, x_proj stays.
        if "x_proj.weight" in moments:
            low, B, C = self._split(moments["x_proj.weight"])
            values["x_proj.weight"] = torch.cat([low, B[:order], C[:order]])
        return values

    def _split(self, x_proj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows of x_proj for the step sizes, for B and for C."""
        states = (x_proj.shape[0] - self.rank) // 2
        low, B, C = x_proj.split([self.rank, states, states])
        return low, B, C

    def _balanced(self, projection: ChannelProjection) -> tuple[Tensor, Tensor]:
        """The two maps (r, N) with each new state scaled so that its rows of B and C have one norm."""
        _, B, C = self._split(self.x_proj.weight.detach().double())
        to_input, to_output = projection.to_input.double(), projection.to_output.double()
        scale = balancing_rows(to_input @ B, to_output @ C)[:, None]
        return to_input * scale, to_output / scale

    def state_rows(self) -> dict[str, slice]:
        return {"x_proj.weight": slice(self.rank, None)}

    def backend(self, device: torch.device) -> str:
        if self.B_map is not None:
            return "step by step, a basis for each channel"
        return "mamba-ssm's selective scan" if self._uses_mamba_ssm(device) else "selective scan"

    def _uses_mamba_ssm(self, device: torch.device) -> bool:
        small = self.kept is None and self.state_dim <= mamba_ssm_kernels.LARGEST_STATE
        return small and self.config.uses_mamba_ssm(device)

    def set_state_parameters(self, values: dict[str, Any]) -> None:
        super().set_state_parameters(values)
        self.x_proj.out_features = self.x_proj.weight.shape[0]
