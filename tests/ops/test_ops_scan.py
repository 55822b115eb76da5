"""The diagonal scan: every implementation against its definition, in output and gradient."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.ops import cpu, diagonal_scan, reference, torch_scan

SHAPES = [(1, 1, 1), (1, 2, 1), (3, 2, 4), (2, 63, 3), (1, 64, 2), (5, 65, 1)]
DTYPES = [(torch.float64, 1e-12), (torch.float32, 2e-5)]

Result = tuple[Tensor, Tensor, Tensor, Tensor]


def example(
    batch: int, length: int, n: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """x and poles of sizes 0.3 to 0.999, at all angles, one of them real."""
    generator = torch.Generator().manual_seed(batch * 1000 + length * 10 + n)
    x = torch.randn(batch, length, 2 * n, generator=generator, dtype=torch.float64)
    size = torch.linspace(0.3, 0.999, n, dtype=torch.float64)
    angle = torch.linspace(0, 3, n, dtype=torch.float64)
    return tuple(t.to(dtype) for t in (x, size * torch.cos(angle), size * torch.sin(angle)))  # type: ignore[return-value]


def with_gradients(
    scan: Callable[..., Tensor], inputs: tuple[Tensor, Tensor, Tensor], weight: Tensor
) -> Result:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    h = scan(*leaves)
    return h.detach(), *torch.autograd.grad((h * weight.to(h.dtype)).sum(), leaves)


def from_pair(module: object) -> Callable[..., Result]:
    """An implementation as it is registered: separate forward and backward functions."""

    def run(inputs: tuple[Tensor, Tensor, Tensor], weight: Tensor) -> Result:
        x, poles_re, poles_im = inputs
        h = module.scan_forward(x, poles_re, poles_im)  # type: ignore[attr-defined]
        return h, *module.scan_backward(weight.to(h.dtype), h, poles_re, poles_im)  # type: ignore[attr-defined]

    return run


IMPLEMENTATIONS = {
    "operator": lambda inputs, weight: with_gradients(diagonal_scan, inputs, weight),
    "cpu": from_pair(cpu),
    "torch_scan": from_pair(torch_scan),
}


def assert_near(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    assert actual.shape == expected.shape
    scale = expected.abs().max().clamp_min(1.0)
    assert ((actual.double() - expected).abs().max() / scale).item() <= tolerance


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(
    shape: tuple[int, int, int], dtype: torch.dtype, tolerance: float, implementation: str
) -> None:
    inputs = example(*shape)
    weight = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = with_gradients(reference.diagonal_scan, inputs, weight)
    cast = tuple(t.to(dtype) for t in inputs)
    actual = IMPLEMENTATIONS[implementation](cast, weight)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == dtype
        assert_near(a, e, tolerance)


def test_gradient_is_that_of_finite_differences() -> None:
    inputs = tuple(t.requires_grad_() for t in example(2, 7, 3))
    assert torch.autograd.gradcheck(diagonal_scan, inputs)


@pytest.mark.parametrize("shape", [(2, 5, 3), (1, 1, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_operators_keep_the_rules_of_custom_operators(
    shape: tuple[int, int, int], dtype: torch.dtype
) -> None:
    x, poles_re, poles_im = example(*shape, dtype)
    leaves = tuple(t.clone().requires_grad_() for t in (x, poles_re, poles_im))
    torch.library.opcheck(torch.ops.compressm.diagonal_scan_v2.default, leaves)
    torch.library.opcheck(
        torch.ops.compressm.diagonal_scan_backward_v2.default, (x, x.clone(), poles_re, poles_im, True)
    )


def test_accepts_views_and_leaves_inputs_alone() -> None:
    x, poles_re, poles_im = example(3, 9, 4)
    view = x.transpose(0, 1).contiguous().transpose(0, 1)
    poles = torch.stack([poles_re, poles_im], dim=1)
    copies = [t.clone() for t in (view, poles)]
    h = diagonal_scan(view, poles[:, 0], poles[:, 1])
    assert not view.is_contiguous()
    assert_near(h, reference.diagonal_scan(x, poles_re, poles_im), 1e-12)
    assert torch.equal(view, copies[0])
    assert torch.equal(poles, copies[1])


def test_output_is_a_fresh_tensor() -> None:
    inputs = example(2, 1, 2)
    storages = {t.untyped_storage().data_ptr() for t in inputs}
    for h in (diagonal_scan(*inputs), torch_scan.scan_forward(*inputs)):
        assert h.untyped_storage().data_ptr() not in storages


@pytest.mark.parametrize("shape", [(0, 5, 3), (2, 0, 3)])
def test_nothing_in_nothing_out(shape: tuple[int, int, int]) -> None:
    leaves = [t.requires_grad_() for t in example(*shape)]
    h = diagonal_scan(*leaves)
    gradients = torch.autograd.grad(h.sum(), leaves)
    assert h.shape == (shape[0], shape[1], 2 * shape[2])
    assert gradients[1].tolist() == gradients[2].tolist() == [0.0] * shape[2]


@pytest.mark.parametrize("threads", [1, 3])
def test_result_does_not_depend_on_the_number_of_threads(threads: int) -> None:
    inputs = example(7, 20, 3)
    weight = torch.ones_like(inputs[0])
    expected = with_gradients(reference.diagonal_scan, inputs, weight)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        actual = with_gradients(diagonal_scan, inputs, weight)
    finally:
        torch.set_num_threads(before)
    for a, e in zip(actual, expected, strict=True):
        assert_near(a, e, 1e-12)


def test_inputs_of_lower_precision_are_scanned_in_that_of_the_poles() -> None:
    x, poles_re, poles_im = example(2, 30, 3, torch.float32)
    low = x.bfloat16().requires_grad_()
    h = diagonal_scan(low, poles_re, poles_im)
    assert h.dtype == torch.float32
    assert_near(h, reference.diagonal_scan(low.double(), poles_re.double(), poles_im.double()), 2e-6)
    assert torch.autograd.grad(h.sum(), low)[0].dtype == torch.bfloat16


def test_meta_device_gives_shapes() -> None:
    x, poles_re, poles_im = (t.to("meta").requires_grad_() for t in example(2, 5, 3, torch.float32))
    h = diagonal_scan(x, poles_re, poles_im)
    assert (h.shape, h.dtype, h.device.type) == (x.shape, torch.float32, "meta")
    gradients = torch.autograd.grad(h.sum(), (x, poles_re, poles_im))
    assert [g.shape for g in gradients] == [x.shape, poles_re.shape, poles_im.shape]


def test_flops_are_eight_a_state_and_step_and_twice_that_backward() -> None:
    batch, length, n = 2, 5, 3
    leaves = [t.requires_grad_() for t in example(batch, length, n)]
    with FlopCounterMode(display=False) as counter:
        h = diagonal_scan(*leaves)
    assert counter.get_total_flops() == 8 * batch * length * n
    with FlopCounterMode(display=False) as counter:
        h.backward(torch.ones_like(h))
    assert counter.get_total_flops() == 16 * batch * length * n
