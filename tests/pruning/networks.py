"""Small networks to be pruned: a language model with groups of queries, and convolutions whose axes are discovered."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.layers.attention import Attention
from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
from compressm_cli.layers.residual import Residual
from compressm_cli.pruning import Workload
from compressm_cli.structure.discovery import discover

VOCABULARY, WIDTH, LENGTH = 13, 16, 12


class Language(nn.Module):
    """Two blocks, one with biases and one without."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.first = Residual(
            nn.LayerNorm(WIDTH), Attention(WIDTH, 4, kv_heads=2, bias=True, rope_base=100.0)
        )
        self.second = Residual(nn.LayerNorm(WIDTH), FeedForward(WIDTH, 24))
        self.third = Residual(nn.LayerNorm(WIDTH), Attention(WIDTH, 4))
        self.fourth = Residual(nn.LayerNorm(WIDTH), SwiGLU(WIDTH, 24))
        self.head = nn.Linear(WIDTH, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for part in (self.first, self.second, self.third, self.fourth):
            x = part(x)
        scores: Tensor = self.head(x)
        return scores


def texts(rows: int, seed: int = 0) -> Tensor:
    """Tokens that count on by a number of each row's own, with slips."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.randint(1, 4, (rows, 1), generator=generator)
    start = torch.randint(0, VOCABULARY, (rows, 1), generator=generator)
    slips = (torch.rand(rows, LENGTH, generator=generator) < 0.1).long()
    return (start + step * torch.arange(LENGTH) + slips) % VOCABULARY


def language_loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return functional.cross_entropy(model(tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


def language_workload(batches: int = 8, rows: int = 4) -> Workload:
    batched = list(texts(batches * rows).split(rows))
    return Workload(batched, language_loss, lambda t: t[:, 1:].numel(), _call, texts(1))


@cache
def trained() -> Language:
    """In float64, trained a little; to be copied before it is changed."""
    torch.manual_seed(0)
    model = Language().double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(60):
        language_loss(model, texts(16, seed=step + 1)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@cache
def images() -> nn.Module:
    """Convolutions of which one reads a single place; float64, its axes discovered; to be copied before changes."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1),
        nn.BatchNorm2d(10),
        nn.ReLU(),
        nn.Conv2d(10, 12, 1),
        nn.ReLU(),
        nn.Conv2d(12, 6, 3, stride=2, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 5),
    ).double()
    with torch.no_grad():
        model(pictures(16))
    discover(model.eval(), (pictures(2),))
    return model


def pictures(rows: int) -> Tensor:
    return torch.randn(rows, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(rows))


def image_workload() -> Workload:
    batches = [(part, torch.arange(4) % 5) for part in pictures(16).split(4)]
    return Workload(
        batches,
        lambda model, batch: functional.cross_entropy(model(batch[0]), batch[1]),
        lambda batch: len(batch[1]),
        lambda model, batch: model(batch[0]),
        (pictures(1), torch.zeros(1, dtype=torch.int64)),
    )


def _call(model: nn.Module, tokens: Tensor) -> Tensor:
    found: Tensor = model(tokens)
    return found
