"""The stack of state space blocks that classifies a sequence."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.layers import LAYERS
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.ops.gated import gated_residual


class SequenceNorm(nn.Module):
    """Normalization of (batch, length, H) over batch and time, without affine parameters."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(model_dim, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.flatten(0, 1)).view_as(x)


def build_norm(kind: str, model_dim: int) -> nn.Module:
    """The normalization that a recipe names: layer, batch or none."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "layer": nn.LayerNorm,
        "batch": SequenceNorm,
        "none": lambda _: nn.Identity(),
    }
    return norms[kind](model_dim)


class Block(nn.Module):
    """x + dropout(GLU(dropout(GELU(layer(norm(x)))))), as in Orvieto et al. 2023, figure 1."""

    def __init__(self, layer: StateSpaceLayer, model_dim: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.norm = build_norm(norm, model_dim)
        self.layer = layer
        self.mix = nn.Linear(model_dim, 2 * model_dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.norm(x))
        return gated_residual(x, y, self.mix.weight, self.mix.bias, self.dropout, self.training)


class SequenceClassifier(nn.Module):
    """Encoder or embedding, blocks, mean over time, linear head: (batch, length, ...) -> (batch, classes)."""

    def __init__(self, encoder: nn.Module, blocks: list[Block], model_dim: int, classes: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.head = nn.Linear(model_dim, classes)

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (batch, length, features) or tokens (batch, length); lengths (batch,) where rows are padded.

        The layers are causal, so padding at the end changes nothing but the mean, which leaves it out.
        """
        x = self.encoder(inputs)
        for block in self.blocks:
            x = block(x)
        if lengths is None:
            return self.head(x.mean(dim=1))
        steps = torch.arange(x.shape[1], device=x.device)
        inside = (steps < lengths[:, None]).to(x.dtype)[..., None]
        return self.head((x * inside).sum(dim=1) / lengths[:, None].to(x.dtype))


def build_model(config: Any, data: Any, orders: dict[str, int] | None = None) -> SequenceClassifier:
    """The model of a recipe's ``model:`` for a data set's ``DataSpec``, with fresh weights.

    ``orders`` gives layers, by module name, another state dimension than the recipe's.
    """
    width = config.model_dim
    if data.vocabulary is not None:
        encoder: nn.Module = nn.Embedding(data.vocabulary, width)
    else:
        encoder = nn.Linear(data.features, width)
    blocks = []
    for i, state_dim in enumerate(config.state_dims()):
        order = (orders or {}).get(f"blocks.{i}.layer", state_dim)
        layer = LAYERS[config.layer.kind](config.layer, width, order)
        blocks.append(Block(layer, width, config.dropout, config.norm))
    return SequenceClassifier(encoder, blocks, width, data.classes)
