"""What balanced truncation says of a layer in a record."""

from typing import Any

from compressm_cli.core.config import Config
from compressm_cli.layers.interface import state_axis
from compressm_cli.structure.plan import UnitRecord


class HankelDetails(Config):
    """Null where it was not computed."""

    hsv: list[float] = []
    """Hankel singular values, descending, of the realization named beside them."""
    kept: int | None = None
    """How many of ``hsv``, from the largest, were kept; null where nothing was cut or others were kept."""
    realization: str | None = None
    gramian: str | None = None
    horizon: int | None = None
    """Steps over which analytic Gramians were summed; null means for ever."""
    tail: float | None = None
    """Discarded share of the Hankel energy, 0 to 1."""
    bound: float | None = None
    """Bound on the H-infinity error, 2 sum of the discarded values; null where no bound holds."""
    measured_error: float | None = None
    """Relative error, on the calibration batches, of what the layer's recurrence puts out right after the cut, before
    any distillation: y = Re(C h) of a time-invariant layer, y of a selective one weighted by what reaches the layer's
    output. What else the layer's output is made of (D u, a gate) is not in it. Null where not measured."""
    predicted_error: float | None = None
    """The same, predicted in mean square from the Gramians alone; null where there is no such prediction."""
    output_error: float | None = None
    """Relative error of the layer's whole output on the calibration batches, after distillation; null without one."""
    kernel_order: int | None = None
    """The order with which mamba-ssm's kernels compute after the cut; null for a time-invariant layer."""
    variant: str | None = None
    """How a selective layer was reduced; null for a time-invariant one."""


OF_A_CUT = ("kept", "tail", "bound", "measured_error", "predicted_error", "output_error")
"""Details that are null where nothing was cut."""


def no_details() -> dict[str, Any]:
    """Details where nothing is computed yet."""
    return HankelDetails().model_dump()


def hankel_record(layer: str, order: int, reason: str = "", seconds: float = 0.0) -> UnitRecord:
    """Of a layer, by its name, whose order stays as it is for now."""
    return UnitRecord(state_axis(layer), "state", order, order, reason, details=no_details(), seconds=seconds)
