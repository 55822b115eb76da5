"""The state space operations against their definitions, in both forms, in output and gradient."""

from collections.abc import Callable, Iterable
from functools import partial

import pytest
import torch
from torch import Tensor

from compressm_cli.ops import channelwise_ssm, diagonal_ssm, recurrent, reference
from compressm_cli.ops.convolution import channelwise_convolution, mimo_convolution
from compressm_cli.ops.forms import FORMS, Form

# batch, length, inputs, outputs, states.
MIMO = [
    (1, 1, 1, 1, 1),
    (2, 63, 2, 3, 5),
    (3, 64, 1, 1, 4),
    (1, 65, 3, 1, 2),
    (2, 100, 1, 2, 8),
    (1, 1, 4, 3, 1),
    (2, 2, 5, 3, 4),
    (1, 63, 4, 4, 1),
    (2, 65, 6, 2, 6),
]
CHANNELWISE = [(1, 1, 1, 1), (2, 2, 3, 1), (1, 63, 1, 4), (3, 64, 2, 3), (2, 65, 5, 2), (1, 130, 2, 3)]
DTYPES = [(torch.float64, 1e-11), (torch.float32, 2e-5)]


def draw(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def poles(*shape: int) -> tuple[Tensor, Tensor]:
    """log |lambda| between log 0.999 and log 1e-12, angles 0 to pi."""
    count = torch.Size(shape).numel()
    log_abs = -torch.logspace(-3, 1.44, count, dtype=torch.float64).view(shape)
    return log_abs, torch.linspace(0, torch.pi, count, dtype=torch.float64).view(shape)


def mimo_example(batch: int, length: int, p: int, q: int, n: int) -> list[Tensor]:
    u, B_re, B_im, C_re, C_im = draw(length, (batch, length, p), (n, p), (n, p), (q, n), (q, n))
    return [u, *poles(n), B_re, B_im, C_re, C_im]


def channelwise_example(batch: int, length: int, h: int, n: int) -> list[Tensor]:
    u, C_re, C_im = draw(length, (batch, length, h), (h, n), (h, n))
    return [u, *poles(h, n), C_re, C_im]


def from_definition(definition: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The reference takes poles in Cartesian form, the operations in polar form."""

    def run(u: Tensor, log_abs: Tensor, angle: Tensor, *rest: Tensor) -> Tensor:
        size = torch.exp(log_abs)
        return definition(u, size * torch.cos(angle), size * torch.sin(angle), *rest)

    return run


def output_and_gradients(operation: Callable[..., Tensor], inputs: Iterable[Tensor]) -> list[Tensor]:
    """y, and the gradients of |y|^2 / 2, which unlike those of a random sum do not cancel out."""
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    y = operation(*leaves)
    return [y.detach(), *torch.autograd.grad((y**2).sum() / 2, leaves)]


def assert_agree(
    operation: Callable[..., Tensor],
    definition: Callable[..., Tensor],
    inputs: list[Tensor],
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    expected = output_and_gradients(from_definition(definition), inputs)
    actual = output_and_gradients(operation, [t.to(dtype) for t in inputs])
    for a, e in zip(actual, expected, strict=True):
        assert (a.shape, a.dtype) == (e.shape, dtype)
        assert ((a.double() - e).abs().max() / e.abs().max().clamp_min(1.0)).item() <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", MIMO)
@pytest.mark.parametrize("form", [None, *FORMS])
def test_diagonal_ssm_matches_the_definition(
    form: Form | None, shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    operation = partial(diagonal_ssm, form=form)
    assert_agree(operation, reference.diagonal_ssm, mimo_example(*shape), dtype, tolerance)


@pytest.mark.parametrize("form", FORMS)
def test_the_feedthrough_is_added(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrent, "ENTRIES_AT_ONCE", 100)  # several parts
    inputs = [*mimo_example(5, 21, 3, 3, 4), torch.randn(3, dtype=torch.float64)]

    def definition(*tensors: Tensor) -> Tensor:
        return from_definition(reference.diagonal_ssm)(*tensors[:-1]) + tensors[0] * tensors[-1]

    expected = output_and_gradients(definition, inputs)
    for a, e in zip(output_and_gradients(partial(diagonal_ssm, form=form), inputs), expected, strict=True):
        torch.testing.assert_close(a, e, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", CHANNELWISE)
@pytest.mark.parametrize("operation", [channelwise_ssm, channelwise_convolution])
def test_channelwise_ssm_matches_the_definition(
    operation: Callable[..., Tensor], shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    assert_agree(operation, reference.channelwise_ssm, channelwise_example(*shape), dtype, tolerance)


@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        (diagonal_ssm, mimo_example(2, 6, 2, 1, 3)),
        (diagonal_ssm, mimo_example(2, 6, 3, 2, 2)),
        (channelwise_ssm, channelwise_example(2, 6, 2, 3)),
    ],
)
def test_gradient_is_that_of_finite_differences(
    operation: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    assert torch.autograd.gradcheck(operation, [t.requires_grad_() for t in inputs], fast_mode=True)


@pytest.mark.parametrize("operation", [mimo_convolution, channelwise_convolution])
def test_convolution_keeps_its_phase_at_long_lags_in_float32(operation: Callable[..., Tensor]) -> None:
    """k angle is far larger than 2 pi where k is large: its rounding must not turn the response."""
    length, n = 8192, 4
    log_abs, angle = torch.full((n,), -1e-4), torch.tensor([0.7, 1.9, 2.8, 3.1])
    u = torch.zeros(1, length, 1)
    u[:, 0] = 1.0
    ones, zeros = torch.ones(1, n), torch.zeros(1, n)
    if operation is mimo_convolution:
        y = mimo_convolution(u, log_abs, angle, ones.T, zeros.T, ones, zeros)
    else:
        y = channelwise_convolution(u, log_abs[None], angle[None], ones, zeros)
    k = torch.arange(length, dtype=torch.float64)[:, None]
    expected = (torch.exp(k * log_abs.double()) * torch.cos(k * angle.double())).sum(-1)
    assert (y[0, :, 0].double() - expected).abs().max().item() < 5e-6


@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        (diagonal_ssm, mimo_example(3, 9, 1, 2, 5)),
        (diagonal_ssm, mimo_example(3, 9, 4, 3, 2)),
        (channelwise_ssm, channelwise_example(3, 9, 4, 2)),
    ],
)
def test_accepts_views_and_leaves_inputs_alone(
    operation: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    # Every second entry of a tensor twice as wide.
    views = [t.repeat_interleave(2, dim=-1)[..., ::2] for t in inputs]
    copies = [v.clone() for v in views]
    torch.testing.assert_close(operation(*views), operation(*inputs), rtol=1e-12, atol=1e-12)
    assert not any(v.is_contiguous() for v in views)
    assert all(torch.equal(v, c) for v, c in zip(views, copies, strict=True))


def test_autocast_projects_in_bfloat16() -> None:
    inputs = [t.float() for t in mimo_example(2, 40, 6, 5, 3)]
    expected = output_and_gradients(diagonal_ssm, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = output_and_gradients(diagonal_ssm, inputs)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert 1e-5 < ((a - e).norm() / e.norm()).item() < 0.03


def test_autocast_keeps_the_state_in_float32() -> None:
    """A sum of 2000 ones: in bfloat16 it would end at 256."""
    one, zero = torch.ones(1, 1), torch.zeros(1, 1)
    u, log_abs = torch.ones(1, 2000, 1), torch.full((1,), -1e-9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = diagonal_ssm(u, log_abs, torch.zeros(1), one, zero, one, zero, form="recurrent")
    assert y[0, -1, 0].item() == pytest.approx(2000, rel=0.01)


@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        (partial(diagonal_ssm, form="convolution"), mimo_example(2, 40, 2, 1, 5)),
        (channelwise_ssm, channelwise_example(2, 40, 3, 4)),
    ],
)
def test_autocast_leaves_convolutions_in_float32(
    operation: Callable[..., Tensor], inputs: list[Tensor]
) -> None:
    inputs = [t.float() for t in inputs]
    low = [inputs[0].bfloat16(), *inputs[1:]]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = operation(*low)
    assert y.dtype == torch.float32
    assert torch.equal(y, operation(low[0].float(), *inputs[1:]))


@pytest.mark.parametrize(
    ("operation", "inputs"),
    [
        (diagonal_ssm, mimo_example(2, 9, 1, 2, 5)),
        (diagonal_ssm, mimo_example(2, 9, 4, 3, 2)),
        (channelwise_ssm, channelwise_example(2, 9, 4, 2)),
    ],
)
def test_meta_device_gives_shapes(operation: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    expected = output_and_gradients(operation, inputs)
    leaves = [t.detach().to("meta").requires_grad_() for t in inputs]
    y = operation(*leaves)
    assert (y.shape, y.device.type) == (expected[0].shape, "meta")
    gradients = torch.autograd.grad(y.sum(), leaves)
    assert [g.shape for g in gradients] == [e.shape for e in expected[1:]]
