"""A model: ``model: {kind: pooled, neurons: 32}``."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from compressm_cli import Axis, Model, ModelConfig, Slot
from compressm_cli.core.errors import BadInputError


class PooledConfig(ModelConfig):
    """``model: {kind: pooled}``: the mean over time of some neurons, and a linear map to the classes."""

    kind: Literal["pooled"] = "pooled"
    neurons: Annotated[int, Field(ge=1, le=65536)] = 32
    """Neurons at the start; a method may cut some."""


class Pooled(Model):
    """``head(mean over time of GELU(up(x)))``; every real step counts, padding does not."""

    Config = PooledConfig

    def __init__(self, features: int, neurons: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(features, neurons)
        self.head = nn.Linear(neurons, outputs)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "Pooled":
        """Raises BadInputError for data that it cannot take."""
        if data.features is None or data.per_step:
            raise BadInputError("model.kind: pooled takes real features and gives one label a sequence")
        return cls(data.features, config.neurons, data.outputs)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """(batch, length, features) -> (batch, outputs)."""
        hidden = nn.functional.gelu(self.up(inputs))
        if lengths is None:
            return self.head(hidden.mean(dim=1))
        real = torch.arange(hidden.shape[1], device=hidden.device) < lengths[:, None]
        return self.head((hidden * real[..., None]).sum(dim=1) / lengths[:, None])

    def axes(self) -> Iterator[Axis]:
        """The neurons: a row of ``up`` and a column of ``head`` each."""
        slots = (Slot("up.weight", 0), Slot("up.bias", 0), Slot("head.weight", 1, role="out"))
        yield Axis(":neurons", "neuron", len(self.up.bias), slots, "")
