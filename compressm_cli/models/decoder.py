"""Decoders: blocks of attention or of a state space layer, each with a feed-forward layer; causal."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.core.config import Config
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.registry import OneOf
from compressm_cli.layers import LAYERS
from compressm_cli.layers.attention import Attention
from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
from compressm_cli.layers.residual import Residual
from compressm_cli.layers.state import State
from compressm_cli.models.block import Block
from compressm_cli.models.config import ModelConfig
from compressm_cli.models.encoder import Positioned, build_encoder
from compressm_cli.models.norms import build_norm
from compressm_cli.models.stack import MOST_BLOCKS, Stack, tied

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


class DecoderConfig(ModelConfig):
    """A causal Transformer, or a hybrid of attention and state space layers (``model: {kind: decoder}``).

    Each block is ``x + layer(norm(x))``, then ``x + feed_forward(norm(x))``. A state space layer that has no gate of
    its own is followed by GELU and GLU, as in ``kind: sequence``. At the end there is the normalization once more.
    """

    kind: Literal["decoder"] = "decoder"
    layers: Annotated[
        list[Annotated[Any, OneOf(LAYERS, {"attention": AttentionConfig}, by_name=True)]],
        Field(min_length=1, max_length=MOST_BLOCKS),
    ] = [AttentionConfig()]
    """What is in each block: ``attention`` or a state space layer, by name or as a mapping with its settings. With more
    blocks than entries, the list is gone through again."""
    model_dim: Annotated[int, Field(ge=1, le=65536)] = 64
    """Width H of the residual stream."""
    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] | None = None
    """Number of blocks; as many as ``layers`` has entries by default."""
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
    tie_embeddings: bool = False
    """Use the embedding as the head as well; only of tasks that predict a token at each step."""

    @model_validator(mode="after")
    def _fitting_layers(self) -> "DecoderConfig":
        for number, layer in enumerate(self.layers):
            try:
                layer.check_width(self.model_dim)
                if isinstance(layer, AttentionConfig):
                    self._require_pairs(layer)
                elif isinstance(layer.state_dim, list):
                    raise ValueError(
                        "state_dim is one number here; write the layers of several sizes one by one"
                    )
            except ValueError as error:
                raise ValueError(f"layers[{number}]: {error}") from error
        return self

    @model_validator(mode="after")
    def _a_use_of_context(self) -> "DecoderConfig":
        if self.context is not None and self.positions != "learned":
            raise ValueError(
                "context is the number of learned positions; write positions: learned, or leave it out"
            )
        if self.neurons is not None and self.feed_forward == "none":
            raise ValueError(
                "neurons are those of a feed-forward layer; with feed_forward: none, leave them out"
            )
        return self

    def _require_pairs(self, layer: AttentionConfig) -> None:
        dim = layer.dim(self.model_dim)
        if self.positions == "rope" and dim % 2:
            raise ValueError(
                f"rope rotates pairs, and queries of length {dim} are not made of them; write an even head_dim"
            )

    def blocks(self) -> list[Any]:
        """The entry of ``layers`` of each block."""
        return list(islice(cycle(self.layers), self.depth or len(self.layers)))

    def width_of_feed_forward(self) -> int:
        """The number of neurons; 0 without a feed-forward layer."""
        if self.feed_forward == "none":
            return 0
        if self.neurons is not None:
            return self.neurons
        if self.feed_forward != "swiglu":
            return 4 * self.model_dim
        return math.ceil(8 * self.model_dim / 3 / NEURONS_ROUNDED) * NEURONS_ROUNDED

    def state_dims(self) -> list[int]:
        return [layer.state_dim for layer in self.blocks() if not isinstance(layer, AttentionConfig)]

    def with_state_dims(self, dims: Sequence[int]) -> Self:
        count = len(self.state_dims())
        if len(dims) != count:
            raise ValueError(f"orders are given for {len(dims)} layers, and the recipe has {count}")
        if not count:
            return self
        left = iter(dims)
        layers = [
            layer
            if isinstance(layer, AttentionConfig)
            else layer.model_copy(update={"state_dim": next(left)})
            for layer in self.blocks()
        ]
        return self.model_copy(update={"layers": layers, "depth": len(layers)})

    def with_blocks(self, count: int) -> Self:
        """Those that it grew are like the last one."""
        blocks = self.blocks()
        if count <= len(blocks):
            return self
        if count > MOST_BLOCKS:
            raise ValueError(f"there are {count} blocks; at most {MOST_BLOCKS}")
        layers = blocks + blocks[-1:] * (count - len(blocks))
        return self.model_copy(update={"layers": layers, "depth": count})

    def check_device(self, device: torch.device) -> None:
        for layer in self.blocks():
            if not isinstance(layer, AttentionConfig):
                layer.check_device(device)

    def tied_weights(self) -> dict[str, str]:
        place = "encoder.inner" if self.positions == "learned" else "encoder"
        return {"head.weight": f"{place}.weight"} if self.tie_embeddings else {}

    def least_parameters(self, ends: int) -> int:
        """Of each block the feed-forward layer, and the matrices of attention or of a state space layer's states."""
        width, matrices = self.model_dim, 3 if self.feed_forward == "swiglu" else 2
        count = ends + matrices * self.width_of_feed_forward() * len(self.blocks())
        for layer in self.blocks():
            if isinstance(layer, AttentionConfig):
                count += 2 * (layer.heads + (layer.kv_heads or layer.heads)) * layer.dim(width)
            else:
                count += 2 * width + layer.state_dim
        return width * count


class DecoderBlock(nn.Module):
    """A layer over time and a feed-forward layer, each with its norm and its residual; causal."""

    def __init__(self, mixer: Block | Residual, feed_forward: Residual | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); ``real`` (batch, length), the steps that are not padding, to which nothing looks."""
        x = self.mixer(x)
        return x if self.feed_forward is None else self.feed_forward(x)

    def initial_state(self, batch: int) -> State:
        """The states of its parts before the first time step."""
        return State({name: part.initial_state(batch) for name, part in self._parts()})

    @torch.no_grad()
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """x (batch, H) at one time step, and the state of the step before, which is used up."""
        parts = dict(self._parts())
        before, after = state.take_parts(list(parts)), {}
        for (name, part), own in zip(parts.items(), before, strict=True):
            x, after[name] = part.step(x, own)
        return x, State(after)

    @torch.no_grad()
    def prefill(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """``forward`` of x (batch, length, H), and the state after the last real step of each row."""
        after = {}
        for name, part in self._parts():
            x, after[name] = part.prefill(x, lengths)
        return x, State(after)

    def _parts(self) -> Iterator[tuple[str, Any]]:
        yield "mixer", self.mixer
        if self.feed_forward is not None:
            yield "feed_forward", self.feed_forward

    @property
    def silent(self) -> tuple[str, ...]:
        """The tensors by which it adds to the residual stream: with zeros there it adds nothing."""
        names: list[str] = []
        if isinstance(self.mixer, Block):
            names += [f"mixer.{name}" for name in self.mixer.silent]
        elif self.mixer.inner is not None:
            names += _of_output("mixer", self.mixer.inner, "o")
        if self.feed_forward is not None and self.feed_forward.inner is not None:
            names += _of_output("feed_forward", self.feed_forward.inner, "down")
        return tuple(names)


class Decoder(Stack):
    """A causal Transformer, or a hybrid: embedding, blocks, final normalization, head."""

    Config = DecoderConfig

    @classmethod
    def last_block(cls, config: Any) -> DecoderBlock:
        layer = config.blocks()[-1]
        return _block(config, layer, getattr(layer, "state_dim", 0))

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "Decoder":
        """Raises BadInputError for tied embeddings where inputs and classes are not the same tokens, and where
        sequences are longer than ``context``."""
        width, known = config.model_dim, orders or {}
        embedding = build_encoder(width, data)
        if isinstance(embedding, nn.Embedding):
            nn.init.normal_(embedding.weight, std=EMBEDDING_STD)
        encoder: nn.Module = embedding
        if config.positions == "learned":
            context = data.length if config.context is None else config.context
            if data.length > context:
                raise BadInputError(
                    f"model.context is {context}, and sequences have up to {data.length} steps; write "
                    f"{data.length} or more"
                )
            encoder = Positioned(embedding, context, width)
            nn.init.normal_(encoder.positions.weight, std=EMBEDDING_STD)
        blocks = []
        for i, layer in enumerate(config.blocks()):
            start = getattr(layer, "state_dim", 0)
            blocks.append(_block(config, layer, known.get(f"blocks.{i}.mixer.layer", start)))
        norm = build_norm(config.norm, width, config.norm_epsilon)
        head = nn.Linear(width, data.outputs, bias=not data.per_step)
        if config.tie_embeddings:
            tied(head, embedding, data)
        model = cls(encoder, blocks, norm, head, data.per_step)
        model.grow_as(config)
        return model


def _block(config: Any, layer: Any, order: int) -> DecoderBlock:
    """A block of a recipe's ``model:``, of the shapes that its state space layer has after a cut to ``order``."""

    def norm() -> nn.Module:
        return build_norm(config.norm, config.model_dim, config.norm_epsilon)

    mixer: Block | Residual
    if isinstance(layer, AttentionConfig):
        mixer = Residual(norm(), _attention(config, layer), config.dropout)
    else:
        kind = LAYERS[layer.kind]
        inner = kind.of_order(layer, config.model_dim, layer.state_dim, order)
        mixer = Block(inner, norm(), config.model_dim, config.dropout)
    neurons, width = config.width_of_feed_forward(), config.model_dim
    if not neurons:
        return DecoderBlock(mixer, None)
    feed_forward: nn.Module
    if config.feed_forward == "swiglu":
        feed_forward = SwiGLU(width, neurons, bias=config.bias)
    else:
        approximate: Any = "tanh" if config.feed_forward == "gelu_tanh" else "none"
        feed_forward = FeedForward(width, neurons, bias=config.bias, approximate=approximate)
    _shrink(feed_forward.get_submodule("down"), config)
    return DecoderBlock(mixer, Residual(norm(), feed_forward, config.dropout))


def _attention(config: Any, layer: AttentionConfig) -> Attention:
    attention = Attention(
        config.model_dim,
        layer.heads,
        kv_heads=layer.kv_heads,
        head_dim=layer.head_dim,
        bias=config.bias,
        rope_base=config.rope_base if config.positions == "rope" else None,
    )
    _shrink(attention.o, config)
    return attention


@torch.no_grad()
def _shrink(out: nn.Module, config: Any) -> None:
    """Divide a fresh output matrix by the root of how many add to the residual stream (Radford et al. 2019, GPT-2)."""
    out.get_parameter("weight").div_(math.sqrt(2 * len(config.blocks())))


def _of_output(place: str, inner: nn.Module, name: str) -> list[str]:
    linear = getattr(inner, name)
    return [
        f"{place}.inner.{name}.{leaf}" for leaf in ("weight", "bias") if getattr(linear, leaf) is not None
    ]
