"""What models have in common that are an encoder, blocks one after the other, and a head."""

from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.layers.plain import is_plain
from compressm_cli.layers.state import State, check_lengths
from compressm_cli.models.blocks import BlockModel
from compressm_cli.models.embedding import Positioned
from compressm_cli.models.norms import normalized
from compressm_cli.ops.decoding import ends_of, last_real

HeadLoss = Callable[[Tensor, nn.Linear], Tensor]
"""A number, from what the head is to read (batch, length, H), and the head."""


class Stack(BlockModel):
    """Encoder or embedding, blocks, final normalization, head.

    Classifies sequences, ``(batch, length, ...) -> (batch, classes)`` by their mean over time, or steps,
    ``-> (batch, length, classes)``: a language model, where the classes are the next tokens. Blocks do not look at
    padding; it has a step by step form where they have ``initial_state``, ``step`` and ``prefill``.
    """

    def __init__(
        self,
        encoder: nn.Module,
        blocks: Sequence[nn.Module],
        norm: nn.Module,
        head: nn.Linear,
        per_step: bool,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.blocks = nn.ModuleList(blocks)
        self.norm = norm
        self.head = head
        self.per_step = per_step

    def forward(self, inputs: Tensor, lengths: Tensor | None = None, loss: HeadLoss | None = None) -> Tensor:
        """inputs (batch, length, features) or tokens (batch, length); lengths (batch,) where rows are padded.

        Layers that are causal or leave padding out do not see it, and means over time leave it out: those of batch
        normalization and the last one. ``loss`` is what is wanted in the place of scores, of a model that has a
        ``loss_head``.
        """
        return self.from_hidden(self.hidden(inputs, lengths, 0), lengths, 0, loss)

    @property
    def loss_head(self) -> nn.Linear | None:
        """The head by which ``forward`` computes a loss; None where it says nothing of single steps, or has hooks."""
        return self.head if self.per_step and is_plain(self.head) else None

    def hidden(self, inputs: Tensor, lengths: Tensor | None, blocks: int) -> Tensor:
        """What the encoder and so many of the first blocks put out: (batch, length, H)."""
        x: Tensor = self.encoder(inputs)
        real = _real(x, lengths)
        for block in islice(self.blocks, blocks):
            x = block(x, real)
        return x

    def from_hidden(
        self, x: Tensor, lengths: Tensor | None, blocks: int, loss: HeadLoss | None = None
    ) -> Tensor:
        """What the model puts out, from ``hidden``."""
        real = _real(x, lengths)
        for block in islice(self.blocks, blocks, None):
            x = block(x, real)
        x = normalized(self.norm, x, real)
        if loss is not None:
            return loss(x, self.head)
        return self.head(x if self.per_step else self.pooled(x, real))

    def pooled(self, x: Tensor, real: Tensor | None) -> Tensor:
        """What the head reads of x (batch, length, H) to say one class: the mean over the real steps, (batch, H)."""
        if real is None:
            return x.mean(dim=1)
        # In float32 at least: in bfloat16 a length above 256 is rounded.
        wide = torch.promote_types(x.dtype, torch.float32)
        total = x.where(real[..., None], 0.0).sum(dim=1, dtype=wide)
        return (total / real.sum(dim=1, keepdim=True)).to(x.dtype)

    @property
    def longest(self) -> int | None:
        return self.encoder.positions.num_embeddings if isinstance(self.encoder, Positioned) else None

    def initial_state(self, batch: int) -> State:
        """The states of its blocks; where it has positions, the next one; where it is pooled, the sum and the number of
        the steps so far."""
        self._require_steps()
        parts = {name: block.initial_state(batch) for name, block in self._blocks().items()}
        device = self.head.weight.device
        if isinstance(self.encoder, Positioned):
            parts["position"] = _position(torch.zeros(batch, dtype=torch.int64, device=device))
        if not self.per_step:
            sums = torch.zeros(batch, self.head.in_features, device=device)
            parts["pool"] = _pool_state(sums, torch.zeros_like(sums[:, 0]))
        return State(parts)

    @torch.no_grad()
    def step(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        self._require_evaluation()
        self._check_inputs(inputs, "a step takes", "batch")
        blocks = self._blocks()
        names = [*blocks, *self._other_parts()]
        parts = dict(zip(names, state.take_parts(names), strict=True))
        if isinstance(self.encoder, Positioned):
            (position,) = parts["position"].take(position=inputs.shape[:1])
            x = self.encoder.at(inputs, position)
            parts["position"] = _position(position + 1)
        else:
            x = self.encoder(inputs)
        for name, block in blocks.items():
            x, parts[name] = block.step(x, parts[name])
        x = normalized(self.norm, x[:, None], None)[:, 0]
        if not self.per_step:
            sums, count = parts["pool"].take(sum=x.shape, count=x.shape[:1])
            parts["pool"] = _pool_state(sums + x, count + 1)
            x = ((sums + x) / (count + 1)[:, None]).to(x.dtype)
        return self.head(x), State(parts)

    @torch.no_grad()
    def prefill(self, inputs: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        self._require_steps()
        self._check_inputs(inputs, "prefill takes", "batch, length")
        check_lengths(inputs, lengths)
        x: Tensor = self.encoder(inputs)
        parts: dict[str, State] = {}
        for name, block in self._blocks().items():
            x, parts[name] = block.prefill(x, lengths)
        x, ends = normalized(self.norm, x, None), ends_of(x, lengths)
        if isinstance(self.encoder, Positioned):
            parts["position"] = _position(ends.clone())
        if self.per_step:
            return self.head(last_real(x, ends)), State(parts)
        real = torch.arange(x.shape[1], device=x.device) < ends[:, None]
        sums = x.where(real[..., None], 0.0).sum(dim=1, dtype=torch.float64)
        parts["pool"] = _pool_state(sums, ends)
        return self.head((sums / ends[:, None]).to(x.dtype)), State(parts)

    def _other_parts(self) -> list[str]:
        positions = ["position"] if isinstance(self.encoder, Positioned) else []
        return positions if self.per_step else [*positions, "pool"]

    def _check_inputs(self, inputs: Tensor, what: str, axes: str) -> None:
        """ValueError for inputs that are no tokens of these axes, or features with one axis more."""
        encoder = self.encoder.inner if isinstance(self.encoder, Positioned) else self.encoder
        tokens = isinstance(encoder, nn.Embedding)
        wanted = f"tokens ({axes})" if tokens else f"inputs ({axes}, {encoder.in_features})"
        sizes = inputs.shape if tokens else inputs.shape[:-1]
        if len(sizes) != len(axes.split(",")) or not (tokens or inputs.shape[-1] == encoder.in_features):
            raise ValueError(f"{what} {wanted}, not {tuple(inputs.shape)}")


def tied(head: nn.Linear, embedding: nn.Module, data: Any) -> None:
    """Let the head's weight be the embedding's; BadInputError where inputs and classes are not the same tokens."""
    if not data.per_step or data.vocabulary != data.classes:
        raise BadInputError(
            "model.tie_embeddings is true, but the task does not predict the tokens it reads; write false"
        )
    assert isinstance(embedding, nn.Embedding)
    head.weight = embedding.weight


def _position(position: Tensor) -> State:
    """The number (batch,) of the next step."""
    return State({"position": position})


def _pool_state(sums: Tensor, count: Tensor) -> State:
    """Sum (batch, H) and number (batch,) of the steps so far; in float64, for over many steps roundings add up."""
    return State({"sum": sums.double(), "count": count.double()})


def _real(x: Tensor, lengths: Tensor | None) -> Tensor | None:
    """(batch, length), the steps that are not padding; None where none is."""
    return None if lengths is None else torch.arange(x.shape[1], device=x.device) < lengths[:, None]
