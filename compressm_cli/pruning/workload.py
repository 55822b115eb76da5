"""How a network is called: on what its units are judged, and at what its FLOPs are counted."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


def no_padding(batch: Any) -> None:
    """All steps of a batch are real."""
    return


@dataclass(frozen=True)
class Workload:
    """Calibration batches of any kind, what to do with one, and an example of what the network is called with."""

    batches: Iterable[Any]
    """Gone through several times: a list, or something that begins anew each time, and no generator."""
    loss: Callable[[nn.Module, Any], Tensor]
    """The mean loss of a model on a batch, over its labels; a number with a gradient."""
    labels: Callable[[Any], int]
    """Over how many labels the loss of a batch is the mean."""
    run: Callable[[nn.Module, Any], Any]
    """Calls the model with a batch; its FLOPs are what is counted."""
    example: Any
    """A batch of which FLOPs are counted, such as one sequence of the longest length: tensors, also in mappings, lists
    and tuples, of which shapes and types count."""
    lengths: Callable[[Any], Tensor | None] = no_padding
    """How many steps of each row of a batch are real, where rows are padded at their end."""
