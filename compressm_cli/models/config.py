"""What a recipe says of a model, whichever it is."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal, Self

import torch

from compressm_cli.core.config import Config


class ModelConfig(Config):
    """The part of a recipe that all models share (``model:``)."""

    looks_ahead: ClassVar[bool] = False
    """Whether it looks at the steps after one, too, to say something of it."""
    reads: ClassVar[Literal["sequences", "images"] | None] = "sequences"
    """What a row of its inputs is (``DataSpec.reads``); None where it may be either."""

    kind: str

    def state_dims(self) -> list[int]:
        """The number of states of each state space layer, in the model's order; empty where there are none."""
        return []

    def with_state_dims(self, dims: Sequence[int]) -> Self:
        """The same with other numbers of states; ValueError where there are not so many layers."""
        if len(dims):
            raise ValueError(f"a model of kind {self.kind!r} has no state space layers, not {len(dims)}")
        return self

    def with_blocks(self, count: int) -> Self:
        """The same for a model that has grown to so many ``blocks``; itself where it has no more, or cannot grow.

        Raises ValueError where there are more than there may be.
        """
        return self

    def located(self, folder: Path) -> Self:
        """The same with relative paths made absolute: they start at ``folder``."""
        return self

    def places(self) -> dict[str, str]:
        """The user's files and folders that are read, by key."""
        return {}

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError, with what to write, where the model cannot run as it is asked to on a device."""

    def tied_weights(self) -> dict[str, str]:
        """Names of parameters that are another one of the model as well, with the name of that."""
        return {}

    def least_parameters(self, ends: int) -> int:
        """A number of parameters that the model has at least; ``ends``: features or tokens, and classes, if known."""
        return 0
