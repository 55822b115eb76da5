"""Root mean square normalization with a gradient of its own: the values and gradients of its definition."""

import pytest
import torch
from operator_gradients import with_gradients
from torch import Tensor
from torch.nn import functional

from compressm_cli.models.norms import build_norm
from compressm_cli.ops.rms_norm import rms_norm

EPSILON = 1e-5


def definition(x: Tensor, weight: Tensor) -> Tensor:
    return weight * x / (x.square().mean(-1, keepdim=True) + EPSILON).sqrt()


def own(x: Tensor, weight: Tensor) -> Tensor:
    return rms_norm(x, weight, EPSILON)


def example(*sizes: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(sizes))
    made = [torch.randn(s, generator=generator, dtype=torch.float64) for s in (sizes, sizes[-1:])]
    return [t.to(dtype).requires_grad_() for t in made]


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3), (2, 63, 7), (0, 4), (3, 50, 128)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_it_is_the_definition(shape: tuple[int, ...], dtype: torch.dtype, tolerance: float) -> None:
    expected = with_gradients(definition, example(*shape))
    for a, e in zip(with_gradients(own, example(*shape, dtype=dtype)), expected, strict=True):
        assert a.dtype == dtype
        largest = float(e.abs().max()) if e.numel() else 0.0
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * largest)


def test_a_step_of_zeros_has_the_gradient_of_the_definition() -> None:
    x, weight = example(4, 6)
    x.data[2] = 0.0
    for a, e in zip(with_gradients(own, [x, weight]), with_gradients(definition, [x, weight]), strict=True):
        torch.testing.assert_close(a, e, rtol=1e-12, atol=1e-12)


def test_rows_that_lie_apart_in_memory_are_normalized_alike() -> None:
    x, weight = example(3, 5, 8)
    apart = x.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    for a, e in zip(with_gradients(own, [apart, weight]), with_gradients(own, [x, weight]), strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0)


@pytest.mark.parametrize("frozen", range(2))
def test_what_is_frozen_gets_no_gradient_and_the_other_the_same(frozen: int) -> None:
    inputs = example(2, 5, 3)
    expected = torch.autograd.grad(definition(*inputs).square().sum(), inputs)
    inputs[frozen].requires_grad_(False)
    own(*inputs).square().sum().backward()
    assert inputs[frozen].grad is None
    torch.testing.assert_close(inputs[1 - frozen].grad, expected[1 - frozen], rtol=1e-12, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
def test_narrow_numbers_and_numbers_of_two_types_go_through_pytorch() -> None:
    norm, x = build_norm("rms", 6, EPSILON), torch.randn(2, 6)
    for y in (x.bfloat16(), x.double()):
        expected = functional.rms_norm(y, (6,), norm.weight.detach(), EPSILON)  # type: ignore[union-attr, operator]
        torch.testing.assert_close(norm(y), expected, rtol=0, atol=0)


def test_each_step_is_normalized_by_itself() -> None:
    x, weight = example(40, 12, dtype=torch.float32)
    torch.testing.assert_close(own(x, weight)[7:9], own(x[7:9], weight), rtol=0, atol=0)
