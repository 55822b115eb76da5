"""Feed-forward layers against a plain computation, and their neurons."""

import math
from collections.abc import Callable

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, axes_of, cut, is_heard, numbers, randomized, removals
from hypothesis import given, settings
from torch import Tensor, nn

from compressm_cli.layers.feed_forward import FeedForward, SwiGLU

MODEL_DIM, NEURONS = 5, 11

KINDS: dict[str, Callable[[], nn.Module]] = {
    "gelu": lambda: FeedForward(MODEL_DIM, NEURONS),
    "gelu without bias": lambda: FeedForward(MODEL_DIM, NEURONS, bias=False),
    "swiglu": lambda: SwiGLU(MODEL_DIM, NEURONS),
    "swiglu with bias": lambda: SwiGLU(MODEL_DIM, NEURONS, bias=True),
}


def affine(module: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(module, nn.Linear)
    return x @ module.weight.T + (0 if module.bias is None else module.bias)


def plain(layer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(layer, FeedForward):
        up = affine(layer.up, x)
        return affine(layer.down, up * (1 + torch.erf(up / math.sqrt(2))) / 2)
    assert isinstance(layer, SwiGLU)
    gate = affine(layer.gate, x)
    return affine(layer.down, gate / (1 + torch.exp(-gate)) * affine(layer.up, x))


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_its_formula_and_so_are_its_gradients(kind: str) -> None:
    layer, x = randomized(KINDS[kind]()), numbers(2, 6, MODEL_DIM)
    weights = numbers(2, 6, MODEL_DIM, seed=2).detach()
    results = [
        (y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()]))
        for y in (layer(x), plain(layer, x))
    ]
    assert results[0][0].shape == x.shape
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("kind", KINDS)
def test_any_neurons_may_leave(kind: str) -> None:
    layer, x = randomized(KINDS[kind]()), numbers(2, 6, MODEL_DIM)

    @settings(max_examples=25, deadline=None)
    @given(removals(layer))
    def check(removed: dict[str, list[int]]) -> None:
        assert_cut_is_silence(layer, removed, x)
        small, _ = cut(layer, removed)
        assert axes_of(small)[":neurons"].size == NEURONS - len(removed[":neurons"])

    assert list(axes_of(layer)) == [":neurons"]
    check()
    assert_cut_is_silence(layer, {":neurons": range(1, NEURONS)}, x)
    assert is_heard(layer, {":neurons": [0]}, x)
