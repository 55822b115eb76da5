"""Queries, keys and values by one product: those of three, rotated, with the gradients of the definition."""

import pytest
import torch
from operator_gradients import as_dtype
from torch import Tensor
from torch.nn import functional

from compressm_cli.layers.attention import Attention
from compressm_cli.ops.attention_inputs import attention_inputs

DIM = {"q": 6, "v": 5}


def definition(inputs: list[Tensor], groups: int, turns: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    x, weights, biases = inputs[0], inputs[1:4], inputs[4:] or [None, None, None]
    found = []
    for place, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        heads = functional.linear(x, weight, bias).unflatten(-1, (-1, DIM["v" if place == 2 else "q"]))
        if turns is not None and place < 2:
            a, b = heads.chunk(2, dim=-1)
            cos, sin = (t[:, None] for t in turns)
            heads = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
        found.append(heads.transpose(1, 2))
    return found


def own(inputs: list[Tensor], groups: int, turns: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    q, k, v = inputs[1:4]
    biases = (inputs[4], inputs[5], inputs[6]) if len(inputs) > 4 else None
    return list(attention_inputs(inputs[0], (q, k, v), biases, groups, turns))


def example(shape: tuple[int, int, int], heads: int, groups: int, biases: bool) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape) + heads)
    sizes = [heads * DIM["q"], groups * DIM["q"], groups * DIM["v"]]
    shapes = [shape, *((size, shape[-1]) for size in sizes), *(((size,) for size in sizes) if biases else ())]
    return [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]


def angles(length: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    angle = torch.randn(
        length, DIM["q"] // 2, generator=torch.Generator().manual_seed(9), dtype=torch.float64
    )
    return angle.cos().to(dtype), angle.sin().to(dtype)


def with_gradients(outputs: list[Tensor], inputs: list[Tensor]) -> list[Tensor]:
    wanted = [t for t in inputs if t.requires_grad]
    total = sum((y * torch.linspace(-1, 2, y.numel()).view(y.shape).to(y)).sum() for y in outputs)
    assert isinstance(total, Tensor)
    return [*(y.detach() for y in outputs), *torch.autograd.grad(total, wanted)]


@pytest.mark.parametrize("dim", [2, 6, 32, 46])
@pytest.mark.parametrize(("heads", "groups"), [(1, 1), (4, 2), (3, 3)])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_the_definition(
    dim: int,
    heads: int,
    groups: int,
    biases: bool,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(DIM, "q", dim)
    exact = example((2, 7, 3), heads, groups, biases)
    expected = with_gradients(definition(exact, groups, angles(7)), exact)
    inputs = as_dtype(exact, dtype)
    for a, e in zip(with_gradients(own(inputs, groups, angles(7, dtype)), inputs), expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


def test_without_positions_nothing_is_rotated() -> None:
    inputs = example((3, 4, 5), 4, 2, biases=True)
    expected = with_gradients(definition(inputs, 2, None), inputs)
    for a, e in zip(with_gradients(own(inputs, 2, None), inputs), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("frozen", [[0], [1], [3], [4], [6], [0, 4, 5, 6], [1, 2, 3], [2, 4, 5, 6]])
def test_what_is_frozen_gets_no_gradient_and_the_others_the_same(frozen: list[int]) -> None:
    inputs = example((2, 5, 3), 2, 1, biases=True)
    for place in frozen:
        inputs[place].requires_grad_(False)
    expected = with_gradients(definition(inputs, 1, angles(5)), inputs)
    for a, e in zip(with_gradients(own(inputs, 1, angles(5)), inputs), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def test_a_batch_of_no_rows_gives_none() -> None:
    for dtype in (torch.float32, torch.float64):
        inputs = as_dtype(example((0, 5, 3), 2, 2, biases=True), dtype)
        made = with_gradients(own(inputs, 2, angles(5, dtype)), inputs)
        for a, e in zip(made, with_gradients(definition(inputs, 2, angles(5, dtype)), inputs), strict=True):
            torch.testing.assert_close(a, e)


def test_only_the_input_and_what_is_returned_are_kept() -> None:
    inputs = as_dtype(example((2, 50, 3), 4, 2, biases=False), torch.float32)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    turns = angles(50, torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        q, _, v = own(inputs, 2, turns)
    weights = sum(t.numel() for t in inputs[1:])
    assert sum(kept.values()) == 4 * (inputs[0].numel() + weights + sum(t.numel() for t in turns))
    assert q.untyped_storage().data_ptr() == v.untyped_storage().data_ptr()


def test_under_autocast_it_multiplies_in_bfloat16_and_rotates_in_float32() -> None:
    inputs = as_dtype(example((2, 40, 8), 4, 2, biases=True), torch.float32)
    turns = angles(40, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        made, expected = own(inputs, 2, turns), definition(inputs, 2, turns)
    assert {y.dtype for y in made} == {torch.bfloat16}
    for a, e in zip(made, expected, strict=True):
        torch.testing.assert_close(a.float(), e.float(), rtol=0.01, atol=0.01 * float(e.detach().abs().max()))
    actual = torch.autograd.grad(made[0].float().sum() + made[2].float().sum(), inputs, allow_unused=True)
    wanted = torch.autograd.grad(
        expected[0].float().sum() + expected[2].float().sum(), inputs, allow_unused=True
    )
    for a, e in zip(actual, wanted, strict=True):
        assert a.dtype == torch.float32
        e = torch.zeros_like(a) if e is None else e
        torch.testing.assert_close(a, e, rtol=0.05, atol=0.05 * float(e.abs().max()))


def test_hooks_of_its_maps_are_called_to_the_same_effect() -> None:
    layer = Attention(16, 4, kv_heads=2, rope_base=100.0, bias=True).double()
    x, seen = torch.randn(2, 9, 16, dtype=torch.float64), []
    expected = layer(x)
    layer.k.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert seen == [torch.Size([2, 9, 8])]
