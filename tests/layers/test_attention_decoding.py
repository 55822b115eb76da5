"""Attention, and networks of it, one time step at a time: the same outputs as of whole sequences."""

from typing import Any

import pytest
import torch
from cut_units import cut, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from selective_cases import noise
from test_layer_decoding import BOUNDS, assert_steps_are_forward
from torch import nn

from compressm_cli.layers import Attention, FeedForward, Residual, SwiGLU
from compressm_cli.layers import attention as attention_module

WIDTH = 12
CASES: dict[str, dict[str, Any]] = {
    "heads": {"heads": 3},
    "biases": {"heads": 2, "bias": True},
    "groups": {"heads": 4, "kv_heads": 2, "head_dim": 6},
    "one group": {"heads": 6, "kv_heads": 1, "head_dim": 4, "rope_base": 100.0},
    "rotary": {"heads": 2, "rope_base": 10_000.0},
    "rotary groups": {"heads": 4, "kv_heads": 2, "head_dim": 4, "rope_base": 50.0, "bias": True},
}


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_steps_and_steps_after_unequal_prompts(case: str, dtype: torch.dtype) -> None:
    layer = randomized(Attention(WIDTH, **CASES[case])).to(dtype)
    assert_steps_are_forward(layer, noise(5, 11, WIDTH, dtype=dtype))


def test_more_steps_than_there_was_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "ROOM", 2)
    layer = randomized(Attention(WIDTH, **CASES["rotary groups"]))
    assert_steps_are_forward(layer, noise(3, 23, WIDTH), (1, 23, 6))


@pytest.mark.parametrize("case", CASES)
def test_without_some_heads_and_dimensions(case: str) -> None:
    layer = randomized(Attention(WIDTH, **CASES[case]))

    @settings(max_examples=5, deadline=None)
    @given(removals(layer), st.lists(st.integers(1, 7), min_size=3, max_size=3))
    def check(removed: dict[str, list[int]], lengths: list[int]) -> None:
        smaller, _ = cut(layer, removed)
        assert_steps_are_forward(smaller, noise(3, 7, WIDTH), tuple(lengths))

    check()


@pytest.mark.parametrize(
    "inner",
    [
        lambda: Attention(WIDTH, 3, rope_base=100.0),
        lambda: FeedForward(WIDTH, 7),
        lambda: SwiGLU(WIDTH, 7),
    ],
)
def test_residual_sublayers_also_where_they_are_removed(inner: Any) -> None:
    layer = randomized(Residual(nn.LayerNorm(WIDTH), inner()))
    assert_steps_are_forward(layer, noise(5, 11, WIDTH))
    layer.norm = layer.inner = None
    assert_steps_are_forward(layer, noise(5, 11, WIDTH))


def test_what_looks_ahead_or_has_no_steps_is_refused() -> None:
    layer, x = Attention(WIDTH, 2, causal=False), torch.zeros(2, 3, WIDTH)
    for call in (lambda: layer.initial_state(2), lambda: layer.prefill(x)):
        with pytest.raises(ValueError, match="not causal has no step by step form"):
            call()
    residual = Residual(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH))
    for call in (lambda: residual.initial_state(2), lambda: residual.prefill(x)):
        with pytest.raises(ValueError, match="Linear has no step by step form"):
            call()
    causal = Attention(WIDTH, 2)
    with pytest.raises(ValueError, match=r"x \(batch, 12\), not \(2, 3, 12\)"):
        causal.step(x, causal.initial_state(2))
    with pytest.raises(ValueError, match="does not fit"):
        causal.step(x[:, 0], Attention(WIDTH, 3).initial_state(2))
