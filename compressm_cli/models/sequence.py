"""The stack of state space blocks that classifies sequences or their steps."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from compressm_cli.core.registry import OneOf
from compressm_cli.layers import LAYERS
from compressm_cli.models.block import Block
from compressm_cli.models.blocks import MOST_BLOCKS
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.embedding import build_encoder
from compressm_cli.models.norms import build_norm
from compressm_cli.models.stack import Stack, tied


class SequenceConfig(ModelConfig):
    """A stack of blocks: normalization, layer, GELU, GLU, dropout, residual; then mean pooling and a head.

    Layers with a gate of their own (Mamba, gated linear attention) go without GELU and GLU; tasks with a label
    a step, such as language modelling, without pooling.
    """

    kind: Literal["sequence"] = "sequence"
    layer: Annotated[Any, OneOf(LAYERS)]
    """The state space layer of each block."""
    model_dim: Annotated[int, Field(ge=1, le=65536)] = 64
    """Width H of the residual stream."""
    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 1
    """Number of blocks."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability, after the activation and after the gate."""
    norm: Literal["layer", "rms", "batch", "none"] = "layer"
    """Normalization before each layer. ``batch`` has no affine parameters, as in the paper's code; its statistics are
    those of the steps, without padding, that all processes pass through the model at once."""
    norm_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-5
    """What is added to the variance, or the mean square, before its root is taken."""
    final_norm: bool = False
    """The same normalization once more, after the last block."""
    tie_embeddings: bool = False
    """Use the embedding as the head as well; only of tasks that predict a token at each step."""

    @model_validator(mode="after")
    def _a_state_dim_a_block(self) -> "SequenceConfig":
        dims = self.layer.state_dim
        if isinstance(dims, list) and len(dims) != self.depth:
            raise ValueError(
                f"layer.state_dim lists {len(dims)} numbers for {self.depth} blocks; "
                f"write one number, or {self.depth}"
            )
        return self

    @model_validator(mode="after")
    def _a_fitting_width(self) -> "SequenceConfig":
        self.layer.check_width(self.model_dim)
        return self

    def state_dims(self) -> list[int]:
        """The number of states of each block."""
        dims = self.layer.state_dim
        return list(dims) if isinstance(dims, list) else [dims] * self.depth

    def with_state_dims(self, dims: Sequence[int]) -> Self:
        if len(dims) != self.depth:
            raise ValueError(f"orders are given for {len(dims)} layers, and the recipe has {self.depth}")
        return self.model_copy(update={"layer": self.layer.model_copy(update={"state_dim": list(dims)})})

    def with_blocks(self, count: int) -> Self:
        """Those that it grew are like the last one."""
        if count <= self.depth:
            return self
        if count > MOST_BLOCKS:
            raise ValueError(f"there are {count} blocks; at most {MOST_BLOCKS}")
        dims = self.state_dims()
        layer = self.layer.model_copy(update={"state_dim": dims + dims[-1:] * (count - self.depth)})
        return self.model_copy(update={"depth": count, "layer": layer})

    def check_device(self, device: torch.device) -> None:
        self.layer.check_device(device)

    def tied_weights(self) -> dict[str, str]:
        return {"head.weight": "encoder.weight"} if self.tie_embeddings else {}

    def least_parameters(self, ends: int) -> int:
        """Each block has two square matrices of its width at least, and one of its width by its states."""
        dims = self.state_dims()
        return self.model_dim * (2 * self.model_dim * len(dims) + sum(dims) + ends)


class SequenceModel(Stack):
    """Encoder or embedding, blocks of state space layers, final normalization, head."""

    Config = SequenceConfig

    @classmethod
    def last_block(cls, config: Any) -> Block:
        start = config.state_dims()[-1]
        return _block(config, start, start)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "SequenceModel":
        """Raises BadInputError for tied embeddings where inputs and classes are not the same tokens."""
        width = config.model_dim
        encoder = build_encoder(width, data)
        known, starts = orders or {}, config.state_dims()
        blocks = [_block(config, n, known.get(f"blocks.{i}.layer", n)) for i, n in enumerate(starts)]
        norm = build_norm(config.norm if config.final_norm else "none", width, config.norm_epsilon)
        head = nn.Linear(width, data.outputs, bias=not data.per_step)
        if config.tie_embeddings:
            tied(head, encoder, data)
        model = cls(encoder, blocks, norm, head, data.per_step)
        model.grow_as(config)
        return model


def _block(config: Any, start: int, order: int) -> Block:
    """A block of a recipe's ``model:``, of the shapes that one of ``start`` states has after a cut to ``order``."""
    layer = LAYERS[config.layer.kind].of_order(config.layer, config.model_dim, start, order)
    norm = build_norm(config.norm, config.model_dim, config.norm_epsilon)
    return Block(layer, norm, config.model_dim, config.dropout)
