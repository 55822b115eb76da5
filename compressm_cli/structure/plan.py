"""Plans: edits, and a record of each look, with its reason."""

from dataclasses import dataclass, field

from compressm_cli.structure.edits import Edit


@dataclass
class LayerRecord:
    """What a check found at one layer, and why it did what it did: one line of ``compression.jsonl``."""

    layer: str
    order_before: int
    order_after: int
    reason: str
    """One readable clause, for a cut as well as for none."""
    hsv: list[float] = field(default_factory=list)
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
    seconds: float = 0.0


@dataclass
class Plan:
    """What a method wants changed at one moment, as data."""

    edits: list[Edit] = field(default_factory=list)
    records: list[LayerRecord] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.edits)
