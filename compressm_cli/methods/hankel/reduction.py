"""What the order of one layer is chosen by, and how it is reduced: the part of the method that knows layers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.methods.calibration import Statistic
from compressm_cli.structure.plan import UnitRecord

Observe = Callable[[Statistic], None]
"""Shows a statistic of one layer all calibration batches."""


class Reduction(ABC):
    """One layer at one check: its spectrum, once it is measured, and then the cut to an order."""

    layer: StateSpaceLayer
    statistic: Statistic | None = None
    """What must see the layer's inputs on all calibration batches before ``measure``, and again before ``cut``,
    each time another one; None where nothing must."""
    seconds: float = 0.0
    """What measuring took."""

    @abstractmethod
    def measure(self) -> None:
        """Make ready all that the order is chosen by. Raises ValueError for a layer that cannot be reduced."""

    @abstractmethod
    def hsv(self) -> Tensor:
        """The spectrum of the layer, descending, on the CPU."""

    @abstractmethod
    def order_for(self, energy_threshold: float) -> int:
        """The smallest number of states that keeps this share of the spectrum's sum."""

    @abstractmethod
    def by_state(self) -> Tensor:
        """The spectrum, one value a state, descending: what states are shared out by among layers."""

    @abstractmethod
    def describe(self, record: UnitRecord) -> None:
        """Fill in what the spectrum is of."""

    @abstractmethod
    def truncate(self, order: int, allowed: Callable[[int], int], generator: torch.Generator) -> None:
        """Choose new states, ``order`` of them or a few more; sets ``statistic``, where ``cut`` needs another one.

        ``allowed`` gives the smallest order from a given one on that the recipe allows. Raises ValueError where the
        cut is refused.
        """

    @abstractmethod
    def cut(self, record: UnitRecord) -> Any:
        """The projection to the chosen states, for ``reduced_parameters``; tells the record what it costs.

        Sets ``after``, ``reason`` and what else is known. Raises ValueError where the cut is refused.
        """

    def values(self, projection: Any, record: UnitRecord, observe: Observe) -> dict[str, Tensor] | None:
        """The layer's new state parameters where they are better ones than the projection gives; tells the record."""
        return None
