"""The gated feed-forward layer that keeps little: the values and gradients of its definition."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressm_cli.layers.feed_forward import SwiGLU
from compressm_cli.ops import swiglu as module
from compressm_cli.ops.swiglu import swiglu


def definition(x: Tensor, gate: Tensor, up: Tensor, down: Tensor, *biases: Tensor) -> Tensor:
    gate_bias, up_bias, down_bias = biases or (None, None, None)
    hidden = functional.silu(functional.linear(x, gate, gate_bias)) * functional.linear(x, up, up_bias)
    return functional.linear(hidden, down, down_bias)


def example(
    *sizes: int, neurons: int = 7, biases: bool = True, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    generator, width = torch.Generator().manual_seed(sum(sizes)), sizes[-1]
    shapes: list[tuple[int, ...]] = [sizes, (neurons, width), (neurons, width), (width, neurons)]
    shapes += [(neurons,), (neurons,), (width,)] if biases else []
    made = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return [t.to(dtype).requires_grad_() for t in made]


def output_and_gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad((y**2).sum() / 2, inputs)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 63, 3), (0, 4), (600, 5)])
@pytest.mark.parametrize("biases", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_the_definition(
    shape: tuple[int, ...],
    biases: bool,
    dtype: torch.dtype,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "ROWS_AT_ONCE", 70)  # several parts
    exact = example(*shape, biases=biases)
    expected = output_and_gradients(definition(*exact), exact)
    inputs = example(*shape, biases=biases, dtype=dtype)
    for a, e in zip(output_and_gradients(swiglu(*inputs), inputs), expected, strict=True):
        assert a.dtype == dtype
        largest = float(e.abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("frozen", range(7))
def test_what_is_frozen_gets_no_gradient_and_the_others_the_same(frozen: int) -> None:
    inputs = example(2, 5, 3)
    expected = torch.autograd.grad(definition(*inputs).square().sum(), inputs)
    inputs[frozen].requires_grad_(False)
    swiglu(*inputs).square().sum().backward()
    for i, (tensor, e) in enumerate(zip(inputs, expected, strict=True)):
        if i == frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, e, rtol=1e-12, atol=1e-12)


def test_no_more_is_kept_than_the_input_and_what_the_two_maps_gave() -> None:
    inputs = example(2, 50, 3, biases=False)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = swiglu(*inputs)
    weights = sum(t.numel() for t in inputs[1:])
    assert sum(kept.values()) == 8 * (inputs[0].numel() + 2 * 100 * 7 + weights)
    assert y.grad_fn is not None


def test_under_autocast_it_multiplies_in_bfloat16_and_the_gradients_are_float32() -> None:
    inputs = example(2, 40, 8, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = swiglu(*inputs), definition(*inputs)
    assert y.dtype == expected.dtype == torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=0.02, atol=0.05)
    for a, e in zip(
        torch.autograd.grad(y.float().sum(), inputs),
        torch.autograd.grad(expected.float().sum(), inputs),
        strict=True,
    ):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, e, rtol=0.05, atol=0.05 * float(e.abs().max()))


def test_hooks_of_its_maps_are_called_and_other_modules_in_their_place_are_too() -> None:
    layer, x = SwiGLU(4, 6).double(), torch.randn(2, 3, 4, dtype=torch.float64)
    expected, seen = layer(x), []
    layer.down.register_forward_hook(lambda module, args, output: seen.append(args[0].shape))
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
    assert seen == [torch.Size([2, 3, 6])]
    layer.up = nn.Sequential(layer.up, nn.Dropout(0.0))  # type: ignore[assignment]
    torch.testing.assert_close(layer(x), expected, rtol=1e-12, atol=1e-12)
