"""A layer: ``model: {layer: {kind: damped, damping: 0.5}}``."""

from typing import Annotated, Any, Literal

from pydantic import Field
from torch import Tensor

from compressm_cli.layers.lru import LRU, LRUConfig


class DampedConfig(LRUConfig):
    """``layer: {kind: damped}``: an LRU that sees its inputs smaller."""

    kind: Literal["damped"] = "damped"
    damping: Annotated[float, Field(gt=0.0, le=1.0)] = 0.5
    """Factor on the inputs."""


class Damped(LRU):
    """The LRU of ``damping * u``. A layer of one's own kind subclasses TimeInvariantLayer or SelectiveLayer."""

    Config = DampedConfig

    def __init__(self, config: Any, model_dim: int, state_dim: int) -> None:
        super().__init__(config, model_dim, state_dim)
        self.damping = config.damping

    def forward(self, u: Tensor) -> Tensor:
        return super().forward(self.damping * u)

    def system_inputs(self, u: Tensor) -> list[Tensor]:
        return super().system_inputs(self.damping * u)
