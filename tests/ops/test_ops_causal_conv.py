"""The causal depthwise convolution against its definition, in output and gradient."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.ops import causal_conv1d, reference
from compressm_cli.ops.simd import LANES

SHAPES = [(1, 1, 1, 4), (2, 63, 130, 4), (3, 2, LANES, 4), (1, 9, LANES + 1, 1), (2, 5, 3 * LANES, 7)]
"""batch, length, channels, width."""


def example(batch: int, length: int, channels: int, width: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, length, channels), (channels, width), (channels,)]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def with_gradients(
    function: Callable[..., Tensor], inputs: list[Tensor], activation: str | None
) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    y = function(*leaves, activation=activation)
    return [y.detach(), *torch.autograd.grad((y**2).sum() / 2, leaves)]


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert (torch.linalg.vector_norm(a.double() - e) / torch.linalg.vector_norm(e)).item() <= tolerance


@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, activation: str | None, bias: bool
) -> None:
    inputs = [t.to(dtype) for t in example(*shape)[: 3 if bias else 2]]
    expected = with_gradients(reference.causal_conv1d, [t.double() for t in inputs], activation)
    assert_near(with_gradients(causal_conv1d, inputs, activation), expected, tolerance)


def test_definition_is_a_sum_over_the_past() -> None:
    x, weight, bias = example(1, 6, 2, 3)
    y = reference.causal_conv1d(x, weight, bias)
    for d in range(2):
        expected = np.convolve(x[0, :, d], weight[d].flip(0))[:6] + bias[d].item()
        np.testing.assert_allclose(y[0, :, d], expected, atol=1e-13)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_result_does_not_depend_on_the_number_of_threads(threads: int, batch: int) -> None:
    inputs = [t.float() for t in example(batch, 20, 3 * LANES + 2, 4)]
    expected = with_gradients(reference.causal_conv1d, [t.double() for t in inputs], "silu")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = with_gradients(causal_conv1d, inputs, "silu")
    finally:
        torch.set_num_threads(before)
    assert_near(actual, expected, 1e-6)


def test_views_of_any_layout() -> None:
    x, weight, bias = (t.float() for t in example(3, 9, 2 * LANES, 4))
    expected = with_gradients(reference.causal_conv1d, [t.double() for t in (x, weight, bias)], "silu")
    for view in (
        torch.cat([x, x], dim=-1)[..., 2 * LANES :],
        x.transpose(0, 1).contiguous().transpose(0, 1),
        x.transpose(1, 2).contiguous().transpose(1, 2),
    ):
        assert not view.is_contiguous()
        leaves = [
            view.detach().requires_grad_(),
            weight.T.contiguous().T.requires_grad_(),
            bias.requires_grad_(),
        ]
        y = causal_conv1d(*leaves, activation="silu")
        assert_near([y.detach(), *torch.autograd.grad((y**2).sum() / 2, leaves)], expected, 1e-6)


@pytest.mark.parametrize("silu", [False, True])
def test_operators_keep_the_rules_of_custom_operators(silu: bool) -> None:
    leaves = [t.float().requires_grad_() for t in example(2, 7, LANES + 3, 4)]
    torch.library.opcheck(torch.ops.compressm.causal_conv1d_v2.default, (*leaves, silu))
    plain = [t.detach() for t in leaves]
    torch.library.opcheck(
        torch.ops.compressm.causal_conv1d_backward_v2.default,
        (torch.ones_like(plain[0]), *plain, silu, [True, True, True]),
    )


def test_compiles_whole() -> None:
    inputs = [t.float() for t in example(2, 7, LANES + 3, 4)]
    expected = with_gradients(reference.causal_conv1d, [t.double() for t in inputs], "silu")
    compiled = torch.compile(causal_conv1d, fullgraph=True, backend="aot_eager")
    assert_near(with_gradients(compiled, inputs, "silu"), expected, 1e-6)


@pytest.mark.parametrize("shape", [(0, 5), (2, 0)])
def test_nothing_in_nothing_out(shape: tuple[int, int]) -> None:
    y, dx, dweight, dbias = with_gradients(
        causal_conv1d, [t.float() for t in example(*shape, LANES, 4)], "silu"
    )
    assert y.shape == dx.shape == (*shape, LANES)
    assert dweight.eq(0).all()
    assert dbias.eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_flops_are_those_torch_counts(dtype: torch.dtype) -> None:
    leaves = [t.to(dtype).requires_grad_() for t in example(2, 7, LANES, 4)]
    with FlopCounterMode(display=False) as counter:
        y = causal_conv1d(*leaves)
    assert counter.get_total_flops() == 2 * 4 * y.numel()


def test_what_does_not_fit_is_named() -> None:
    x, weight, bias = example(2, 7, 3, 4)
    with pytest.raises(ValueError, match="gelu"):
        causal_conv1d(x, weight, bias, "gelu")
    with pytest.raises(ValueError, match="do not fit"):
        causal_conv1d(x, weight[:2], bias)
