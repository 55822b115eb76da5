"""Encoders: blocks of attention to all steps, each with a feed-forward layer; for classes of whole sequences."""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from compressm_cli.layers.residual import Residual
from compressm_cli.models.embedding import Normalized, Segmented
from compressm_cli.models.stack import Stack
from compressm_cli.models.transformer import (
    EMBEDDING_STD,
    AlikeConfig,
    build_attention,
    build_feed_forward,
    build_input,
    norm_of,
)


class BothWaysConfig(AlikeConfig):
    """The part of a recipe that models share whose attention looks at all steps."""

    looks_ahead: ClassVar[bool] = True

    def least_parameters(self, ends: int) -> int:
        block = self.parameters_of(self.attention) + self.parameters_of_feed_forward()
        return self.model_dim * (ends + self.depth * block)


class EncoderConfig(BothWaysConfig):
    """A Transformer whose steps look at all steps before and after them, but for padding (``model: {kind: encoder}``).

    Each block is ``x + attention(norm(x))``, then ``x + feed_forward(norm(x))``; at the end there is the normalization
    once more. It says one class of a sequence, by its mean over time, or one of each step of it. Of pairs of texts each
    has a learned vector of its own, which is added to its tokens.
    """

    kind: Literal["encoder"] = "encoder"
    norm_first: bool = True
    """Whether the input of each layer is normalized; else each sum is, ``norm(x + layer(x))``, and what the embeddings
    add up to, with none at the end, as in BERT."""


class EncoderBlock(nn.Module):
    """Attention to all steps and a feed-forward layer, each with its norm and its residual."""

    def __init__(self, mixer: Residual, feed_forward: Residual | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """x (batch, length, H); ``real`` (batch, length), the steps that are not padding, which lies behind them."""
        x = self.mixer(x, None if real is None else real.sum(dim=1))
        return x if self.feed_forward is None else self.feed_forward(x)

    @property
    def silent(self) -> tuple[str, ...]:
        """The tensors by which it adds to the residual stream: with zeros there it adds nothing."""
        names = self.mixer.silent_in("mixer", "o")
        if self.feed_forward is None:
            return names
        return (*names, *self.feed_forward.silent_in("feed_forward", "down"))


class Encoder(Stack):
    """A Transformer that looks both ways: embedding, blocks, final normalization, head."""

    Config = EncoderConfig

    @classmethod
    def last_block(cls, config: Any) -> EncoderBlock:
        """ValueError without ``norm_first``: whatever a block adds, it normalizes what it puts out."""
        if not config.norm_first:
            raise ValueError(
                "a block that normalizes its sum cannot begin by changing nothing; write norm_first: true"
            )
        return build_block(config)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "Encoder":
        """Raises BadInputError where sequences are longer than ``context``.

        Tokens that it is to predict are for its objective to hide.
        """
        encoder, _ = build_input(config, data)
        if data.separator is not None:
            encoder = Segmented(encoder, data.separator, config.model_dim)
            nn.init.normal_(encoder.segments.weight, std=EMBEDDING_STD)
        if not config.norm_first:
            encoder = Normalized(encoder, norm_of(config))
        blocks = [build_block(config, config.norm_first) for _ in range(config.depth)]
        norm = norm_of(config) if config.norm_first else nn.Identity()
        head = nn.Linear(config.model_dim, data.outputs, bias=not data.per_step)
        model = cls(encoder, blocks, norm, head, data.per_step)
        model.grow_as(config)
        return model


def build_block(config: AlikeConfig, norm_first: bool = True, depth: int | None = None) -> EncoderBlock:
    """A fresh block of a recipe's ``model:``, of so many; without ``norm_first`` each sum is normalized."""
    count = depth or config.depth
    mixer = build_attention(config, config.attention, count, causal=False, norm_first=norm_first)
    return EncoderBlock(mixer, build_feed_forward(config, count, norm_first=norm_first))
