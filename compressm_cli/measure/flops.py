"""FLOPs, counted from the operators that a model executes; never guessed from the number of parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.data.interface import Split
from compressm_cli.measure.formulas import FORMULAS
from compressm_cli.measure.probe import inference, on_copy, training_step
from compressm_cli.objectives.objective import Objective

CONVENTION = (
    "1 multiply-add = 2 FLOPs, of complex numbers 8. Counted as executed, forward and backward: matrix "
    "products (in attention of all steps with all, causal or not), convolutions (as without padding), "
    "recurrent scans (8 a complex state and step, backward 16; selective ones 7 a state and step, backward 17), "
    "FFTs (5 n log2 n a complex transform of length n, half for a real one). Not counted: elementwise work "
    "(normalization, activations, gates, biases, residuals, dropout, pooling, loss), look-ups, copies, "
    "the optimizer, evaluations, and what a compression check computes."
)
"""What a FLOP is here; written beside every count."""


@dataclass(frozen=True)
class FlopCount:
    """FLOPs in total and by operator, such as ``aten.mm``."""

    total: int
    by_operator: dict[str, int]


def count_inference(model: nn.Module, batch: Split) -> FlopCount:
    """One forward of ``model(inputs, lengths)`` in evaluation mode, without gradient."""
    return on_copy(model, batch, lambda twin, rows: _count(inference, twin, rows))


def count_training_step(model: nn.Module, batch: Split, objective: Objective | None = None) -> FlopCount:
    """One forward of ``model(inputs, lengths)`` in training mode, the objective's loss and backward."""
    step = partial(training_step, objective=objective)
    return on_copy(model, batch, lambda twin, rows: _count(step, twin, rows))


def inference_flops(model: nn.Module, batch: Split) -> int:
    """Total of ``count_inference``; for the cost of a sequence give one row of the longest length."""
    return count_inference(model, batch).total


def training_step_flops(model: nn.Module, batch: Split, objective: Objective | None = None) -> int:
    """Total of ``count_training_step``."""
    return count_training_step(model, batch, objective).total


class TrainingFlops:
    """FLOPs of a training run: steps times FLOPs a step, summed over the segments between cuts."""

    def __init__(self) -> None:
        self.total = 0
        self._per_step: int | None = None

    @property
    def per_step(self) -> int | None:
        """Of a step as the model is; None before the first segment."""
        return self._per_step

    def segment(self, flops_per_step: int) -> None:
        """From now on a step costs this much: at the start, and after every change of shape."""
        self._per_step = flops_per_step

    def step(self, n: int = 1) -> None:
        """``n`` steps were trained (also those of a trial that is undone later: they were computed)."""
        if self._per_step is None:
            raise RuntimeError("no segment has begun; call segment(flops_per_step) first")
        self.total += n * self._per_step

    def state_dict(self) -> dict[str, int | None]:
        return {"total": self.total, "per_step": self._per_step}

    def load_state_dict(self, state: dict[str, int | None]) -> None:
        self.total, self._per_step = state["total"] or 0, state["per_step"]


def _count(run: Callable[[nn.Module, Split], None], model: nn.Module, batch: Split) -> FlopCount:
    with FlopCounterMode(display=False, custom_mapping=FORMULAS) as counter:
        run(model, batch)
    by_operator = {str(op): int(n) for op, n in counter.get_flop_counts().get("Global", {}).items() if n}
    return FlopCount(sum(by_operator.values()), by_operator)
