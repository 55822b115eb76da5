"""Encoder and decoder for pairs of texts: one reads the source both ways, the other says the target, step by step."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.core.errors import BadInputError
from compressm_cli.layers.residual import Residual
from compressm_cli.layers.state import State, check_lengths
from compressm_cli.models.blocks import MOST_BLOCKS, BlockModel, PartsBlock
from compressm_cli.models.embedding import Positioned
from compressm_cli.models.encoder import build_block
from compressm_cli.models.transformer import (
    AlikeConfig,
    build_attention,
    build_cross_attention,
    build_feed_forward,
    build_input,
    norm_of,
)
from compressm_cli.ops.decoding import ends_of, last_real


class EncoderDecoderConfig(AlikeConfig):
    """A Transformer that translates (``model: {kind: encoder_decoder}``); of tasks of pairs of texts.

    The encoder looks at the whole source. Each block of the decoder is ``x + attention(norm(x))``, causal, then
    ``x + cross_attention(norm(x), source)``, then ``x + feed_forward(norm(x))``. Both end with a normalization. All
    attention has the same ``heads``; positions are those within source and target, and none between the two.
    """

    kind: Literal["encoder_decoder"] = "encoder_decoder"
    encoder_depth: Annotated[int, Field(ge=1, le=MOST_BLOCKS)] | None = None
    """Number of the encoder's blocks; as many as ``depth``, those of the decoder, by default."""
    tie_embeddings: bool = False
    """Use one matrix as the embeddings of source and target, and as the head."""

    @property
    def encoder_blocks(self) -> int:
        """How many there are."""
        return self.encoder_depth or self.depth

    def with_blocks(self, count: int) -> Self:
        """The decoder grows, the encoder stays."""
        grown = super().with_blocks(count)
        return grown.model_copy(update={"encoder_depth": self.encoder_blocks})

    def tied_weights(self) -> dict[str, str]:
        if not self.tie_embeddings:
            return {}
        leaf = "inner.weight" if self.positions == "learned" else "weight"
        one = f"source.embedding.{leaf}"
        return {f"target.{leaf}": one, "head.weight": one}

    def least_parameters(self, ends: int) -> int:
        attention, feed_forward = self.parameters_of(self.attention), self.parameters_of_feed_forward()
        blocks = self.encoder_blocks * (attention + feed_forward) + self.depth * (
            2 * attention + feed_forward
        )
        return self.model_dim * (blocks + (ends // 2 if self.tie_embeddings else ends))


class Source(nn.Module):
    """The encoder: embedding, blocks that look both ways, normalization."""

    def __init__(self, embedding: nn.Module, blocks: list[nn.Module], norm: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm

    def forward(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """tokens (batch, steps), lengths (batch,) -> (batch, steps, H); what comes out at padding means nothing."""
        x: Tensor = self.embedding(tokens)
        real = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        for block in self.blocks:
            x = block(x, real)
        out: Tensor = self.norm(x)
        return out


class CrossBlock(PartsBlock):
    """Causal attention, attention to the source, and a feed-forward layer, each with its norm and its residual.

    It begins with ``prefill``: ``initial_state`` raises ValueError, unless attention to the source is removed.
    """

    def __init__(self, mixer: Residual, cross: Residual, feed_forward: Residual | None) -> None:
        super().__init__()
        self.mixer = mixer
        self.cross = cross
        self.feed_forward = feed_forward

    def forward(self, x: Tensor, memory: Tensor, lengths: Tensor | None = None) -> Tensor:
        """x (batch, length, H), memory (batch, steps, H), and the lengths (batch,) of the rows of this."""
        x = self.cross(self.mixer(x), memory, lengths)
        return x if self.feed_forward is None else self.feed_forward(x)

    @torch.no_grad()
    def prefill(
        self, x: Tensor, lengths: Tensor | None, memory: Tensor, memory_lengths: Tensor
    ) -> tuple[Tensor, State]:
        """``forward`` of x (batch, length, H), and the state after the last real step of each row."""
        given = {"mixer": (lengths,), "cross": (memory, memory_lengths), "feed_forward": (lengths,)}
        after = {}
        for name, part in self._parts():
            x, after[name] = part.prefill(x, *given[name])
        return x, State(after)

    def _parts(self) -> Iterator[tuple[str, Residual]]:
        yield "mixer", self.mixer
        yield "cross", self.cross
        if self.feed_forward is not None:
            yield "feed_forward", self.feed_forward

    @property
    def silent(self) -> tuple[str, ...]:
        """The tensors by which it adds to the residual stream: with zeros there it adds nothing."""
        names = (*self.mixer.silent_in("mixer", "o"), *self.cross.silent_in("cross", "o"))
        if self.feed_forward is None:
            return names
        return (*names, *self.feed_forward.silent_in("feed_forward", "down"))


class EncoderDecoder(BlockModel):
    """The encoder ``source``; of the decoder the embedding ``target``, ``blocks``, normalization and head.

    Rows are pairs, source and target one after the other (``DataSpec.source``). Scores at the steps of the source are
    zero. It is stepped through the target: ``prefill`` is given the source and the beginning of the target.
    """

    Config = EncoderDecoderConfig

    def __init__(
        self,
        steps: int,
        source: Source,
        target: nn.Module,
        blocks: list[CrossBlock],
        norm: nn.Module,
        head: nn.Linear,
    ) -> None:
        """``steps`` of each row are its source."""
        super().__init__()
        self.steps = steps
        self.source = source
        self.target = target
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head

    @classmethod
    def last_block(cls, config: Any) -> CrossBlock:
        return _block(config)

    @classmethod
    def build(cls, config: Any, data: Any, orders: Mapping[str, int] | None = None) -> "EncoderDecoder":
        """Raises BadInputError where rows are no pairs, or source or target are longer than ``context``."""
        if data.source is None:
            raise BadInputError(
                "model.kind: encoder_decoder translates, and the rows of this task are no pairs of source and target; "
                "write kind: decoder (to write on) or kind: encoder (to classify), or a task of pairs"
            )
        embedding, one = build_input(config, replace(data, length=data.source))
        target, other = build_input(config, replace(data, length=data.length - data.source))
        head = nn.Linear(config.model_dim, data.outputs, bias=False)
        if config.tie_embeddings:
            head.weight = other.weight = one.weight
        depth = config.encoder_blocks
        source = Source(embedding, [build_block(config, depth=depth) for _ in range(depth)], norm_of(config))
        blocks = [_block(config) for _ in range(config.depth)]
        model = cls(data.source, source, target, blocks, norm_of(config), head)
        model.grow_as(config)
        return model

    def forward(self, inputs: Tensor, lengths: Tensor | None = None) -> Tensor:
        """inputs (batch, length) tokens, of which the first are the source; lengths (batch,) where targets are padded.

        Returns (batch, length, vocabulary), zero at the steps of the source. Nothing looks at padding.
        """
        memory, memory_lengths = self._memory(inputs)
        x: Tensor = self.target(inputs[:, self.steps :])
        for block in self.blocks:
            x = block(x, memory, memory_lengths)
        scores: Tensor = self.head(self.norm(x))
        return functional.pad(scores, (0, 0, self.steps, 0))

    @property
    def start_obstacle(self) -> str:
        return "a translation has no first step without its source; begin with prefill"

    def initial_state(self, batch: int) -> State:
        """Raises ValueError: the state begins with the source, which ``prefill`` takes."""
        raise ValueError(self.start_obstacle)

    @torch.no_grad()
    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Scores at the last real step of each row: all of the source, and of the target one step at least."""
        self._require_steps()
        if inputs.ndim != 2:
            raise ValueError(f"prefill takes tokens (batch, length), not {tuple(inputs.shape)}")
        check_lengths(inputs, lengths)
        ends = ends_of(inputs, lengths) - self.steps
        if inputs.shape[1] <= self.steps or (len(ends) and int(ends.min()) < 1):
            raise ValueError(f"the source has {self.steps} steps, and one step of the target must follow")
        memory, memory_lengths = self._memory(inputs)
        x: Tensor = self.target(inputs[:, self.steps :])
        parts: dict[str, State] = {}
        for name, block in self._blocks().items():
            x, parts[name] = block.prefill(x, ends, memory, memory_lengths)
        parts["position"] = State({"position": ends.clone()})
        return self.head(last_real(self.norm(x), ends)), State(parts)

    @torch.no_grad()
    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Scores (batch, vocabulary) after one more token (batch,) of the target."""
        self._require_evaluation()
        if inputs.ndim != 1:
            raise ValueError(f"a step takes tokens (batch), not {tuple(inputs.shape)}")
        blocks = self._blocks()
        names = [*blocks, "position"]
        parts = dict(zip(names, state.take_parts(names), strict=True))
        (position,) = parts["position"].take(position=inputs.shape)
        x = self.target.at(inputs, position) if isinstance(self.target, Positioned) else self.target(inputs)
        for name, block in blocks.items():
            x, parts[name] = block.step(x, parts[name])
        parts["position"] = State({"position": position + 1})
        return self.head(self.norm(x)), State(parts)

    def _memory(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder says of the source (batch, steps, H), and the lengths (batch,) of its rows.

        Token 0 at the end is padding; a row of nothing else counts as one step, so that there is something to read.
        """
        tokens = inputs[:, : self.steps]
        places = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
        lengths = torch.where(tokens != 0, places, 1).amax(dim=1)
        return self.source(tokens, lengths), lengths


def _block(config: EncoderDecoderConfig) -> CrossBlock:
    return CrossBlock(
        build_attention(config, config.attention, config.depth, causal=True),
        build_cross_attention(config, config.attention, config.depth),
        build_feed_forward(config, config.depth),
    )
