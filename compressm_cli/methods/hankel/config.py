"""The settings of balanced truncation in a recipe."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from compressm_cli.methods.config import MethodConfig
from compressm_cli.structure.projection import Moments

Variant = Literal[
    "default",
    "balanced",
    "balanced_real",
    "pivoted",
    "gramian",
    "channel_orders",
    "channel_balanced",
    "mean_lti",
    "aire",
    "last",
    "ghost",
    "random",
]
Order = Annotated[int, Field(ge=1)]
TARGETS = ("energy_threshold", "keep_fraction", "target_order", "target_order_total")
MEASURES = ("realization", "gramian", "horizon", "calibration_batches", "variant")
"""The settings that say how a layer is measured and reduced, whatever order is wanted of it."""


class HankelConfig(MethodConfig):
    """``compression: {method: hankel}``; give exactly one of the four targets."""

    method: Literal["hankel"]
    energy_threshold: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the Hankel energy (sum of the singular values) to keep; the paper's tau is 1 minus this."""
    keep_fraction: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """Share of the states that each check keeps."""
    target_order: Order | Annotated[list[Order], Field(min_length=1)] | None = None
    """Order to reach at the last check, by equal ratios from check to check; a list gives one a layer."""
    target_order_total: Order | None = None
    """Sum of all layers' orders to reach at the last check; shared out by their spectra."""
    min_reduction: Annotated[float, Field(ge=0.0, le=1.0)] = 0.05
    """A layer is cut only if at least this share of its states goes."""
    min_order: Order = 1
    """No layer gets fewer states."""
    multiple_of: Order = 1
    """Orders are rounded up to a multiple of this."""
    selection: Literal["largest", "smallest", "random"] = "largest"
    """Which balanced states are kept; the last two are for ablations."""
    realization: Literal["real", "complex"] = "real"
    """``real``: balance the real system that the real output makes of the layer; ``complex``: the paper's."""
    gramian: Literal["analytic", "empirical"] = "empirical"
    """``analytic``: P of white inputs, the paper's; ``empirical``: P from the states that calibration batches
    produce, and the read-out refitted to them."""
    horizon: Literal["infinite", "sequence"] = "sequence"
    """Steps over which analytic Gramians sum: for ever, as in the paper, or the length of the sequences."""
    variant: Variant = "default"
    """How a selective layer is reduced (docs/methods/selective.md); ``default`` is the best one for its family."""
    distill_steps: Annotated[int, Field(ge=0)] = 0
    """Steps of local distillation of a selective layer's cut parameters, on the calibration batches."""
    calibration_batches: Annotated[int, Field(ge=1)] = 4
    """Training batches that an empirical Gramian is made of."""
    moments: Moments = "reset"
    """Adam's moments of the cut parameters: start anew, carry over to the new coordinates, or cut by index."""

    @model_validator(mode="after")
    def _one_target(self) -> "HankelConfig":
        given = [name for name in TARGETS if getattr(self, name) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise ValueError(f"give exactly one of {', '.join(TARGETS)}; found {found}")
        return self

    @model_validator(mode="after")
    def _target_above_minimum(self) -> "HankelConfig":
        targets = (
            self.target_order
            if isinstance(self.target_order, list)
            else [self.target_order or self.min_order]
        )
        if min(targets) < self.min_order:
            raise ValueError(f"target_order ({min(targets)}) must not be below min_order ({self.min_order})")
        return self
