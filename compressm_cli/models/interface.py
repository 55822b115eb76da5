"""What a model promises to the trainer, to checkpoints and to reports."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor, nn

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


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """The children of the module called ``blocks``, by name, which ``train.parallel: fsdp`` gathers one at a time.

    Empty where a model has no such module: it is gathered whole.
    """
    blocks = getattr(model, "blocks", None)
    children = blocks.named_children() if isinstance(blocks, nn.Module) else ()
    return {f"blocks.{name}": block for name, block in children}
