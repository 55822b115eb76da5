"""What decoders and encoders have in common: attention, feed-forward layers, and what recipes say of both."""

import math
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import nn

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.layers.attention import Attention
from compressm_cli.layers.cross_attention import CrossAttention
from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
from compressm_cli.layers.residual import Residual
from compressm_cli.models.blocks import MOST_BLOCKS
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.embedding import Positioned, build_encoder
from compressm_cli.models.norms import build_norm

EMBEDDING_STD = 0.02
"""Standard deviation of fresh embeddings and positions, as in GPT-2 and Llama."""
NEURONS_ROUNDED = 8
"""To a multiple of which the number of SwiGLU's neurons is rounded up."""


class AttentionConfig(Config):
    """``{kind: attention}`` among ``model.layers``: causal attention, with the model's positions."""

    kind: Literal["attention"] = "attention"
    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Number of heads, each with queries of its own."""
    kv_heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Number of heads of keys and values, which equally many heads share each; as many as ``heads`` by default."""
    head_dim: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Length of a query; model_dim / heads by default."""

    def check_width(self, model_dim: int) -> None:
        """ValueError, with what to write, where it cannot have this ``model_dim``."""
        if self.head_dim is None and model_dim % self.heads:
            raise ValueError(f"heads ({self.heads}) must divide model_dim ({model_dim}), or give head_dim")
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(f"kv_heads ({self.kv_heads}) must divide heads ({self.heads})")

    def dim(self, model_dim: int) -> int:
        """The length of a query."""
        return model_dim // self.heads if self.head_dim is None else self.head_dim


class TransformerConfig(ModelConfig):
    """The part of a recipe that decoders and encoders share."""

    model_dim: Annotated[int, Field(ge=1, le=65536)] = 64
    """Width H of the residual stream."""
    feed_forward: Literal["swiglu", "gelu", "gelu_tanh", "none"] = "swiglu"
    """What follows the layer of each block. ``gelu_tanh`` is GPT-2's approximation of GELU."""
    neurons: Annotated[int, Field(ge=1, le=2**20)] | None = None
    """Of each feed-forward layer; by default 4 H, of ``swiglu``, which has a third matrix, 8/3 H, a multiple of 8."""
    bias: bool = False
    """Whether the linear maps of attention and feed-forward layers have biases."""
    positions: Literal["rope", "learned", "none"] = "rope"
    """How attention knows the order of steps: ``rope`` rotates queries and keys, ``learned`` adds a vector to each
    step. State space layers know it by themselves."""
    rope_base: Annotated[float, Field(gt=1.0)] = 10000.0
    """Of the frequencies of ``rope``."""
    context: Annotated[int, Field(ge=1, le=2**24)] | None = None
    """Number of ``learned`` positions; as many as the longest sequence of the data has steps by default."""
    norm: Literal["rms", "layer"] = "rms"
    """Normalization before each layer, and at the end."""
    norm_epsilon: Annotated[float, Field(gt=0.0, le=1.0)] = 1e-5
    """What is added to the mean square, or the variance, before its root is taken."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Probability, of what a layer adds to the residual stream."""

    @model_validator(mode="after")
    def _a_use_of_context(self) -> "TransformerConfig":
        if self.context is not None and self.positions != "learned":
            raise ValueError(
                "context is the number of learned positions; write positions: learned, or leave it out"
            )
        if self.neurons is not None and self.feed_forward == "none":
            raise ValueError(
                "neurons are those of a feed-forward layer; with feed_forward: none, leave them out"
            )
        return self

    def require_pairs(self, layer: AttentionConfig) -> None:
        """ValueError, with what to write, where an attention layer cannot have the model's positions."""
        dim = layer.dim(self.model_dim)
        if self.positions == "rope" and dim % 2:
            raise ValueError(
                f"rope rotates pairs, and queries of length {dim} are not made of them; write an even head_dim"
            )

    def width_of_feed_forward(self) -> int:
        """The number of neurons; 0 without a feed-forward layer."""
        if self.feed_forward == "none":
            return 0
        if self.neurons is not None:
            return self.neurons
        if self.feed_forward != "swiglu":
            return 4 * self.model_dim
        return math.ceil(8 * self.model_dim / 3 / NEURONS_ROUNDED) * NEURONS_ROUNDED

    def parameters_of(self, layer: "AttentionConfig") -> int:
        """Of the matrices of an attention layer, divided by ``model_dim``."""
        return 2 * (layer.heads + (layer.kv_heads or layer.heads)) * layer.dim(self.model_dim)

    def parameters_of_feed_forward(self) -> int:
        """Of its matrices, divided by ``model_dim``."""
        return (3 if self.feed_forward == "swiglu" else 2) * self.width_of_feed_forward()


class AlikeConfig(TransformerConfig):
    """The part of a recipe that models share whose blocks all attend alike."""

    heads: Annotated[int, Field(ge=1, le=4096)] = 4
    """Number of heads, each with queries of its own."""
    kv_heads: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Number of heads of keys and values, which equally many heads share each; as many as ``heads`` by default."""
    head_dim: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Length of a query; model_dim / heads by default."""
    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] = 2
    """Number of blocks."""

    @model_validator(mode="after")
    def _fitting_heads(self) -> "AlikeConfig":
        self.attention.check_width(self.model_dim)
        self.require_pairs(self.attention)
        return self

    @property
    def attention(self) -> AttentionConfig:
        """That of each block."""
        return AttentionConfig(heads=self.heads, kv_heads=self.kv_heads, head_dim=self.head_dim)

    def with_blocks(self, count: int) -> Self:
        if count <= self.depth:
            return self
        if count > MOST_BLOCKS:
            raise ValueError(f"there are {count} blocks; at most {MOST_BLOCKS}")
        return self.model_copy(update={"depth": count})


def build_input(config: TransformerConfig, data: Any) -> tuple[nn.Module, nn.Embedding | nn.Linear]:
    """What makes the first vectors, with learned positions where a recipe asks for them, and the part that knows none.

    BadInputError where sequences are longer than ``context``.
    """
    width = config.model_dim
    embedding = build_encoder(width, data)
    if isinstance(embedding, nn.Embedding):
        nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
    if config.positions != "learned":
        return embedding, embedding
    context = data.length if config.context is None else config.context
    if data.length > context:
        raise BadInputError(
            f"model.context is {context}, and sequences have up to {data.length} steps; write "
            f"{data.length} or more"
        )
    positioned = Positioned(embedding, context, width)
    nn.init.normal_(positioned.positions.weight, std=EMBEDDING_STD)
    return positioned, embedding


def build_attention(
    config: TransformerConfig, layer: AttentionConfig, depth: int, causal: bool, norm_first: bool = True
) -> Residual:
    """Attention with its norm and its residual, of a model of so many blocks."""
    attention = Attention(
        config.model_dim,
        layer.heads,
        kv_heads=layer.kv_heads,
        head_dim=layer.head_dim,
        causal=causal,
        bias=config.bias,
        rope_base=config.rope_base if config.positions == "rope" else None,
    )
    _shrink(attention.o, depth)
    return Residual(norm_of(config), attention, config.dropout, norm_first)


def build_cross_attention(config: TransformerConfig, layer: AttentionConfig, depth: int) -> Residual:
    """Attention to another sequence with its norm and its residual, of a model of so many blocks."""
    attention = CrossAttention(
        config.model_dim, layer.heads, kv_heads=layer.kv_heads, head_dim=layer.head_dim, bias=config.bias
    )
    _shrink(attention.o, depth)
    return Residual(norm_of(config), attention, config.dropout)


def build_feed_forward(config: TransformerConfig, depth: int, norm_first: bool = True) -> Residual | None:
    """The feed-forward layer with its norm and its residual; None where a recipe asks for none."""
    neurons, width = config.width_of_feed_forward(), config.model_dim
    if not neurons:
        return None
    inner: SwiGLU | FeedForward
    if config.feed_forward == "swiglu":
        inner = SwiGLU(width, neurons, bias=config.bias)
    else:
        approximate: Literal["none", "tanh"] = "tanh" if config.feed_forward == "gelu_tanh" else "none"
        inner = FeedForward(width, neurons, bias=config.bias, approximate=approximate)
    _shrink(inner.down, depth)
    return Residual(norm_of(config), inner, config.dropout, norm_first)


def norm_of(config: TransformerConfig) -> nn.Module:
    """A fresh normalization."""
    return build_norm(config.norm, config.model_dim, config.norm_epsilon)


@torch.no_grad()
def _shrink(out: nn.Linear, depth: int) -> None:
    """Divide a fresh output matrix by the root of how many add to the residual stream (Radford et al. 2019, GPT-2)."""
    out.weight.div_(math.sqrt(2 * depth))
