"""Blocks that are frozen from the first on: no graph is built there, and no step of the optimizer changes them."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from test_models_sequence import FEATURES, PER_STEP, build, sequences, tokens
from torch import Tensor, nn

from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.layers import LAYERS
from compressm_cli.models import SequenceModel
from compressm_cli.recipe.schema import TrainConfig


def freeze(model: SequenceModel, blocks: int) -> set[str]:
    """The encoder and the first blocks; returns the names of their parameters."""
    for module in (model.encoder, *model.blocks[:blocks]):
        module.requires_grad_(False)
    model.zero_grad()
    return {name for name, p in model.named_parameters() if not p.requires_grad}


def graph(y: Tensor) -> Iterator[Any]:
    """The nodes behind a tensor, those that add up a parameter's gradient included."""
    waiting, seen = [y.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def reached(y: Tensor) -> set[int]:
    return {id(node.variable) for node in graph(y) if hasattr(node, "variable")}


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("kind", LAYERS)
def test_the_graph_does_not_reach_into_frozen_blocks(kind: str, norm: str) -> None:
    for data, inputs in ((FEATURES, sequences()), (PER_STEP, tokens())):
        model = build(data, kind=kind, norm=norm, depth=3, dropout=0.1)
        whole = sum(1 for _ in graph(model(inputs)))
        freeze(model, 2)
        behind: list[Tensor] = []
        model.blocks[1].register_forward_hook(lambda _module, _inputs, y, behind=behind: behind.append(y))
        y = model(inputs)
        assert behind[0].grad_fn is None
        assert not behind[0].requires_grad
        trained = {id(p) for p in model.parameters() if p.requires_grad}
        assert reached(y) == trained
        # Two of three blocks are gone from the graph.
        assert sum(1 for _ in graph(y)) < 0.6 * whole


def test_running_statistics_of_frozen_blocks_are_still_taken() -> None:
    model = build(kind="lru", norm="batch", depth=3)
    freeze(model, 2)
    before = [b.clone() for b in model.blocks[0].buffers()]
    model(sequences())
    assert any(not torch.equal(b, a) for b, a in zip(before, model.blocks[0].buffers(), strict=True))


@pytest.mark.parametrize("kind", LAYERS)
def test_frozen_parameters_stay_as_they_are_over_many_steps(kind: str) -> None:
    model = build(kind=kind, norm="batch", depth=3)
    config = TrainConfig(steps=55, learning_rate=1e-2, weight_decay=0.1)
    optimizer = build_optimizer(model, config)

    def step() -> None:
        optimizer.zero_grad()
        labels = torch.tensor([0, 1, 2])
        nn.functional.cross_entropy(model(sequences()), labels).backward()
        optimizer.step()

    for _ in range(5):
        step()
    names = freeze(model, 2)
    named = dict(model.named_parameters())
    assert all(optimizer.state[named[name]]["exp_avg"].any() for name in names)
    before = {name: p.detach().clone() for name, p in named.items()}
    for _ in range(50):
        step()
        assert all(named[name].grad is None for name in names)
    for name, p in named.items():
        assert torch.equal(p, before[name]) == (name in names), name
