"""S4D (Gu et al. 2022, "On the Parameterization and Initialization of Diagonal State Space Models")."""

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from compressm_cli.layers.discretization import (
    DiscretizedConfig,
    continuous_poles,
    discrete_system,
    zero_order_hold,
)
from compressm_cli.layers.precision import narrow_as, wide, wide_beside
from compressm_cli.layers.state import State
from compressm_cli.layers.time_invariant import (
    StateProjection,
    TimeInvariantLayer,
    as_complex,
    check_orders,
    ratio,
)
from compressm_cli.lti import Realization
from compressm_cli.ops import channelwise_ssm
from compressm_cli.ops.decoding import channelwise_states, channelwise_step, ends_of


class S4DConfig(DiscretizedConfig):
    """``layer: {kind: s4d}``; each of the H channels has ``state_dim`` conjugate pairs of its own."""

    kind: Literal["s4d"] = "s4d"
    init: Literal["lin", "inv"] = "lin"
    """Frequencies of the poles -1/2 + i w at the start: S4D-Lin or S4D-Inv of the paper."""


class S4D(TimeInvariantLayer):
    """H systems h' = A h + u, y = 2 Re(C h) + D u, A = -exp(log_A_re) + i A_im, zero-order hold of step dt.

    The input weights are one: C stands for the paper's product of B and C. The discrete system of a channel
    has lambda = exp(dt A), B = f = 2 (lambda - 1) / A, C = C; the factor 2 of the conjugate states is in f.
    """

    Config = S4DConfig
    forms = ("convolution",)
    recurrent_parameters = frozenset({"log_A_re", "A_im", "log_dt"})
    state_axes: ClassVar = {"log_A_re": 1, "A_im": 1, "C_re": 1, "C_im": 1}

    def __init__(self, config: S4DConfig, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        self.log_dt = nn.Parameter(config.draw_log_dt(model_dim))
        self.log_A_re = nn.Parameter(torch.full((model_dim, state_dim), math.log(0.5)))
        self.A_im = nn.Parameter(_frequencies(config.init, state_dim).repeat(model_dim, 1))
        self.C_re = nn.Parameter(torch.randn(model_dim, state_dim) * math.sqrt(0.5))
        self.C_im = nn.Parameter(torch.randn(model_dim, state_dim) * math.sqrt(0.5))
        self.D = nn.Parameter(torch.randn(model_dim))

    @property
    def state_dim(self) -> int:
        return self.log_A_re.shape[1]

    def forward(self, u: Tensor) -> Tensor:
        wide_u = wide_beside(self.D, u)
        return narrow_as(
            self.D, torch.addcmul(channelwise_ssm(wide_u, *self._discrete()), wide_u, wide(self.D))
        )

    def _discrete(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Logarithm of the size and angle of the poles, read-out as real and imaginary parts: (H, N) each."""
        log_abs, angle, re, im = zero_order_hold(*map(wide, (self.log_A_re, self.A_im, self.log_dt[:, None])))
        C_re, C_im = 2 * (re * self.C_re - im * self.C_im), 2 * (re * self.C_im + im * self.C_re)
        return log_abs, angle, C_re, C_im

    @torch.no_grad()
    def initial_state(self, batch: int) -> State:
        self.remembered.forget()
        h = wide(self.C_re).new_zeros(batch, *self.C_re.shape)
        return State({"h": torch.complex(h, h)})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.check_step(x)
        (h,) = state.take(h=(len(x), *self.C_re.shape))
        poles, C = self.remembered.of(self.parameters(), self._poles_and_read_out)
        y = torch.addcmul(channelwise_step(x, h, poles, C), x, wide(self.D))
        return narrow_as(self.D, y), State({"h": h})

    def _poles_and_read_out(self) -> tuple[Tensor, Tensor]:
        """Of the discrete systems, (H, N) complex each."""
        log_abs, angle, C_re, C_im = self._discrete()
        return torch.polar(torch.exp(log_abs), angle), torch.complex(C_re, C_im)

    @torch.no_grad()
    def prefill(self, u: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self.remembered.forget()
        log_abs, angle, _, _ = self._discrete()
        return self(u), State({"h": channelwise_states(u, ends_of(u, lengths), log_abs, angle)})

    def systems(self) -> list[Realization]:
        poles, factor = discrete_system(self.log_A_re, self.A_im, self.log_dt[:, None])
        C = as_complex(self.C_re, self.C_im)
        return [Realization(poles[d], 2 * factor[d, :, None], C[d, None]) for d in range(self.model_dim)]

    def system_inputs(self, u: Tensor) -> list[Tensor]:
        return list(u.split(1, dim=-1))

    def reduced_parameters(self, projections: list[StateProjection]) -> dict[str, Tensor]:
        """The input weights are fixed, so the scaling of the new states is too. The steps stay the same."""
        check_orders(projections, self.model_dim)
        log_A_re, A_im, factor = self._new_poles(projections)
        rows = []
        for system, projection, f in zip(self.systems(), projections, factor, strict=True):
            # A state that nothing reaches has B = 0, and so C = 0 where B is fixed to one.
            rows.append(projection.reduce_output(system.C)[0] * projection.reduce_input(system.B)[:, 0] / f)
        C = torch.stack(rows)
        return {"log_A_re": log_A_re, "A_im": A_im, "C_re": C.real, "C_im": C.imag}

    def transported_moments(
        self, projections: list[StateProjection], first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """C's moments are pulled back in the coordinates in which the new states' input weights are one.

        What is carried over is the gradient with respect to C at fixed poles and step. With the kernel
        K_k = Re(C f lambda^k) that is d loss / d C_i = sum_k (d loss / d K_k) conj(f_i lambda_i^k); the
        response f lambda^k of a new state is taken as the one that the projection makes of the old states'
        responses, which is exact where the cut loses nothing. A state that nothing reaches is not scaled: its
        C is zero, its moments mean nothing.
        """
        check_orders(projections, self.model_dim)
        log_A_re, A_im, factor = self._new_poles(projections)
        scaled = [
            projection.scaled(ratio(f, projection.reduce_input(system.B)[:, 0]))
            for system, projection, f in zip(self.systems(), projections, factor, strict=True)
        ]
        results = []
        for moments, squared in ((first, False), (second, True)):
            rows = [
                projection.pull_back_output(moments["C_re"][d, None], moments["C_im"][d, None], squared)
                for d, projection in enumerate(scaled)
            ]
            C_re, C_im = (torch.cat(parts) for parts in zip(*rows, strict=True))
            poles = {"log_A_re": torch.zeros_like(log_A_re), "A_im": torch.zeros_like(A_im)}
            results.append({**poles, "C_re": C_re, "C_im": C_im})
        return results[0], results[1]

    def _new_poles(self, projections: list[StateProjection]) -> tuple[Tensor, Tensor, Tensor]:
        """Continuous poles (H, r), as log_A_re and A_im, and their factor f."""
        poles, log_dt = torch.stack([p.poles for p in projections]), self.log_dt.detach().double()[:, None]
        log_A_re, A_im = continuous_poles(poles, log_dt)
        return log_A_re, A_im, 2 * discrete_system(log_A_re, A_im, log_dt)[1]


def _frequencies(init: str, state_dim: int) -> Tensor:
    """Imaginary parts of the poles at the start, (N,), for 2 N real states."""
    n = torch.arange(state_dim)
    if init == "lin":
        return math.pi * n
    return 2 * state_dim / math.pi * (2 * state_dim / (2 * n + 1) - 1)
