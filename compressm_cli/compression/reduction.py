"""What the order of one layer is chosen by, and how it is reduced: the part of the method that knows layers."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from compressm_cli.compression.method import LayerRecord
from compressm_cli.layers.interface import StateSpaceLayer


class Reduction(ABC):
    """One layer at one check, measured: its spectrum, and the cut to an order."""

    layer: StateSpaceLayer
    seconds: float
    """What the measurement took."""

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
    def describe(self, record: LayerRecord) -> None:
        """Fill in what the spectrum is of."""

    @abstractmethod
    def cut(
        self, order: int, allowed: Callable[[int], int], generator: torch.Generator, record: LayerRecord
    ) -> Any:
        """The projection to ``order`` states, for ``reduced_parameters``; tells the record what it costs.

        ``allowed`` gives the smallest order from a given one on that the recipe allows. Sets ``order_after``,
        ``reason``, ``tail`` and what else is known. Raises ValueError where the cut is refused.
        """

    def values(self, projection: Any, record: LayerRecord) -> dict[str, Tensor] | None:
        """The layer's new state parameters where they are better ones than the projection gives; tells the record."""
        return None
