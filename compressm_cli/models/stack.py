"""The stack of state space blocks that classifies sequences or their steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.errors import BadInputError
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
    """The normalization that a recipe names: layer, rms, batch or none."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "layer": nn.LayerNorm,
        "rms": lambda width: nn.RMSNorm(width, eps=1e-5),
        "batch": SequenceNorm,
        "none": lambda _: nn.Identity(),
    }
    return norms[kind](model_dim)


class Block(nn.Module):
    """x + dropout(GLU(dropout(GELU(layer(norm(x)))))), as in Orvieto et al. 2023, figure 1.

    Of a layer that is gated itself, as Mamba is, it is x + dropout(layer(norm(x))).
    """

    def __init__(self, layer: StateSpaceLayer, model_dim: int, dropout: float, norm: str) -> None:
        super().__init__()
        self.norm = build_norm(norm, model_dim)
        self.layer = layer
        self.mix = None if layer.gated else nn.Linear(model_dim, 2 * model_dim)
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(self.norm(x))
        if self.mix is None:
            return x + nn.functional.dropout(y, self.dropout, self.training)
        return gated_residual(x, y, self.mix.weight, self.mix.bias, self.dropout, self.training)


class SequenceModel(nn.Module):
    """Encoder or embedding, blocks, final normalization, head.

    Classifies sequences, ``(batch, length, ...) -> (batch, classes)`` by their mean over time, or steps,
    ``-> (batch, length, classes)``: a language model, where the classes are the next tokens.
    """

    def __init__(
        self, encoder: nn.Module, blocks: list[Block], norm: nn.Module, head: nn.Linear, per_step: bool
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.per_step = per_step

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (batch, length, features) or tokens (batch, length); lengths (batch,) where rows are padded.

        The layers are causal, so padding at the end changes nothing but the mean, which leaves it out.
        """
        x = self.encoder(inputs)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        if self.per_step:
            return self.head(x)
        if lengths is None:
            return self.head(x.mean(dim=1))
        steps = torch.arange(x.shape[1], device=x.device)
        inside = (steps < lengths[:, None]).to(x.dtype)[..., None]
        return self.head((x * inside).sum(dim=1) / lengths[:, None].to(x.dtype))


def build_model(config: Any, data: Any, orders: dict[str, int] | None = None) -> SequenceModel:
    """The model of a recipe's ``model:`` for a data set's ``DataSpec``, with fresh weights.

    ``orders`` gives layers, by module name, the shapes that a cut to another state dimension leaves.
    Raises BadInputError for tied embeddings where inputs and classes are not the same tokens.
    """
    width = config.model_dim
    tokens = data.vocabulary is not None
    encoder = nn.Embedding(data.vocabulary, width) if tokens else nn.Linear(data.features, width)
    blocks = []
    for i, state_dim in enumerate(config.state_dims()):
        order = (orders or {}).get(f"blocks.{i}.layer", state_dim)
        layer = LAYERS[config.layer.kind].of_order(config.layer, width, state_dim, order)
        blocks.append(Block(layer, width, config.dropout, config.norm))
    norm = build_norm(config.norm if config.final_norm else "none", width)
    head = nn.Linear(width, data.classes, bias=not data.per_step)
    if config.tie_embeddings:
        if not data.per_step or data.vocabulary != data.classes:
            raise BadInputError(
                "model.tie_embeddings is true, but the task does not predict the tokens it reads; write false"
            )
        head.weight = encoder.weight
    return SequenceModel(encoder, blocks, norm, head, data.per_step)
