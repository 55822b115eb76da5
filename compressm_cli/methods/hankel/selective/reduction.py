"""What the reductions of selective layers have in common, whatever the family."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from compressm_cli.layers.selective import SelectiveLayer, SelectiveProjection, Trace
from compressm_cli.lti import order_for_energy
from compressm_cli.methods.calibration import real_steps
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.methods.hankel.reduction import Observe, Reduction
from compressm_cli.methods.hankel.selective.distill import AllInputs, distilled, output_error
from compressm_cli.methods.hankel.selective.excerpt import Excerpt, Rows
from compressm_cli.structure.plan import UnitRecord

T = TypeVar("T", bound=Trace)

VariantFunction = Callable[[Any, int, torch.Generator], SelectiveProjection]
"""(the reduction with its measurements, the order, for random choices) -> the projection; ValueError to refuse."""


class SelectiveReduction(Reduction, Generic[T]):
    """A selective layer, measured on what its recurrence saw on the first rows of the calibration batches.

    Raises ValueError for a variant that its family does not have. Where there are no batches, or values that are not
    finite, the layer is refused.
    """

    variants: ClassVar[Mapping[str, VariantFunction]]
    """By the name that a recipe gives them."""
    default: ClassVar[str]

    layer: SelectiveLayer

    def __init__(self, layer: SelectiveLayer, config: HankelConfig) -> None:
        self.layer, self.config = layer, config
        self.statistic: Excerpt | None = Excerpt()
        self.rows: list[Rows] = []
        self.projection: SelectiveProjection | None = None
        self.variant = self.default if config.variant == "default" else config.variant
        if self.variant not in self.variants:
            raise ValueError(
                f"compression.variant is {self.variant}; of this kind of layer there are {', '.join(self.variants)}"
            )

    def measure(self) -> None:
        started = time.perf_counter()
        if self.statistic is not None:
            self.seconds = self.statistic.seconds
            self.rows, self.statistic = self.statistic.result(), None
        self.gramians()
        self.spectrum()  # refuses here what cannot be balanced
        self._forget_traces()
        self.seconds += time.perf_counter() - started

    @cached_property
    def traces(self) -> list[T]:
        """What the recurrence saw, made anew after ``_forget_traces``: the traces of all layers would be many."""
        return [self.layer.trace(r.u).where(real_steps(r.lengths, r.u)) for r in self.rows]  # type: ignore[misc]

    def _forget_traces(self) -> None:
        self.__dict__.pop("traces", None)

    @abstractmethod
    def gramians(self) -> None:
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

    def describe(self, record: UnitRecord) -> None:
        record.details |= {"hsv": self.spectrum().tolist(), "gramian": "empirical", "variant": self.variant}

    def truncate(self, order: int, allowed: Callable[[int], int], generator: torch.Generator) -> None:
        order = allowed(order)
        try:
            self.projection = self.variants[self.variant](self, order, generator)
        except torch.linalg.LinAlgError as error:
            raise ValueError(f"no {self.variant} reduction to order {order}: {error}") from error
        finally:
            self._forget_traces()

    def cut(self, record: UnitRecord) -> SelectiveProjection:
        projection, spectrum, details = self.projection, self.spectrum(), record.details
        assert projection is not None  # chosen by ``truncate``
        record.after = projection.order
        record.reason = f"cut from {record.before} to {projection.order}"
        if self.variant in ("balanced", "balanced_real"):
            details["kept"] = projection.order
            whole = float(spectrum.sum())
            details["tail"] = float(spectrum[projection.order :].sum()) / whole if whole > 0 else 0.0
        details["measured_error"], details["predicted_error"] = self.errors(projection)
        self._forget_traces()
        details["kernel_order"] = self.layer.kernel_order(projection.order)
        record.reason += _errors_in_words(record)
        return projection

    def values(
        self, projection: SelectiveProjection, record: UnitRecord, observe: Observe
    ) -> dict[str, Tensor] | None:
        steps = self.config.distill_steps
        if steps == 0:
            return None
        seen = AllInputs()
        observe(seen)
        batches = seen.result()
        start = self.layer.reduced_parameters(projection)
        values = distilled(self.layer, start, batches, steps)
        before, after = (output_error(self.layer, v, batches) for v in (start, values))
        if before is not None and after is not None:
            record.details["output_error"] = after
            record.reason += (
                f"; {steps} steps of distillation: error of the output {before:.3g} -> {after:.3g}"
            )
        return values


def _errors_in_words(record: UnitRecord) -> str:
    measured, predicted = record.details["measured_error"], record.details["predicted_error"]
    if measured is None:
        return ""
    told = f"; error of the recurrence {100 * measured:.2g} % on the calibration batches"
    return told if predicted is None else f"{told}, {100 * predicted:.2g} % predicted"
