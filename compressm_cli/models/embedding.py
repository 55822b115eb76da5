"""What makes the first vectors of a sequence."""

from typing import Any

from torch import Tensor, nn


def build_encoder(width: int, data: Any) -> nn.Embedding | nn.Linear:
    """An embedding where the steps of a ``DataSpec`` are tokens, else a linear map of their features."""
    if data.vocabulary is not None:
        return nn.Embedding(data.vocabulary, width)
    return nn.Linear(data.features, width)


class Segmented(nn.Module):
    """Another encoder of pairs of texts, and a learned vector for each of the two, added to it (Devlin et al. 2019,
    BERT's token types). What stands between them is part of the first."""

    def __init__(self, inner: nn.Module, separator: int, width: int) -> None:
        """``separator`` is the token that stands between the two."""
        super().__init__()
        self.inner = inner
        self.separator = separator
        self.segments = nn.Embedding(2, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens (batch, length) -> (batch, length, H)."""
        between = inputs == self.separator
        second = between.cumsum(dim=1) > between.long()
        return self.inner(inputs) + self.segments(second.long())


class Normalized(nn.Module):
    """Another encoder, and a normalization of what it puts out."""

    def __init__(self, inner: nn.Module, norm: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.norm = norm

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens (batch, length) or features (batch, length, ...) -> (batch, length, H)."""
        x: Tensor = self.norm(self.inner(inputs))
        return x


class Positioned(nn.Module):
    """Another encoder, and a learned vector for each position, added to it (Vaswani et al. 2017; GPT-2's)."""

    def __init__(self, inner: nn.Module, context: int, width: int) -> None:
        """``context`` is the number of positions that there are."""
        super().__init__()
        self.inner = inner
        self.positions = nn.Embedding(context, width)

    def forward(self, inputs: Tensor) -> Tensor:
        """Tokens (batch, length), features (batch, length, ...) or what else ``inner`` takes -> (batch, length, H)."""
        x: Tensor = self.inner(inputs)
        self._require(x.shape[1])
        return x + self.positions.weight[: x.shape[1]]

    def at(self, inputs: Tensor, position: Tensor) -> Tensor:
        """The same for one step of each row, (batch,) or (batch, features), at these positions (batch,)."""
        if len(position):
            self._require(int(position.max()) + 1)
        x: Tensor = self.inner(inputs)
        return x + self.positions(position)

    def _require(self, length: int) -> None:
        """ValueError for more steps than there are positions."""
        if length > self.positions.num_embeddings:
            raise ValueError(
                f"the model has learned {self.positions.num_embeddings} positions (model.context), and a sequence has "
                f"{length} steps"
            )
