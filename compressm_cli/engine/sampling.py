"""Which token follows: drawn from what a model says, or the most probable one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn."""

    temperature: float = 1.0
    """Logits are divided by it; 0 takes the most probable token, always."""
    top_k: int | None = None
    """Draw from so many of the most probable tokens alone."""
    top_p: float | None = None
    """Draw from the fewest most probable tokens alone that have this probability together (nucleus sampling,
    Holtzman et al. 2020)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature {self.temperature}: write a number of at least 0")
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"top_k {self.top_k}: write a whole number of at least 1")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p {self.top_p}: write a share above 0 and at most 1")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(batch, tokens) logits -> what is drawn from, float64 of sum 1: first top_k, then of these top_p."""
        wide = logits.double()
        if self.temperature == 0:
            best = wide.argmax(dim=-1, keepdim=True)
            return torch.zeros_like(wide).scatter_(-1, best, 1.0)
        # Below the largest, so that no temperature is too small to divide by.
        below = (wide - wide.amax(dim=-1, keepdim=True)) / self.temperature
        ordered, places = below.sort(dim=-1, descending=True, stable=True)
        if self.top_k is not None:
            ordered[:, self.top_k :] = -torch.inf
        shares = ordered.softmax(dim=-1)
        if self.top_p is not None:
            before = shares.cumsum(dim=-1) - shares
            shares = shares.where(before < self.top_p, 0.0)
            shares /= shares.sum(dim=-1, keepdim=True)
        return torch.zeros_like(shares).scatter_(-1, places, shares)

    def draw(self, logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """(batch, tokens) -> (batch,) int64, on the device of the logits; ``generators`` are of the CPU, one a row."""
        shares = self.probabilities(logits).cpu()
        # The same draw on every device: by generators of the CPU, and by the sums of float64.
        points = torch.cat([torch.rand(1, 1, generator=one, dtype=torch.float64) for one in generators])
        ends = shares.cumsum(dim=-1)
        drawn = torch.searchsorted(ends, points * ends[:, -1:], right=True).squeeze(-1)
        # Rounding may put the point at the very end, behind tokens that are not drawn from.
        last = shares.shape[1] - 1 - (shares > 0).flip(-1).int().argmax(dim=-1)
        return torch.minimum(drawn, last).to(logits.device)
