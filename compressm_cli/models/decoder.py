"""Decoders: blocks of attention or of a state space layer, each with a feed-forward layer; causal."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, islice
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from compressm_cli.core.registry import OneOf
from compressm_cli.layers import LAYERS
from compressm_cli.layers.residual import Residual
from compressm_cli.layers.state import State
from compressm_cli.models.block import Block
from compressm_cli.models.blocks import MOST_BLOCKS, PartsBlock
from compressm_cli.models.stack import Stack, tied
from compressm_cli.models.transformer import (
    AttentionConfig,
    TransformerConfig,
    build_attention,
    build_feed_forward,
    build_input,
    norm_of,
)


class DecoderConfig(TransformerConfig):
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
    depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] | None = None
    """Number of blocks; as many as ``layers`` has entries by default."""
    tie_embeddings: bool = False
    """Use the embedding as the head as well; only of tasks that predict a token at each step."""

    @model_validator(mode="after")
    def _fitting_layers(self) -> "DecoderConfig":
        for number, layer in enumerate(self.layers):
            try:
                layer.check_width(self.model_dim)
                if isinstance(layer, AttentionConfig):
                    self.require_pairs(layer)
                elif isinstance(layer.state_dim, list):
                    raise ValueError(
                        "state_dim is one number here; write the layers of several sizes one by one"
                    )
            except ValueError as error:
                raise ValueError(f"layers[{number}]: {error}") from error
        return self

    def blocks(self) -> list[Any]:
        """The entry of ``layers`` of each block."""
        return list(islice(cycle(self.layers), self.depth or len(self.layers)))

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
        count = ends + self.parameters_of_feed_forward() * len(self.blocks())
        for layer in self.blocks():
            if isinstance(layer, AttentionConfig):
                count += self.parameters_of(layer)
            else:
                count += 2 * self.model_dim + layer.state_dim
        return self.model_dim * count


class DecoderBlock(PartsBlock):
    """A layer over time and a feed-forward layer, each with its norm and its residual; causal."""

    def __init__(self, mixer: Block | Residual, feed_forward: Residual | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); ``real`` (batch, length), the steps that are not padding, to which nothing looks."""
        x = self.mixer(x)
        return x if self.feed_forward is None else self.feed_forward(x)

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
        if isinstance(self.mixer, Block):
            names = tuple(f"mixer.{name}" for name in self.mixer.silent)
        else:
            names = self.mixer.silent_in("mixer", "o")
        if self.feed_forward is None:
            return names
        return (*names, *self.feed_forward.silent_in("feed_forward", "down"))


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
        known = orders or {}
        encoder, embedding = build_input(config, data)
        blocks = []
        for i, layer in enumerate(config.blocks()):
            start = getattr(layer, "state_dim", 0)
            blocks.append(_block(config, layer, known.get(f"blocks.{i}.mixer.layer", start)))
        head = nn.Linear(config.model_dim, data.outputs, bias=not data.per_step)
        if config.tie_embeddings:
            tied(head, embedding, data)
        model = cls(encoder, blocks, norm_of(config), head, data.per_step)
        model.grow_as(config)
        return model


def _block(config: Any, layer: Any, order: int) -> DecoderBlock:
    """A block of a recipe's ``model:``, of the shapes that its state space layer has after a cut to ``order``."""
    depth = len(config.blocks())
    mixer: Block | Residual
    if isinstance(layer, AttentionConfig):
        mixer = build_attention(config, layer, depth, causal=True)
    else:
        inner = LAYERS[layer.kind].of_order(layer, config.model_dim, layer.state_dim, order)
        mixer = Block(inner, norm_of(config), config.model_dim, config.dropout)
    return DecoderBlock(mixer, build_feed_forward(config, depth))
