"""The gate of a block and its dropout: the same values and gradients as the definition, with the same masks."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compressm_cli.ops import gated
from compressm_cli.ops.dropout import BLOCK, dropout_
from compressm_cli.ops.gated import gated_residual


def definition(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x + functional.glu(functional.linear(functional.gelu(y), weight, bias))


def example(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(sum(shape))
    width = shape[-1]
    shapes = [shape, shape, (2 * width, width), (2 * width,)]
    return [
        torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes
    ]


def output_and_gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad((y**2).sum() / 2, inputs)]


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 63, 3), (3, 300, 2), (5, 4)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_without_dropout_it_is_the_definition(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gated, "ENTRIES_AT_ONCE", 300)  # several parts
    exact = example(*shape)
    expected = output_and_gradients(definition(*exact), exact)
    inputs = example(*shape, dtype=dtype)
    for a, e in zip(output_and_gradients(gated_residual(*inputs), inputs), expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * float(e.abs().max()))


def test_the_gradient_sees_the_masks_of_the_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated, "ENTRIES_AT_ONCE", 1)
    monkeypatch.setattr(gated, "_parts", lambda y: [slice(0, 5), slice(5, 10), slice(10, len(y))])
    inputs = example(2, 6, 3)

    def seeded(*tensors: Tensor) -> Tensor:
        torch.manual_seed(0)
        return gated_residual(*tensors, dropout=0.4, training=True)

    assert not torch.allclose(seeded(*inputs), definition(*inputs))
    assert torch.autograd.gradcheck(seeded, inputs)


def test_views_are_as_good_as_copies() -> None:
    """A batch of one transposed: the rows of a view that looks flat but is not."""
    x, y, weight, bias = example(1, 7, 3)
    transposed = y.detach().transpose(0, 1).contiguous().transpose(0, 1)[:, ::1].requires_grad_()
    strided = y.detach().mT.contiguous().mT.requires_grad_()
    results = []
    for view in (y, transposed, strided):
        torch.manual_seed(0)
        out = gated_residual(x, view, weight, bias, dropout=0.4, training=True)
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), (x, view, weight, bias))))
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_evaluation_drops_nothing() -> None:
    inputs = example(2, 6, 3)
    torch.testing.assert_close(gated_residual(*inputs, dropout=0.9, training=False), definition(*inputs))


def test_inputs_are_not_changed() -> None:
    inputs = example(2, 6, 3)
    copies = [t.detach().clone() for t in inputs]
    gated_residual(*inputs, dropout=0.5, training=True).sum().backward()
    assert all(torch.equal(a.detach(), b) for a, b in zip(inputs, copies, strict=True))


def test_autocast_multiplies_in_bfloat16_and_keeps_the_residual_in_float32() -> None:
    inputs = example(2, 40, 8, dtype=torch.float32)
    expected = output_and_gradients(definition(*inputs), inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = gated_residual(*inputs)
    for a, e in zip(output_and_gradients(y, inputs), expected, strict=True):
        assert a.dtype == torch.float32
        assert 1e-4 < ((a - e).norm() / e.norm()).item() < 0.02


# ---- dropout ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_share_and_the_scale_of_what_is_kept(p: float, dtype: torch.dtype) -> None:
    n = 3 * BLOCK + 17
    x = dropout_(torch.ones(n, dtype=dtype), p, seed=12345678901234)
    kept = x != 0
    assert torch.equal(x[kept].unique(), torch.tensor([1 / (1 - p)], dtype=dtype))
    # Five standard deviations of a binomial share.
    assert abs(float(kept.double().mean()) - (1 - p)) < 5 * (p * (1 - p) / n) ** 0.5


def keep(seed: int, n: int = 1 << 20) -> Tensor:
    return (dropout_(torch.ones(n, dtype=torch.float64), 0.3, seed) != 0).double() - 0.7


@pytest.mark.parametrize("lag", [1, 2, 7, 8, 64, 1000, BLOCK])
def test_neighbours_are_independent(lag: int) -> None:
    mask = keep(2**61 + 9)
    correlation = float((mask[:-lag] * mask[lag:]).mean()) / 0.21
    assert abs(correlation) < 5 / (len(mask) - lag) ** 0.5


@pytest.mark.parametrize("other", [3**30 + 1, 3**30 + 2**33, 7])
def test_seeds_are_independent(other: int) -> None:
    one, two = keep(3**30), keep(other)
    assert abs(float((one * two).mean()) / 0.21) < 5 / len(one) ** 0.5


def test_masks_do_not_depend_on_the_number_of_threads() -> None:
    threads = torch.get_num_threads()
    masks = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            masks.append(keep(99, n=5 * BLOCK + 1))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], masks[2])


def test_the_random_state_of_the_process_decides_the_masks() -> None:
    inputs = example(2, 40, 8)
    torch.manual_seed(1)
    one = gated_residual(*inputs, dropout=0.5, training=True)
    two = gated_residual(*inputs, dropout=0.5, training=True)
    torch.manual_seed(1)
    assert torch.equal(gated_residual(*inputs, dropout=0.5, training=True), one)
    assert not torch.equal(one, two)
