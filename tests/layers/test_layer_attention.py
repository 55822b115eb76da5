"""Attention against a plain computation in float64, and its axes: a cut is the same as holding units at zero."""

from typing import Any

import pytest
import torch
from cut_units import EXACT, assert_cut_is_silence, axes_of, cut, is_heard, numbers, randomized, removals
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compressm_cli.layers.attention import Attention

LENGTHS = torch.tensor([7, 1, 4])

KINDS: dict[str, dict[str, Any]] = {
    "plain": {"heads": 3, "head_dim": 5, "causal": False, "bias": True},
    "causal": {"heads": 3, "head_dim": 4},
    "rotary": {"heads": 3, "head_dim": 6, "rope_base": 100.0},
    "grouped": {"heads": 6, "kv_heads": 3, "head_dim": 5, "bias": True},
    "grouped, rotary": {"heads": 6, "kv_heads": 2, "head_dim": 6, "rope_base": 50.0, "causal": False},
    "one group": {"heads": 3, "kv_heads": 1, "head_dim": 6, "rope_base": 1e4, "bias": True},
}
MODEL_DIM = 7


def layer_of(kind: str) -> Attention:
    return randomized(Attention(MODEL_DIM, **KINDS[kind]))


def rotated(x: Tensor, base: float) -> Tensor:
    """x (length, head_dim): each pair is a complex number, multiplied by exp(i t w)."""
    length, head_dim = x.shape
    half = head_dim // 2
    angle = torch.tensor(
        [[t * base ** (-2 * i / head_dim) for i in range(half)] for t in range(length)], dtype=torch.float64
    )
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.exp(1j * angle)
    return torch.cat([turned.real, turned.imag], dim=-1)


def plain(layer: Attention, x: Tensor, kind: str) -> Tensor:
    """One row (length, H) without padding; a loop over heads, keys and values repeated for each of a group."""
    heads, head_dim = KINDS[kind]["heads"], KINDS[kind]["head_dim"]
    shared = heads // KINDS[kind].get("kv_heads", heads)
    q, k, v = (x @ m.weight.T + (0 if m.bias is None else m.bias) for m in (layer.q, layer.k, layer.v))
    found = []
    for head in range(heads):
        mine = slice(head * head_dim, (head + 1) * head_dim)
        group = slice(head // shared * head_dim, (head // shared + 1) * head_dim)
        query, key, value = q[:, mine], k[:, group], v[:, group]
        if "rope_base" in KINDS[kind]:
            query, key = (rotated(part, KINDS[kind]["rope_base"]) for part in (query, key))
        weights = torch.exp(query @ key.T / head_dim**0.5)
        if KINDS[kind].get("causal", True):
            weights = weights.tril()
        found.append(weights / weights.sum(-1, keepdim=True) @ value)
    return torch.cat(found, dim=-1) @ layer.o.weight.T + (0 if layer.o.bias is None else layer.o.bias)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_softmax_attention_and_so_are_its_gradients(kind: str, padded: bool) -> None:
    layer, x = layer_of(kind), numbers(3, 7, MODEL_DIM)
    lengths = LENGTHS if padded else torch.tensor([7, 7, 7])
    rows = [plain(layer, x[i, :length], kind) for i, length in enumerate(lengths.tolist())]
    y = layer(x, lengths if padded else None)
    assert y.shape == (3, 7, MODEL_DIM)
    results = []
    for found in ([y[i, :length] for i, length in enumerate(lengths.tolist())], rows):
        side = torch.cat(found)
        weights = numbers(*side.shape, seed=2).detach()
        results.append((side, *torch.autograd.grad((side * weights).sum(), [x, *layer.parameters()])))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, **EXACT)


@pytest.mark.parametrize("kind", ["plain", "causal", "grouped, rotary"])
def test_no_real_step_sees_padding(kind: str) -> None:
    layer, x = layer_of(kind), numbers(3, 7, MODEL_DIM).detach()
    padding = torch.arange(7) >= LENGTHS[:, None]
    other = torch.where(padding[..., None], 1e3, x)
    assert torch.equal(layer(x, LENGTHS)[~padding], layer(other, LENGTHS)[~padding])
    assert torch.isfinite(layer(other, LENGTHS)).all()


@pytest.mark.parametrize("kind", ["plain", "grouped, rotary"])
def test_its_gradient_is_that_of_finite_differences(kind: str) -> None:
    layer = layer_of(kind)
    assert torch.autograd.gradcheck(lambda x: layer(x, LENGTHS), numbers(3, 7, MODEL_DIM))


@pytest.mark.parametrize("kind", KINDS)
def test_axes_have_the_sizes_that_it_was_made_with(kind: str) -> None:
    made = KINDS[kind]
    groups = made.get("kv_heads", made["heads"])
    sizes = {"vo_dim": made["head_dim"]}
    if "rope_base" in made:
        sizes["qk_pairs"] = made["head_dim"] // 2
    else:
        sizes["qk_dim"] = made["head_dim"]
    if "kv_heads" in made:
        sizes |= {"kv_groups": groups, "queries": made["heads"] // groups}
    else:
        sizes["heads"] = groups
    assert {name[1:]: axis.size for name, axis in axes_of(layer_of(kind)).items()} == sizes


@pytest.mark.parametrize("kind", KINDS)
def test_any_units_may_leave_at_once(kind: str) -> None:
    layer, x = layer_of(kind), numbers(3, 7, MODEL_DIM)

    @settings(max_examples=25, deadline=None)
    @given(removals(layer))
    def check(removed: dict[str, list[int]]) -> None:
        assert_cut_is_silence(layer, removed, x, lambda network: network(x, LENGTHS))
        small, _ = cut(layer, removed)
        sizes = {name: axis.size - len(removed[name]) for name, axis in axes_of(layer).items()}
        assert {name: axis.size for name, axis in axes_of(small).items()} == sizes

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_each_axis_is_cut_down_to_one_unit(kind: str) -> None:
    layer, x = layer_of(kind), numbers(2, 5, MODEL_DIM)
    for name, axis in axes_of(layer).items():
        if axis.size > 1:
            assert_cut_is_silence(layer, {name: range(1, axis.size)}, x)
            assert is_heard(layer, {name: [0]}, x)
        with pytest.raises(ValueError, match=f"{name}: keeps at least 1 of its units"):
            axis.kept([])


@settings(max_examples=30, deadline=None)
@given(
    heads=st.integers(1, 4),
    shared=st.integers(1, 3),
    half=st.integers(1, 3),
    rope=st.booleans(),
    data=st.data(),
)
def test_the_slots_of_an_axis_are_each_entry_once(
    heads: int, shared: int, half: int, rope: bool, data: st.DataObject
) -> None:
    """Also after cuts: along its dimension, all units of an axis are all entries, none of them twice."""
    full = Attention(4, heads * shared, kv_heads=heads, head_dim=2 * half, rope_base=10.0 if rope else None)
    small, _ = cut(full, data.draw(removals(full)))
    tensors = small.state_dict()
    for axis in axes_of(small).values():
        for slot in axis.slots:
            entries = slot.entries(torch.arange(axis.size))
            assert entries.tolist() == list(range(tensors[slot.tensor].shape[slot.dim])), (axis.name, slot)


def test_what_it_remembers_is_not_rounded() -> None:
    layer = Attention(8, 2, rope_base=1e4, head_dim=64)
    small, _ = cut(layer, {":qk_pairs": range(0, 32, 3), ":heads": [0]})
    held = dict(small.bfloat16().named_buffers())
    assert held["pairs"].tolist() == [i for i in range(32) if i % 3]
    assert held["groups"].tolist() == [1]
    y = small(torch.randn(2, 300, 8).bfloat16())
    assert y.dtype == torch.bfloat16


def test_in_bfloat16_positions_are_float32() -> None:
    """At position 999 the angle itself has an error of whole radians in bfloat16."""
    torch.manual_seed(0)
    layer = Attention(16, 2, rope_base=1e4)
    x = torch.randn(1, 1000, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    exact = layer(x).detach()
    torch.testing.assert_close(y.float(), exact, rtol=0, atol=2e-2 * float(exact.abs().max()))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"heads": 2}, "model_dim 7 is no multiple of 2 heads; give head_dim"),
        ({"heads": 4, "kv_heads": 3, "head_dim": 2}, "4 heads cannot share 3 kv_heads equally"),
        ({"heads": 7, "rope_base": 10.0}, "rotary positions need an even head_dim, not 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Attention(7, **sizes)
