"""What a recipe says of a state space layer, whatever its kind."""

from typing import Annotated

import torch
from pydantic import Field

from compressm_cli.core.config import Config

StateDim = Annotated[int, Field(ge=1, le=65536)]


class LayerConfig(Config):
    """The part of a recipe that all layers share."""

    kind: str
    state_dim: StateDim | Annotated[list[StateDim], Field(min_length=1)] = 64
    """Number of states N of each block; a list gives one number a block."""

    def check_device(self, device: torch.device) -> None:
        """Raise ValueError, with what to write, where the layer cannot run as it is asked to on a device."""

    def check_width(self, model_dim: int) -> None:
        """Raise ValueError, with what to write, where the layer cannot have this ``model_dim``."""
