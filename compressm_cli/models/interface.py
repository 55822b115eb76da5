"""What a model promises to the trainer, to checkpoints and to reports."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

from compressm_cli.layers.state import State

if TYPE_CHECKING:  # a loop of one's own needs no recipes
    from compressm_cli.models.config import ModelConfig


class Model(nn.Module, ABC):
    """What a recipe's ``model:`` builds: one forward pass from inputs to a score for each class.

    To add one: subclass, declare ``Config``, and name it in ``models.MODELS``. What can be cut of it its modules
    declare with ``axes()``; its sizes at any time must follow from the configuration's and those of its axes.
    """

    Config: ClassVar[type["ModelConfig"]]

    @classmethod
    @abstractmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "Model":
        """A fresh model for a data set's ``DataSpec``, from torch's random state and of torch's default device.

        ``orders`` gives state space layers, by module name, the shapes that a cut to another state dimension leaves.
        """

    @abstractmethod
    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (batch, length, features) or tokens (batch, length); lengths (batch,) where the ends are padding.

        Returns scores (batch, classes), or (batch, length, classes) where each step has a label (``per_step``).
        """

    @property
    def step_obstacle(self) -> str | None:
        """Why it cannot be evaluated one time step at a time; None where ``step`` and ``prefill`` do it."""
        return f"{type(self).__name__} has no step by step form"

    @property
    def start_obstacle(self) -> str | None:
        """Why ``initial_state`` knows no state; None where it does. Some models can only begin with ``prefill``."""
        return self.step_obstacle

    @property
    def longest(self) -> int | None:
        """Steps that a sequence may have; None where there is no bound."""
        return None

    def initial_state(self, batch: int) -> State:
        """What it keeps between two time steps, before the first one, for so many rows.

        Raises ValueError where there is a ``start_obstacle``.
        """
        raise ValueError(str(self.start_obstacle))

    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores (batch, classes) after one more time step, and the state after it.

        inputs (batch, features) or tokens (batch,). ``state``, that of the step before, is used up. The scores are what
        ``forward`` gives for this step, or for the whole sequence so far where only that has a label. Without
        gradients. Raises ValueError where there is a ``step_obstacle``, in training mode where that would give other
        scores, and for inputs or a state that do not fit.
        """
        raise ValueError(str(self.step_obstacle))

    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Scores (batch, classes) at the last real step of each row, and the state after it, for ``step`` to go on.

        inputs and lengths as of ``forward``, of each row at least one step. Raises ValueError as ``step``.
        """
        raise ValueError(str(self.step_obstacle))


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The children of the module called ``blocks``, by name, which ``train.parallel: fsdp`` gathers one at a time.

    Empty where a model has no such module: it is gathered whole.
    """
    blocks = getattr(model, "blocks", None)
    children = blocks.named_children() if isinstance(blocks, nn.Module) else ()
    return {f"blocks.{name}": block for name, block in children}
