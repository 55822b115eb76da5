"""The stack of state space blocks that classifies sequences or their steps."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.layers import LAYERS
from compressm_cli.layers.channel_norm import ChannelNorm
from compressm_cli.layers.interface import StateSpaceLayer
from compressm_cli.ops.batch_norm import batch_norm
from compressm_cli.ops.gated import gated_residual

MOMENTUM = 0.1
"""What the statistics of a batch weigh in the running ones."""


class SequenceNorm(nn.Module):
    """Normalization of (batch, length, H) over batch and time, without affine parameters."""

    processes: int = 1
    """How many processes pass the rows of a batch: their statistics are one. Set by the trainer, not saved."""

    def __init__(self, model_dim: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(model_dim, momentum=MOMENTUM, affine=False)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """real (batch, length), the steps that count, where rows are padded."""
        norm = self.norm
        if not self.training or (real is None and self.processes == 1):
            return norm(x.flatten(0, 1)).view_as(x)
        y, mean, variance = batch_norm(x, real, norm.eps, self.processes)
        with torch.no_grad():
            norm.get_buffer("num_batches_tracked").add_(1)
            norm.get_buffer("running_mean").lerp_(mean, MOMENTUM)
            norm.get_buffer("running_var").lerp_(variance, MOMENTUM)
        return y


def pool_statistics(model: nn.Module, processes: int) -> None:
    """Let batch normalization count the rows that so many processes pass through the model at once, in training."""
    for module in model.modules():
        if isinstance(module, SequenceNorm | ChannelNorm):
            module.processes = processes


def build_norm(kind: str, model_dim: int) -> nn.Module:
    """The normalization that a recipe names: layer, rms, batch or none."""
    norms: dict[str, Callable[[int], nn.Module]] = {
        "layer": nn.LayerNorm,
        "rms": lambda width: nn.RMSNorm(width, eps=1e-5),
        "batch": SequenceNorm,
        "none": lambda _: nn.Identity(),
    }
    return norms[kind](model_dim)


def _normalized(norm: nn.Module, x: Tensor, real: Tensor | None) -> Tensor:
    """All but batch normalization look at each step by itself."""
    y: Tensor = norm(x, real) if isinstance(norm, SequenceNorm) else norm(x)
    return y


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

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); real (batch, length), where rows are padded, the steps that are not padding."""
        y = self.layer(_normalized(self.norm, x, real))
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

        The layers are causal, so padding at the end changes nothing but means over time: those of batch normalization
        and the last one, which leave it out.
        """
        x = self.encoder(inputs)
        real = None
        if lengths is not None:
            real = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        for block in self.blocks:
            x = block(x, real)
        x = _normalized(self.norm, x, real)
        if self.per_step:
            return self.head(x)
        if real is None:
            return self.head(x.mean(dim=1))
        # In float32 at least: in bfloat16 a length above 256 is rounded.
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.where(real[..., None], 0.0).sum(dim=1, dtype=wide)
        return self.head((total / real.sum(dim=1, keepdim=True)).to(x.dtype))


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
    head = nn.Linear(width, data.outputs, bias=not data.per_step)
    if config.tie_embeddings:
        if not data.per_step or data.vocabulary != data.classes:
            raise BadInputError(
                "model.tie_embeddings is true, but the task does not predict the tokens it reads; write false"
            )
        head.weight = encoder.weight
    return SequenceModel(encoder, blocks, norm, head, data.per_step)
