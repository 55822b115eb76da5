"""Batch normalization over real steps, against an independent computation on those steps side by side."""

import pytest
import torch
from torch import Tensor, nn

from compressm_cli.models.norms import SequenceNorm
from compressm_cli.ops.batch_norm import batch_norm

LENGTHS = torch.tensor([9, 4, 1, 6])
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def real_steps(length: int, lengths: Tensor = LENGTHS) -> Tensor:
    return torch.arange(length) < lengths[:, None]


def steps(length: int, filling: float = 0.0, width: int = 5) -> tuple[Tensor, Tensor]:
    """Rows (4, length, width) in float64 with the same real steps whatever the length, and the steps of them."""
    generator = torch.Generator().manual_seed(0)
    rows = 3 * torch.randn(len(LENGTHS), 9, width, dtype=torch.float64, generator=generator) + 2
    x, real = torch.full((len(LENGTHS), length, width), filling, dtype=torch.float64), real_steps(length)
    x[:, :9][real[:, :9]] = rows[real[:, :9]]
    return x, real


def by_hand(x: Tensor, real: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, the gradient of sum(weights y), and mean and unbiased variance, of the steps side by side (steps, width)."""
    side = x[real].detach().requires_grad_()
    mean, variance = side.mean(0), side.var(0, correction=0)
    y = (side - mean) / torch.sqrt(variance + 1e-5)
    (gradient,) = torch.autograd.grad((y * weights[real]).sum(), side)
    return y.detach(), gradient, mean.detach(), side.detach().var(0, correction=1)


@pytest.mark.parametrize("filling", [0.0, 100.0, torch.inf, torch.nan])
@pytest.mark.parametrize("length", [9, 10, 40])
def test_it_is_that_of_the_real_steps_alone(length: int, filling: float) -> None:
    x, real = steps(length, filling)
    weights = torch.randn(4, length, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x.requires_grad_()
    y, mean, variance = batch_norm(x, real, 1e-5)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    for found, wanted in zip(
        (y[real], gradient[real], mean, variance), by_hand(x, real, weights), strict=True
    ):
        torch.testing.assert_close(found, wanted, **EXACT)
    assert not y[~real].any()
    assert not gradient[~real].any()


def test_running_statistics_count_real_steps() -> None:
    """Of three batches, as PyTorch's own keeps them of the steps side by side."""
    norm, own = SequenceNorm(5, 1e-5).double(), nn.BatchNorm1d(5, affine=False).double()
    for number in range(3):
        x, real = steps(9 + 7 * number)
        x = x * (number + 1) + number
        y = norm(x, real)
        torch.testing.assert_close(y[real], own(x[real]), **EXACT)
    for name, value in own.state_dict().items():
        torch.testing.assert_close(norm.norm.state_dict()[name], value, **EXACT)
    norm.eval()
    own.eval()
    torch.testing.assert_close(norm(x, real)[real], own(x[real]), **EXACT)


def test_without_padding_it_is_pytorchs_own_to_the_bit() -> None:
    norm, own = SequenceNorm(5, 1e-5), nn.BatchNorm1d(5, affine=False)
    assert [f"norm.{name}" for name in own.state_dict()] == list(norm.state_dict())
    found = []
    for training in (True, True, False):
        x = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)).requires_grad_()
        for module in (norm.train(training), own.train(training)):
            y = module(x) if module is norm else own(x.flatten(0, 1)).view_as(x)
            found.append((y, *torch.autograd.grad(y.square().sum() + y.sum(), x)))
        assert all(torch.equal(a, b) for a, b in zip(*found[-2:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(norm.buffers(), own.buffers(), strict=True))


def test_the_gradient_is_that_of_finite_differences() -> None:
    x, real = steps(10, width=2)
    x[~real] = 0.5
    assert torch.autograd.gradcheck(lambda u: batch_norm(u, real, 1e-5)[0], x.requires_grad_())


def test_a_single_step_has_no_variance() -> None:
    norm = SequenceNorm(5, 1e-5)
    for x, real in ((torch.ones(1, 1, 5), None), (torch.ones(2, 3, 5), real_steps(3, torch.tensor([1, 0])))):
        with pytest.raises(ValueError, match=r"more than (1 value|one step)"):
            norm(x, real)
    assert torch.equal(norm.norm.running_mean, torch.zeros(5))
    norm.eval()
    assert torch.isfinite(norm(torch.ones(1, 1, 5), real_steps(1, torch.tensor([1])))).all()


def test_bfloat16_has_statistics_in_float32() -> None:
    x, real = steps(12)
    norm = SequenceNorm(5, 1e-5)
    y = norm((x + 60).bfloat16(), real)
    assert (y.dtype, norm.norm.running_mean.dtype) == (torch.bfloat16, torch.float32)
    rounded = (x + 60).bfloat16().double()[real]
    torch.testing.assert_close(norm.norm.running_mean.double(), 0.1 * rounded.mean(0), rtol=1e-6, atol=0)
    wanted = (rounded - rounded.mean(0)) / rounded.var(0, correction=0).sqrt()
    torch.testing.assert_close(y[real].double(), wanted, rtol=2**-8, atol=1e-4)


@pytest.mark.slow
def test_it_compiles_in_one_piece() -> None:
    found = []
    for compiled in (False, True):
        norm = SequenceNorm(5, 1e-5)
        called = torch.compile(norm, fullgraph=True) if compiled else norm
        x, real = steps(12, 7.0)
        x = x.float().requires_grad_()
        y = called(x, real)
        found.append((y, *torch.autograd.grad(y.pow(3).sum(), x), *norm.buffers()))
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(other, eager, rtol=1e-5, atol=1e-5)
