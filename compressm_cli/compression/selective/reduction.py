"""What the reductions of selective layers have in common, whatever the family."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from compressm_cli.compression.hankel_config import HankelConfig
from compressm_cli.compression.method import LayerRecord
from compressm_cli.compression.reduction import Reduction
from compressm_cli.compression.selective.distill import distilled, output_error
from compressm_cli.layers.selective import SelectiveLayer, SelectiveProjection
from compressm_cli.lti import order_for_energy

T = TypeVar("T")

VariantFunction = Callable[[Any, int, torch.Generator], SelectiveProjection]
"""(the reduction with its measurements, the order, for random choices) -> the projection; ValueError to refuse."""


class SelectiveReduction(Reduction, Generic[T]):
    """A selective layer, measured on what its recurrence saw on calibration batches.

    Raises ValueError where there are no batches, values that are not finite, or for a variant that its family
    does not have.
    """

    variants: ClassVar[Mapping[str, VariantFunction]]
    """By the name that a recipe gives them."""
    default: ClassVar[str]

    layer: SelectiveLayer

    def __init__(
        self, layer: SelectiveLayer, config: HankelConfig, inputs: list[Tensor], traces: list[T]
    ) -> None:
        started = time.perf_counter()
        self.layer, self.config, self.inputs, self.traces = layer, config, inputs, traces
        self.variant = self.default if config.variant == "default" else config.variant
        if self.variant not in self.variants:
            raise ValueError(
                f"compression.variant is {self.variant}; of this kind of layer there are {', '.join(self.variants)}"
            )
        self.measure()
        self.spectrum()  # refuses here what cannot be balanced
        self.seconds = time.perf_counter() - started

    @abstractmethod
    def measure(self) -> None:
        """Gramians and what else is needed of the traces; in float64."""

    @abstractmethod
    def spectrum(self) -> Tensor:
        """Singular values, one a state, descending, float64 on the CPU (docs/methods/selective.md)."""

    @abstractmethod
    def errors(self, projection: SelectiveProjection) -> tuple[float | None, float | None]:
        """Relative errors of the recurrence's weighted output over the traces: measured, and predicted.

        The prediction is of the error alone, over the measured output; None where there is none.
        """

    @staticmethod
    def squares(outputs: Iterable[tuple[Tensor, Tensor, Tensor]]) -> tuple[float, float]:
        """Weighted sums of squares of errors and of outputs, given as (weight, error, output) of each trace."""
        wrong = whole = 0.0
        for weight, error, y in outputs:
            wrong += float((weight * error**2).sum(dtype=torch.float64))
            whole += float((weight * y**2).sum(dtype=torch.float64))
        return wrong, whole

    def hsv(self) -> Tensor:
        return self.spectrum()

    def by_state(self) -> Tensor:
        return self.spectrum()

    def order_for(self, energy_threshold: float) -> int:
        return order_for_energy(self.spectrum(), energy_threshold)

    def describe(self, record: LayerRecord) -> None:
        record.hsv = self.spectrum().tolist()
        record.gramian, record.variant = "empirical", self.variant

    def cut(
        self, order: int, allowed: Callable[[int], int], generator: torch.Generator, record: LayerRecord
    ) -> SelectiveProjection:
        order = allowed(order)
        try:
            projection = self.variants[self.variant](self, order, generator)
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"no {self.variant} reduction to order {order}: {error}") from error
        spectrum = self.spectrum()
        record.order_after = projection.order
        record.reason = f"cut from {record.order_before} to {projection.order}"
        if self.variant in ("balanced", "balanced_real"):
            record.kept = projection.order
            whole = float(spectrum.sum())
            record.tail = float(spectrum[projection.order :].sum()) / whole if whole > 0 else 0.0
        record.measured_error, record.predicted_error = self.errors(projection)
        record.kernel_order = self.layer.kernel_order(projection.order)
        record.reason += _errors_in_words(record)
        return projection

    def values(self, projection: SelectiveProjection, record: LayerRecord) -> dict[str, Tensor] | None:
        steps = self.config.distill_steps
        if steps == 0:
            return None
        start = self.layer.reduced_parameters(projection)
        values = distilled(self.layer, start, self.inputs, steps)
        before, after = (output_error(self.layer, v, self.inputs) for v in (start, values))
        if before is not None and after is not None:
            record.measured_error = after
            record.reason += (
                f"; {steps} steps of distillation: error of the output {before:.3g} -> {after:.3g}"
            )
        return values


def _errors_in_words(record: LayerRecord) -> str:
    if record.measured_error is None:
        return ""
    told = f"; error {100 * record.measured_error:.2g} % on the calibration batches"
    if record.predicted_error is None:
        return told
    return f"{told}, {100 * record.predicted_error:.2g} % predicted"
