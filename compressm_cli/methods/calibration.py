"""What a method learns of the inputs of layers: sums that take calibration batches in part by part."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.modes import in_evaluation_mode


class Statistic(ABC):
    """Something accumulated of the inputs of one layer. Its memory must not grow with what it has seen."""

    seconds: float = 0.0
    """What its updates took."""

    @abstractmethod
    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        """Take in the layer's input u (rows, length, H), on the device of the model that the method reads.

        Of each row the first ``lengths`` (rows,) steps count, and what follows is padding; None where all count.
        """

    def end_batch(self) -> None:
        """A calibration batch has been seen whole, in one update or several."""

    @abstractmethod
    def result(self) -> Any:
        """What the inputs so far have come to. Raises ValueError where there were none."""


class OnCpu(Statistic):
    """Brings what another statistic shall see to the CPU."""

    def __init__(self, inner: Statistic) -> None:
        self._inner = inner
        self.failure: Exception | None = None
        """What the other one raised."""

    def update(self, u: Tensor, lengths: Tensor | None) -> None:
        started = time.perf_counter()
        try:
            self._inner.update(u.cpu(), None if lengths is None else lengths.cpu())
        except Exception as error:
            self.failure = error
            raise
        self._inner.seconds += time.perf_counter() - started

    def end_batch(self) -> None:
        self._inner.end_batch()

    def result(self) -> Any:
        return self._inner.result()


@contextmanager
def seeing_inputs(
    model: nn.Module, statistics: Mapping[str, Statistic], lengths: Callable[[], Tensor | None] = lambda: None
) -> Iterator[None]:
    """Within, in evaluation mode, each statistic takes in what passes show to the layer that it is named after.

    ``lengths`` are those of the rows that are passed now. The first error of an update is raised at the end.
    """
    failures: list[Exception] = []

    def seen_by(statistic: Statistic) -> Callable[[nn.Module, Any], None]:
        def see(_: nn.Module, inputs: Any) -> None:
            started = time.perf_counter()
            try:
                if not failures:
                    statistic.update(inputs[0].detach(), lengths())
            except Exception as error:
                failures.append(error)
            statistic.seconds += time.perf_counter() - started

        return see

    with ExitStack() as stack:
        stack.enter_context(in_evaluation_mode(model))
        for name, statistic in statistics.items():
            hook = model.get_submodule(name).register_forward_pre_hook(seen_by(statistic))
            stack.callback(hook.remove)
        yield
    if failures:
        raise failures[0]


def real_steps(lengths: Tensor | None, u: Tensor) -> Tensor | None:
    """Which steps of u (rows, length, ...) are no padding, (rows, length) bool; None where all are real."""
    if lengths is None:
        return None
    return torch.arange(u.shape[1], device=u.device) < lengths[:, None]


def without_padding(values: Tensor, real: Tensor | None) -> Tensor:
    """(rows, length, ...) -> (steps, ...): of all rows one after the other, the steps that are ``real``."""
    return values.flatten(0, 1) if real is None else values[real]
