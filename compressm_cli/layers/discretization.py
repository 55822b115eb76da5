"""Zero-order hold between continuous and discrete diagonal systems, and the way back.

The continuous poles are A = -exp(log_A_re) + i A_im, which keeps them stable; the step is exp(log_dt).
All in real arithmetic, differentiable, elementwise, and broadcasting.
"""

import math
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.layers.config import LayerConfig

Step = Annotated[float, Field(gt=0.0, le=10.0)]


class DiscretizedConfig(LayerConfig):
    """The part of a recipe that layers with a trained step share."""

    dt_min: Step = 0.001
    """Smallest step at the start."""
    dt_max: Step = 0.1
    """Largest step at the start; steps are drawn log-uniform between the two."""

    @model_validator(mode="after")
    def _range(self) -> "DiscretizedConfig":
        if self.dt_min > self.dt_max:
            raise ValueError(f"dt_min ({self.dt_min}) must not be above dt_max ({self.dt_max})")
        return self

    def draw_log_dt(self, count: int) -> Tensor:
        """Logarithms of ``count`` steps from torch's random state."""
        low, high = math.log(self.dt_min), math.log(self.dt_max)
        return torch.rand(count) * (high - low) + low


def zero_order_hold(log_A_re: Tensor, A_im: Tensor, log_dt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The discrete system of x' = A x + B u for an input that is constant during a step.

    Returns log |lambda|, the angle of lambda, and real and imaginary part of the input factor f:
    h_t = lambda h_{t-1} + f B u_t, with lambda = exp(dt A) and f = (lambda - 1) / A (which tends to dt).
    """
    A_re, dt = -torch.exp(log_A_re), torch.exp(log_dt)
    log_abs, angle = dt * A_re, dt * A_im
    # lambda - 1 without the cancellation that slow poles would bring.
    re = torch.expm1(log_abs) * torch.cos(angle) - 2 * torch.sin(angle / 2) ** 2
    im = torch.exp(log_abs) * torch.sin(angle)
    square = A_re**2 + A_im**2
    return log_abs, angle, (re * A_re + im * A_im) / square, (im * A_re - re * A_im) / square


def discrete_system(log_A_re: Tensor, A_im: Tensor, log_dt: Tensor) -> tuple[Tensor, Tensor]:
    """The poles lambda and the input factor f of ``zero_order_hold`` as complex128, detached."""
    log_abs, angle, re, im = zero_order_hold(*(p.detach().double() for p in (log_A_re, A_im, log_dt)))
    return torch.exp(torch.complex(log_abs, angle)), torch.complex(re, im)


def continuous_poles(poles: Tensor, log_dt: Tensor) -> tuple[Tensor, Tensor]:
    """log_A_re and A_im with exp(dt A) = poles, of all such A the one with the slowest oscillation.

    poles complex128, 0 <= |lambda| < 1. A pole at zero, infinitely fast, becomes one of size 1e-12.
    """
    dt = torch.exp(log_dt)
    decay = -torch.log(poles.abs().clamp_min(1e-12))
    return torch.log(decay / dt), torch.angle(poles) / dt
