"""Residual sub-layers: what they compute, and how one leaves its network and comes back."""

import pytest
import torch
from cut_units import (
    EXACT,
    assert_cut_is_silence,
    assert_surgery_follows,
    axes_of,
    numbers,
    randomized,
    removals,
)
from hypothesis import given, settings
from torch import Tensor, nn

from compressm_cli.layers.attention import Attention
from compressm_cli.layers.feed_forward import FeedForward, SwiGLU
from compressm_cli.layers.residual import Residual
from compressm_cli.structure.edits import Keep, Park, Wake
from compressm_cli.structure.surgery import apply_edits

MODEL_DIM = 7
LENGTHS = torch.tensor([6, 3])


class Stack(nn.Module):
    """Two attentions and two feed-forward layers, as a network of them has them."""

    def __init__(self) -> None:
        super().__init__()
        inner = [
            Attention(MODEL_DIM, 4, kv_heads=2, head_dim=4, rope_base=30.0, causal=False),
            FeedForward(MODEL_DIM, 9),
            Attention(MODEL_DIM, 3, head_dim=3, bias=True),
            SwiGLU(MODEL_DIM, 5),
        ]
        self.layers = nn.ModuleList(Residual(nn.LayerNorm(MODEL_DIM), module) for module in inner)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = layer(x) if i % 2 else layer(x, LENGTHS)
        return x

    def layer(self, i: int) -> Residual:
        found = self.layers[i]
        assert isinstance(found, Residual)
        return found


def test_it_adds_what_its_inner_module_makes_of_the_normalized_input() -> None:
    norm, inner, x = nn.LayerNorm(MODEL_DIM), nn.Linear(MODEL_DIM, MODEL_DIM), numbers(2, 6, MODEL_DIM)
    layer = randomized(Residual(norm, inner))
    centred = x - x.mean(-1, keepdim=True)
    normal = (
        centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + norm.eps) * norm.weight + norm.bias
    )
    torch.testing.assert_close(layer(x), x + normal @ inner.weight.T + inner.bias, **EXACT)


@pytest.mark.parametrize("removed", [[0], [1], [2, 3], [0, 1, 2, 3]])
def test_a_removed_sublayer_is_one_that_adds_zero(removed: list[int]) -> None:
    full, small, x = randomized(Stack()), randomized(Stack()), numbers(2, 6, MODEL_DIM)
    for i in removed:
        inner = full.layer(i).inner
        last = inner.o if isinstance(inner, Attention) else inner.get_submodule("down")
        with torch.no_grad():
            for parameter in last.parameters():
                parameter.zero_()
        apply_edits(small, None, [Keep(f"layers.{i}:sublayer", [])])
        assert small.layer(i).is_removed
    left = dict(small.named_parameters())
    every = dict(full.named_parameters())
    assert list(left) == [n for n in every if not any(n.startswith(f"layers.{i}.") for i in removed)]
    results = []
    for network in (full, small):
        y = network(x)
        named = dict(network.named_parameters())
        results.append((y, *torch.autograd.grad(y.sin().sum(), [x, *(named[name] for name in left)])))
    for expected, actual in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


def test_a_removed_sublayer_has_no_axes_but_its_own_of_size_0() -> None:
    network = Stack()
    before = axes_of(network)
    own = before["layers.2:sublayer"]
    assert (own.kind, own.size, own.slots, own.module, own.minimum) == (
        "sublayer",
        1,
        (),
        "layers.2",
        0,
    )
    assert own.kept([]).tolist() == []
    inner = {name for name in before if name.startswith("layers.2.inner:")}
    assert inner == {"layers.2.inner:heads", "layers.2.inner:qk_dim", "layers.2.inner:vo_dim"}
    apply_edits(network, None, [Keep("layers.2:sublayer", [])])
    after = axes_of(network)
    assert list(after) == [name for name in before if name not in inner]
    assert after["layers.2:sublayer"].size == 0
    assert {n: a for n, a in after.items() if a is not own and n != own.name} == {
        n: a for n, a in before.items() if n not in inner and n != own.name
    }


def test_what_is_removed_comes_back_to_the_bit() -> None:
    network, x = randomized(Stack()), numbers(2, 6, MODEL_DIM)
    before, state = network(x), network.state_dict()
    layer, axis = network.layer(1), "layers.1:sublayer"
    apply_edits(network, None, [Park(axis, [0])])
    assert layer.is_removed
    assert not torch.equal(network(x), before)
    with pytest.raises(ValueError, match="has no units now, got 0"):
        apply_edits(network, None, [Park(axis, [0])])
    apply_edits(network, None, [Wake(axis, [0])])
    assert not layer.is_removed
    with pytest.raises(ValueError, match="unit 0 is not parked"):
        apply_edits(network, None, [Wake(axis, [0])])
    assert torch.equal(network(x), before)
    assert list(network.state_dict()) == list(state)


def test_units_leave_all_sublayers_of_a_network_at_once() -> None:
    network, x = randomized(Stack()), numbers(2, 6, MODEL_DIM)

    @settings(max_examples=20, deadline=None)
    @given(removals(network))
    def check(removed: dict[str, list[int]]) -> None:
        assert_cut_is_silence(network, removed, x)

    check()


def test_plans_cut_park_and_wake_its_units() -> None:
    network, x = randomized(Stack()), numbers(2, 6, MODEL_DIM)
    attention, other = "layers.0.inner", "layers.2.inner"
    removed = {f"{attention}:kv_groups": [0], f"{attention}:queries": [1], f"{attention}:qk_pairs": [0]}
    removed |= {f"{attention}:vo_dim": [3, 1], f"{other}:heads": [1], f"{other}:qk_dim": [0]}
    assert_surgery_follows(
        network, removed | {"layers.1.inner:neurons": [0, 8], "layers.3.inner:neurons": [2]}, x
    )
