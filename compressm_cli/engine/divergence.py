"""What happens when training is no longer finite: the run ends, or goes back to its last good checkpoint."""

import math
from typing import Any

import torch
from torch import nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from compressm_cli.core.errors import RunFailedError
from compressm_cli.data.interface import Split
from compressm_cli.engine.distributed.agreement import gathered, in_any, own_part, state_tensors
from compressm_cli.recipe.schema import RollBackConfig, StopConfig

ADVICE = "try a lower train.learning_rate or set train.clip_norm (1.0 is usual)"
VALUES_AT_ONCE = 2**18


class DivergedError(RunFailedError):
    """A loss, a weight or a moment of the optimizer is no longer finite.

    Undone within a trial; elsewhere the run goes back or ends, as the recipe says.
    """


@torch.no_grad()
def require_finite(model: nn.Module, optimizer: Optimizer, step: int) -> None:
    """DivergedError where a parameter, a buffer or a moment of the optimizer is not finite; names the first.

    A gradient that was not finite stays in the moments for good, so nothing need be looked at in each step.
    """
    tensors = {
        name: tensor
        for name, tensor in state_tensors(model, optimizer)
        if tensor.is_floating_point() and tensor.numel()
    }
    # Of a small tensor a process may have no entry at all.
    here = [part for part in map(own_part, tensors.values()) if part.numel()]
    # One number, so that a GPU is waited for once.
    bad_here = ~get_total_norm(here, norm_type=math.inf).isfinite()
    if not bool(in_any(bad_here, tensors.values())):
        return
    bad = next(name for name, tensor in tensors.items() if not gathered(tensor).isfinite().all())
    raise DivergedError(f"{bad} is not finite after step {step}")


class Rollbacks:
    """How often a run went back to an earlier step, and what follows from it for its learning rate."""

    def __init__(self, config: StopConfig | RollBackConfig) -> None:
        self._config = config
        self.made: list[dict[str, Any]] = []
        """``from_step``, ``to_step``, ``learning_rate_factor`` since then, and ``reason``; part of a checkpoint."""

    @property
    def is_enabled(self) -> bool:
        """Whether the recipe asks to go back at all."""
        return isinstance(self._config, RollBackConfig)

    @property
    def left(self) -> int:
        """How often the run may still go back."""
        if isinstance(self._config, StopConfig):
            return 0
        return max(0, self._config.max_rollbacks - len(self.made))

    @property
    def factor(self) -> float:
        """On the learning rate from now on."""
        if isinstance(self._config, StopConfig):
            return 1.0
        return float(self._config.lr_factor ** len(self.made))

    def add(self, from_step: int, to_step: int, reason: str) -> None:
        """The run has gone back; the learning rate is lower from here on."""
        self.made.append({"from_step": from_step, "to_step": to_step, "reason": reason})
        self.made[-1]["learning_rate_factor"] = self.factor

    def message(self) -> str:
        """The latest one in a line."""
        last = self.made[-1]
        return (
            f"warning: {last['reason']}; rolled back from step {last['from_step']} to {last['to_step']}, learning "
            f"rate x {last['learning_rate_factor']:g} from here on ({self.left} more rollbacks are allowed)"
        )

    def final_error(self, error: DivergedError, data: Split, where: Any) -> DivergedError:
        """What ends a run that may not go back (again): what happened, what to try, and what is left."""
        count = len(self.made)
        earlier = f", after {count} rollback{'s' if count > 1 else ''} (train.on_divergence)" if count else ""
        bad = rows_not_finite(data)
        advice = ADVICE
        if bad:
            advice = f"{bad} of {len(data)} training rows hold values that are not finite: mend the data"
        return DivergedError(f"{error}{earlier}; {advice}. The last good checkpoints are in {where}")


def rows_not_finite(split: Split) -> int:
    """How many rows have an input that is infinite or not a number; tokens are none."""
    if not split.inputs.is_floating_point():
        return 0
    parts = split.padded.parts(VALUES_AT_ONCE)
    return sum(int((~part.isfinite()).flatten(1).any(1).sum()) for part in parts)
