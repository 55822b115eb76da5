"""S5 (Smith et al. 2023, "Simplified State Space Layers for Sequence Modeling")."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.layers.discretization import (
    DiscretizedConfig,
    continuous_poles,
    discrete_system,
    zero_order_hold,
)
from compressm_cli.layers.hippo import hippo_normal
from compressm_cli.layers.precision import wide
from compressm_cli.layers.time_invariant import (
    DiagonalLayer,
    StateProjection,
    as_complex,
    balancing_scale,
    check_orders,
)
from compressm_cli.lti import Realization
from compressm_cli.ops.ssm import DiagonalSystem


class S5Config(DiscretizedConfig):
    """``layer: {kind: s5}``; ``state_dim`` counts conjugate pairs (half of the paper's state size P)."""

    kind: Literal["s5"] = "s5"
    blocks: Annotated[int, Field(ge=1)] = 1
    """The state matrix starts as this many HiPPO-N blocks, as equal in size as possible."""

    @model_validator(mode="after")
    def _enough_states(self) -> "S5Config":
        smallest = min(self.state_dim) if isinstance(self.state_dim, list) else self.state_dim
        if self.blocks > smallest:
            raise ValueError(f"blocks ({self.blocks}) must not be above state_dim ({smallest})")
        return self


class S5(DiagonalLayer):
    """h' = A h + B u, y = 2 Re(C h) + D u, A = -exp(log_A_re) + i A_im, zero-order hold with a step a state.

    The discrete system has lambda = exp(dt A), input matrix f B with f = 2 (lambda - 1) / A, and output
    matrix C; the factor 2 of the conjugate states is in f.
    """

    Config = S5Config
    recurrent_parameters = frozenset({"log_A_re", "A_im", "log_dt", "B_re", "B_im"})
    state_axes: ClassVar = {
        "log_A_re": 0,
        "A_im": 0,
        "log_dt": 0,
        "B_re": 0,
        "B_im": 0,
        "C_re": 1,
        "C_im": 1,
    }

    def __init__(self, config: S5Config, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        A_im, B, C = _block_diagonal(min(config.blocks, state_dim), model_dim, state_dim)
        self.log_A_re = nn.Parameter(torch.full((state_dim,), math.log(0.5)))
        self.A_im = nn.Parameter(A_im)
        self.log_dt = nn.Parameter(config.draw_log_dt(state_dim))
        self.B_re, self.B_im = nn.Parameter(B.real.clone()), nn.Parameter(B.imag.clone())
        self.C_re, self.C_im = nn.Parameter(C.real.clone()), nn.Parameter(C.imag.clone())
        self.D = nn.Parameter(torch.randn(model_dim))

    @property
    def state_dim(self) -> int:
        return self.log_A_re.shape[0]

    def discrete_system(self) -> DiagonalSystem:
        log_abs, angle, re, im = zero_order_hold(*map(wide, (self.log_A_re, self.A_im, self.log_dt)))
        re, im = 2 * re[:, None], 2 * im[:, None]
        B_re, B_im = re * self.B_re - im * self.B_im, re * self.B_im + im * self.B_re
        return DiagonalSystem(log_abs, angle, B_re, B_im, *map(wide, (self.C_re, self.C_im, self.D)))

    def systems(self) -> list[Realization]:
        poles, factor = discrete_system(self.log_A_re, self.A_im, self.log_dt)
        B = 2 * factor[:, None] * as_complex(self.B_re, self.B_im)
        return [Realization(poles, B, as_complex(self.C_re, self.C_im))]

    def system_inputs(self, u: Tensor) -> list[Tensor]:
        return [u]

    def reduced_parameters(self, projections: list[StateProjection]) -> dict[str, Tensor]:
        """Each new state is scaled so that its row of B and its column of C have one norm.

        Its step is the geometric mean of the old states' steps, each weighted by its part in the new state.
        """
        (system,) = self.systems()
        continuous = self._new_poles(projections)
        projection, factor = self._scaled(projections, continuous)
        B, C = projection.reduce_input(system.B) / factor[:, None], projection.reduce_output(system.C)
        log_A_re, A_im, log_dt = continuous
        return {
            "log_A_re": log_A_re,
            "A_im": A_im,
            "log_dt": log_dt,
            "B_re": B.real,
            "B_im": B.imag,
            "C_re": C.real,
            "C_im": C.imag,
        }

    def transported_moments(
        self, projections: list[StateProjection], first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        continuous = self._new_poles(projections)
        projection, factor = self._scaled(projections, continuous)
        # B acts on the states over f.
        old_factor = 2 * discrete_system(self.log_A_re, self.A_im, self.log_dt)[1]
        inner = projection.scaled(1 / factor, old=1 / old_factor)
        results = []
        for moments, squared in ((first, False), (second, True)):
            B_re, B_im = inner.pull_back_input(moments["B_re"], moments["B_im"], squared)
            C_re, C_im = projection.pull_back_output(moments["C_re"], moments["C_im"], squared)
            poles = {name: torch.zeros_like(continuous[0]) for name in ("log_A_re", "A_im", "log_dt")}
            results.append({**poles, "B_re": B_re, "B_im": B_im, "C_re": C_re, "C_im": C_im})
        return results[0], results[1]

    def _new_poles(self, projections: list[StateProjection]) -> tuple[Tensor, Tensor, Tensor]:
        """log_A_re, A_im and log_dt (r,) of the new states, in float64."""
        check_orders(projections, 1)
        (projection,) = projections
        part = (projection.restrict * projection.lift.mT).abs()
        # The floor makes the plain mean of a state that takes part in nothing.
        part = (part + (projection.restrict_conj * projection.lift_conj.mT).abs()).clamp_min(1e-300)
        log_dt = part @ self.log_dt.detach().double() / part.sum(dim=1)
        # The step is stored in the parameter's precision: poles must fit the step that will be read back.
        log_dt = log_dt.to(self.log_dt.dtype).double()
        return *continuous_poles(projection.poles, log_dt), log_dt

    def _scaled(
        self, projections: list[StateProjection], continuous: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[StateProjection, Tensor]:
        """The projection with each new state scaled, and the new factor f (r,)."""
        (system,), (projection,) = self.systems(), projections
        factor = 2 * discrete_system(*continuous)[1]
        B, C = projection.reduce_input(system.B) / factor[:, None], projection.reduce_output(system.C)
        return projection.scaled(balancing_scale(B, C)), factor


def _block_diagonal(blocks: int, model_dim: int, state_dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Frequencies (N,), B (N, H) and C (H, N) of a real system of HiPPO-N blocks in its eigenbasis.

    The real B and C have LeCun's variance, one over the number of columns. Of each conjugate pair of
    eigenvectors V the one with the positive frequency is kept, with its row of V^-1 B and its column of C V.
    """
    frequencies, B, C = [], [], []
    for i in range(blocks):
        pairs = state_dim * (i + 1) // blocks - state_dim * i // blocks
        poles, vectors = hippo_normal(2 * pairs)
        V = vectors[:, pairs:].to(torch.complex64)
        real_B = torch.randn(2 * pairs, model_dim) / math.sqrt(model_dim)
        real_C = torch.randn(model_dim, 2 * pairs) / math.sqrt(2 * state_dim)
        frequencies.append(poles.imag[pairs:].float())
        B.append(V.mH @ real_B.to(V.dtype))
        C.append(real_C.to(V.dtype) @ V)
    return torch.cat(frequencies), torch.cat(B), torch.cat(C, dim=1)
