"""Mamba-2's layer, SSD: one scalar decay a head (Dao and Gu 2024, arXiv 2405.21060).

Parameters have the names and shapes of ``mamba_ssm.Mamba2``, so that weights move both ways as long as no
``B_proj`` and ``C_proj`` were added by a cut.
"""

import math
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.axes import Axis, Role, Slot
from compressm_cli.layers.config import StateDim
from compressm_cli.layers.precision import wide
from compressm_cli.layers.selective import (
    GroupProjection,
    HeadTrace,
    KernelConfig,
    SelectiveLayer,
    inverse_softplus,
    mean_square,
)
from compressm_cli.layers.state import State
from compressm_cli.ops import causal_conv1d, mamba_ssm_kernels, ssd
from compressm_cli.ops.decoding import (
    ConvolutionWeights,
    causal_conv1d_step,
    convolution_weights,
    ends_of,
    recent_steps,
    ssd_states,
    ssd_step,
)


class Mamba2Config(KernelConfig):
    """``layer: {kind: mamba2}``; expand * model_dim must be a multiple of head_dim, the heads one of groups."""

    kind: Literal["mamba2"] = "mamba2"
    state_dim: StateDim | Annotated[list[StateDim], Field(min_length=1)] = 64
    """Number of states N of each block; a list gives one number a block."""
    expand: Annotated[int, Field(ge=1, le=16)] = 2
    """Channels of the recurrence, in model_dim."""
    head_dim: Annotated[int, Field(ge=1, le=4096)] = 64
    """Channels of a head."""
    groups: Annotated[int, Field(ge=1, le=4096)] = 1
    """Groups of heads that share B and C."""
    conv_width: Annotated[int, Field(ge=1, le=16)] = 4
    """Steps of the causal convolution before the recurrence."""
    norm_groups: Annotated[int, Field(ge=1)] | None = None
    """Parts of the channels that the gated norm scales apart; null means one a group of heads."""
    norm_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-5
    """What the gated norm adds to the mean square before its root is taken."""

    def check_width(self, model_dim: int) -> None:
        channels = self.expand * model_dim
        if channels % self.head_dim:
            raise ValueError(
                f"layer.head_dim ({self.head_dim}) must divide expand * model_dim ({channels}), the channels"
            )
        heads = channels // self.head_dim
        if heads % self.groups:
            raise ValueError(f"layer.groups ({self.groups}) must divide the number of heads ({heads})")
        if self.norm_groups is not None and channels % self.norm_groups:
            raise ValueError(f"layer.norm_groups ({self.norm_groups}) must divide the channels ({channels})")


class GatedNorm(nn.Module):
    """RMS normalization of y silu(z), each of ``groups`` parts of the channels apart.

    The mean of a part is over as many channels as it had, ``divisor``, where some were taken out.
    """

    def __init__(self, channels: int, groups: int, epsilon: float) -> None:
        super().__init__()
        self.groups = groups
        self.epsilon = epsilon
        self.weight = nn.Parameter(torch.ones(channels))
        self.divisor: Tensor | None
        self.register_buffer("divisor", None)

    def forward(self, y: Tensor, z: Tensor) -> Tensor:
        gated = self.parts(wide(y) * functional.silu(wide(z)))
        scaled = gated * torch.rsqrt(self.power(gated))
        return (scaled.flatten(-2) * self.weight).to(z.dtype)

    def parts(self, values: Tensor) -> Tensor:
        """(..., channels) -> (..., groups, channels of a group)."""
        return values.unflatten(-1, (self.groups, -1))

    def power(self, gated: Tensor) -> Tensor:
        """What each part (..., groups, n) is divided by the root of: (..., groups, 1)."""
        if self.divisor is None:
            return mean_square(gated) + self.epsilon
        return gated.pow(2).sum(-1, keepdim=True) / self.divisor + self.epsilon


class Mamba2(SelectiveLayer):
    """in_proj to z, x, B, C, dt; x, B, C through a causal convolution and SiLU; SSD; gated norm; out_proj.

    Balanced truncation keeps the channels of B and C and adds ``B_proj``, ``C_proj`` (groups, r, N) behind the
    activation; coordinate selection slices in_proj and conv1d, and the layer stays one of the original kind.
    """

    Config = Mamba2Config
    recurrent_parameters = frozenset({"A_log", "D", "dt_bias", "B_proj", "C_proj"})
    state_parameters = frozenset({"in_proj.weight", "conv1d.weight", "conv1d.bias", "B_proj", "C_proj"})
    state_buffers: ClassVar = frozenset({"norm.divisor"})

    def __init__(self, config: Mamba2Config, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        self.config = config
        config.check_width(model_dim)
        channels = config.expand * model_dim
        heads, self.groups = channels // config.head_dim, config.groups
        shared = 2 * config.groups * state_dim
        self.in_proj = nn.Linear(model_dim, 2 * channels + shared + heads, bias=False)
        mixed = channels + shared
        self.conv1d = nn.Conv1d(mixed, mixed, config.conv_width, groups=mixed)
        self.dt_bias = nn.Parameter(inverse_softplus(torch.exp(config.draw_log_dt(heads))))
        self.A_log = nn.Parameter(torch.log(torch.empty(heads).uniform_(1, 16)))
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = GatedNorm(channels, config.norm_groups or config.groups, config.norm_epsilon)
        self.out_proj = nn.Linear(channels, model_dim, bias=False)
        self.B_proj: nn.Parameter | None
        self.C_proj: nn.Parameter | None
        self.register_parameter("B_proj", None)
        self.register_parameter("C_proj", None)

    @classmethod
    def of_order(cls, config: Any, model_dim: int, start: int, order: int) -> "Mamba2":
        layer = cls(config, model_dim, start)
        if order < start:
            coordinates = torch.eye(start)[:order].expand(config.groups, -1, -1)
            layer.set_state_parameters({"B_proj": coordinates, "C_proj": coordinates})
        return layer

    @property
    def heads(self) -> int:
        """Heads now."""
        return self.D.shape[0]

    @property
    def channels(self) -> int:
        """Channels of all heads now."""
        return self.out_proj.weight.shape[1]

    @property
    def state_dim(self) -> int:
        return self._inner_dim if self.B_proj is None else self.B_proj.shape[1]

    def state_slots(self) -> tuple[Slot, ...]:
        if self.B_proj is not None:
            return Slot("B_proj", 1), Slot("C_proj", 1, role="out")
        states, groups = self.state_dim, self.groups

        def of(name: str, offset: int, role: Role = "own") -> Slot:
            return Slot(name, 0, offset=offset, role=role, repeat=groups, span=states)

        found: list[Slot] = []
        for name, first in (
            ("in_proj.weight", 2 * self.channels),
            ("conv1d.weight", self.channels),
            ("conv1d.bias", self.channels),
        ):
            found += [of(name, first), of(name, first + groups * states, "out")]
        return tuple(found)

    def axes(self) -> list[Axis]:
        """Its states, its heads, and the channels of a head.

        A unit of the heads is one head in each group, and in each part that the norm scales apart; there is no such
        axis where these parts cut through heads. A unit of the channels is the same channel in every head.
        """
        return [*super().axes(), *self._head_axes(), self._channel_axis()]

    def _head_axes(self) -> list[Axis]:
        parts = math.lcm(self.groups, self.norm.groups)
        if self.heads % parts:
            return []
        heads, width = self.heads // parts, self.channels // self.heads
        slots = self._channel_slots(block=width, repeat=parts, span=heads * width)
        place = {"repeat": parts, "span": heads}
        slots += [Slot(name, 0, role="own", **place) for name in ("dt_bias", "A_log", "D")]
        steps = self.in_proj.weight.shape[0] - self.heads
        slots.append(Slot("in_proj.weight", 0, offset=steps, role="own", **place))
        return [Axis(":heads", "head", heads, tuple(slots), "", divisors=self._divisors())]

    def _channel_axis(self) -> Axis:
        parts = math.lcm(self.heads, self.norm.groups)
        size = self.channels // parts
        slots = self._channel_slots(block=1, repeat=parts, span=size)
        return Axis(":channels", "channel", size, tuple(slots), "", divisors=self._divisors())

    def _channel_slots(self, **place: int) -> list[Slot]:
        """Of what has an entry for each channel. Without its gate z a channel is silent, also in the norm's mean."""
        return [
            Slot("in_proj.weight", 0, role="out", **place),
            Slot("in_proj.weight", 0, offset=self.channels, role="own", **place),
            *(Slot(name, 0, role="own", **place) for name in ("conv1d.weight", "conv1d.bias", "norm.weight")),
            Slot("out_proj.weight", 1, role="own", **place),
        ]

    def _divisors(self) -> tuple[tuple[str, int], ...]:
        return (("norm.divisor", self.channels // self.norm.groups),)

    @property
    def _inner_dim(self) -> int:
        """Length of B and C before the maps that a cut adds."""
        return (self.conv1d.weight.shape[0] - self.channels) // (2 * self.groups)

    def forward(self, u: Tensor) -> Tensor:
        z, x, dt, B, C = self._selected(u)
        run = mamba_ssm_kernels.ssd if self.config.uses_mamba_ssm(u.device) else ssd
        y = run(x, dt, -torch.exp(wide(self.A_log)), B, C, self.D)
        return self.out_proj(self.norm(y.flatten(-2), z))

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        self.remembered.forget()
        sizes = self._state_sizes(batch)
        h = wide(self.A_log).new_zeros(sizes["h"])
        return State({"h": h, "past": self.conv1d.weight.new_zeros(sizes["past"])})

    def _state_sizes(self, batch: int) -> dict[str, tuple[int, ...]]:
        mixed, _, width = self.conv1d.weight.shape
        return {
            "h": (batch, self.heads, self.channels // self.heads, self.state_dim),
            "past": (batch, width - 1, mixed),
        }

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_step(x)
        h, past = state.take(**self._state_sizes(len(x)))
        z, mixed, low = self._parts(self.in_proj(x))
        mixed = causal_conv1d_step(mixed, past, self._step_weights())
        x, dt, B, C = self._inputs(mixed, low)
        y = ssd_step(x, h, dt, -torch.exp(wide(self.A_log)) * dt, B, C, self.D)
        return self.out_proj(self.norm(y.flatten(-2), z)), State({"h": h, "past": past})

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self.remembered.forget()
        ends = ends_of(u, lengths)
        z, entering, low = self._parts(self.in_proj(u))
        mixed = causal_conv1d(entering, *self._convolution(), activation="silu")
        x, dt, B, C = self._inputs(mixed, low)
        y, h = ssd_states(x, ends, dt, -torch.exp(wide(self.A_log)), B, C, self.D)
        past = recent_steps(entering, ends, self.conv1d.weight.shape[2] - 1)
        return self.out_proj(self.norm(y.flatten(-2), z)), State({"h": h, "past": past})

    def _step_weights(self) -> ConvolutionWeights:
        """Those of the convolution, as steps read them."""
        given = [t for t in (self.conv1d.weight, self.conv1d.bias) if t is not None]
        return self.remembered.of(given, lambda: convolution_weights(*self._convolution()))

    def _convolution(self) -> tuple[Tensor, Tensor | None]:
        """Its weights (channels, width) and bias (channels,)."""
        return self.conv1d.weight.squeeze(1), self.conv1d.bias

    def _selected(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """z (batch, length, channels), x (.., heads, P), dt (.., heads), B and C (.., groups, r)."""
        z, mixed, low = self._parts(self.in_proj(u))
        mixed = causal_conv1d(mixed, *self._convolution(), activation="silu")
        return z, *self._inputs(mixed, low)

    def _parts(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What in_proj gives (..., rows) as the gate z, the inputs of the convolution, and what makes step sizes."""
        mixed = self.conv1d.weight.shape[0]
        z, entering, low = projected.split([self.channels, mixed, self.heads], dim=-1)
        return z, entering, low

    def _inputs(self, mixed: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Those of the recurrence: x (..., heads, P), dt (..., heads), B and C (..., groups, r)."""
        shared = self.groups * self._inner_dim
        x, B, C = mixed.split([self.channels, shared, shared], dim=-1)
        dt = functional.softplus(wide(low) + wide(self.dt_bias))
        B, C = (v.unflatten(-1, (self.groups, -1)) for v in (B, C))
        if self.B_proj is not None and self.C_proj is not None:
            B, C = _mapped(self.B_proj, B), _mapped(self.C_proj, C)
        return x.unflatten(-1, (self.heads, -1)), dt, B, C

    @property
    def trace_kind(self) -> type[HeadTrace]:
        return HeadTrace

    @torch.no_grad()
    def trace(self, u: Tensor) -> HeadTrace:
        z, x, dt, B, C = (wide(value) for value in self._selected(u))
        A = -torch.exp(wide(self.A_log))
        gate = functional.silu(z)
        y = ssd(x, dt, A, B, C, self.D).flatten(-2)
        power = self.norm.power(self.norm.parts(y * gate))
        scale = self.norm.parts(self.norm.weight * gate) ** 2 / power
        weight = scale.flatten(-2) * wide(self.out_proj.weight).pow(2).sum(0)
        return HeadTrace(dt[..., None] * x, dt * A, B, C, weight.unflatten(-1, (self.heads, -1)))

    def reduced_parameters(self, projections: GroupProjection) -> dict[str, Tensor]:
        if projections.keep is None:
            return {
                "B_proj": self._after(projections.to_input, self.B_proj),
                "C_proj": self._after(projections.to_output, self.C_proj),
            }
        if self.B_proj is not None and self.C_proj is not None:
            groups = torch.arange(self.groups)[:, None]
            return {
                "B_proj": self.B_proj[groups, projections.keep],
                "C_proj": self.C_proj[groups, projections.keep],
            }
        return self._sliced(projections.keep, {n: p.detach() for n, p in self.named_parameters()})

    @staticmethod
    def _after(new: Tensor, old: Tensor | None) -> Tensor:
        """The map of a cut after that of an earlier one."""
        return new if old is None else new.to(old.device) @ old.detach().to(new.dtype)

    def _sliced(self, keep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows of in_proj and conv1d, or of moments of the same names, that belong to kept states (groups, r)."""
        rows = self._kept_rows(keep)
        index = {"in_proj.weight": self._in_rows(rows), "conv1d.weight": rows, "conv1d.bias": rows}
        return {name: tensors[name][where] for name, where in index.items()}

    def _kept_rows(self, keep: Tensor) -> Tensor:
        """Channels of the convolution that stay: all of x, the kept ones of B and C."""
        n, first = self._inner_dim, self.channels
        kept = (keep.cpu() + n * torch.arange(self.groups)[:, None]).flatten()
        return torch.cat([torch.arange(first), first + kept, first + self.groups * n + kept])

    def _in_rows(self, rows: Tensor) -> Tensor:
        """The same of in_proj, whose rows are z, those of the convolution, dt."""
        whole = self.in_proj.weight.shape[0]
        return torch.cat(
            [torch.arange(self.channels), self.channels + rows, torch.arange(whole - self.heads, whole)]
        )

    def transported_moments(
        self, projections: GroupProjection, first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        if projections.keep is not None and self.B_proj is None:
            return self._sliced(projections.keep, first), self._sliced(projections.keep, second)
        if "B_proj" not in first:
            return {}, {}
        # Old rows are read off new ones by the other map.
        maps = {"B_proj": projections.to_output, "C_proj": projections.to_input}
        both = [
            {name: m.double() ** power @ moments[name].double() for name, m in maps.items()}
            for moments, power in ((first, 1), (second, 2))
        ]
        return both[0], both[1]

    def sliced_moments(self, order: int, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        if "B_proj" in moments:
            return {name: moment[:, :order] for name, moment in moments.items()}
        if "conv1d.bias" not in moments:
            return {}
        return self._sliced(torch.arange(order).expand(self.groups, -1), moments)

    def state_rows(self) -> dict[str, slice]:
        behind_x = slice(self.channels, None)
        return {
            "in_proj.weight": slice(2 * self.channels, -self.heads),
            "conv1d.weight": behind_x,
            "conv1d.bias": behind_x,
        }

    def kernel_order(self, order: int) -> int:
        """Its Triton kernels pad to a power of two of at least 16."""
        return max(16, 1 << (order - 1).bit_length())

    def backend(self, device: torch.device) -> str:
        return "mamba-ssm's SSD" if self.config.uses_mamba_ssm(device) else "chunked SSD"

    def set_state_parameters(self, values: dict[str, Any]) -> None:
        super().set_state_parameters(values)
        self.in_proj.out_features = self.in_proj.weight.shape[0]
        self.conv1d.in_channels = self.conv1d.out_channels = self.conv1d.groups = self.conv1d.weight.shape[0]


def _mapped(projection: Tensor, vectors: Tensor) -> Tensor:
    """(groups, r, N) times (..., groups, N), in the type of the map: (..., groups, r)."""
    return torch.einsum("grn,...gn->...gr", projection, vectors.to(projection.dtype))
