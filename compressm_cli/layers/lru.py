"""The Linear Recurrent Unit, LRU (Orvieto et al. 2023, "Resurrecting Recurrent Neural Networks ...")."""

import math
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.layers.config import LayerConfig
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

Radius = Annotated[float, Field(ge=0.0, le=1.0)]


class LRUConfig(LayerConfig):
    """``layer: {kind: lru}``; poles start uniform on the ring r_min..r_max, at angles 0..max_phase."""

    kind: Literal["lru"] = "lru"
    r_min: Radius = 0.0
    """Smallest size of a pole at the start."""
    r_max: Radius = 1.0
    """Largest size of a pole at the start."""
    max_phase: Annotated[float, Field(gt=0.0, le=2 * math.pi)] = 2 * math.pi
    """Largest angle of a pole at the start, in radians."""

    @model_validator(mode="after")
    def _ring(self) -> "LRUConfig":
        if self.r_min >= self.r_max:
            raise ValueError(f"r_min ({self.r_min}) must be below r_max ({self.r_max})")
        return self


class LRU(DiagonalLayer):
    """h_t = lambda h_{t-1} + exp(gamma_log) B u_t and y_t = Re(C h_t) + D u_t.

    lambda = exp(-exp(nu_log) + i theta). The angle is a parameter itself rather than its logarithm:
    truncation makes real poles too, at angle 0 or pi.
    """

    Config = LRUConfig
    recurrent_parameters = frozenset({"nu_log", "theta", "gamma_log", "B_re", "B_im"})
    state_axes: ClassVar = {
        "nu_log": 0,
        "theta": 0,
        "gamma_log": 0,
        "B_re": 0,
        "B_im": 0,
        "C_re": 1,
        "C_im": 1,
    }

    def __init__(self, config: LRUConfig, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        # Uniform on the ring (Orvieto et al., lemma 3.2), kept off the unit circle by float32's resolution.
        low, high = config.r_min**2, min(config.r_max**2, 1 - 1e-6)
        squared = torch.rand(state_dim) * (high - low) + low
        nu = -0.5 * torch.log(squared.clamp_min(1e-12))
        self.nu_log = nn.Parameter(torch.log(nu))
        self.theta = nn.Parameter(torch.rand(state_dim) * config.max_phase)
        self.gamma_log = nn.Parameter(0.5 * torch.log1p(-squared))
        self.B_re = nn.Parameter(torch.randn(state_dim, model_dim) / math.sqrt(2 * model_dim))
        self.B_im = nn.Parameter(torch.randn(state_dim, model_dim) / math.sqrt(2 * model_dim))
        self.C_re = nn.Parameter(torch.randn(model_dim, state_dim) / math.sqrt(state_dim))
        self.C_im = nn.Parameter(torch.randn(model_dim, state_dim) / math.sqrt(state_dim))
        self.D = nn.Parameter(torch.randn(model_dim))

    @property
    def state_dim(self) -> int:
        return self.nu_log.shape[0]

    def discrete_system(self) -> DiagonalSystem:
        gamma = torch.exp(wide(self.gamma_log))[:, None]
        return DiagonalSystem(
            -torch.exp(wide(self.nu_log)),
            wide(self.theta),
            gamma * self.B_re,
            gamma * self.B_im,
            wide(self.C_re),
            wide(self.C_im),
            wide(self.D),
        )

    def systems(self) -> list[Realization]:
        poles = torch.exp(as_complex(-torch.exp(self.nu_log.detach().double()), self.theta))
        gamma = torch.exp(self.gamma_log.detach().double())[:, None]
        B = gamma * as_complex(self.B_re, self.B_im)
        return [Realization(poles, B, as_complex(self.C_re, self.C_im))]

    def system_inputs(self, u: Tensor) -> list[Tensor]:
        return [u]

    def reduced_parameters(self, projections: list[StateProjection]) -> dict[str, Tensor]:
        """Each new state is scaled so that its row of B and its column of C have one norm."""
        (old,) = self.systems()
        projection, gamma = self._scaled(projections)
        B, C = projection.reduce_input(old.B) / gamma[:, None], projection.reduce_output(old.C)
        return {
            "nu_log": torch.log(-torch.log(_size(projection.poles))),
            "theta": torch.angle(projection.poles),
            "gamma_log": torch.log(gamma),
            "B_re": B.real,
            "B_im": B.imag,
            "C_re": C.real,
            "C_im": C.imag,
        }

    def transported_moments(
        self, projections: list[StateProjection], first: dict[str, Tensor], second: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        projection, gamma = self._scaled(projections)
        # B acts on the states over gamma.
        inner = projection.scaled(1 / gamma, old=torch.exp(-self.gamma_log.detach().double()))
        results = []
        for moments, squared in ((first, False), (second, True)):
            B_re, B_im = inner.pull_back_input(moments["B_re"], moments["B_im"], squared)
            C_re, C_im = projection.pull_back_output(moments["C_re"], moments["C_im"], squared)
            poles = {name: torch.zeros_like(gamma) for name in ("nu_log", "theta", "gamma_log")}
            results.append({**poles, "B_re": B_re, "B_im": B_im, "C_re": C_re, "C_im": C_im})
        return results[0], results[1]

    def _scaled(self, projections: list[StateProjection]) -> tuple[StateProjection, Tensor]:
        """The projection with each new state scaled, and the new gamma (r,)."""
        check_orders(projections, 1)
        (old,) = self.systems()
        (projection,) = projections
        gamma = torch.sqrt(1 - _size(projection.poles) ** 2)
        B, C = projection.reduce_input(old.B) / gamma[:, None], projection.reduce_output(old.C)
        return projection.scaled(balancing_scale(B, C)), gamma


def _size(poles: Tensor) -> Tensor:
    """|lambda|, kept off zero, whose logarithm is a parameter."""
    return poles.abs().clamp_min(1e-12)
