"""The loss at a head with many classes: that of its definition, with a part of the scores at a time."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from compressm_cli.objectives import linear_cross_entropy as module
from compressm_cli.objectives.linear_cross_entropy import linear_cross_entropy


def example(
    rows: int, width: int, classes: int, dtype: torch.dtype = torch.float64
) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(rows)
    made = [
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in ((rows, width), (classes, width), (classes,))
    ]
    labels = torch.randint(0, classes, (rows,), generator=generator)
    labels[::3] = -100
    return [t.to(dtype).requires_grad_() for t in made], labels


def definition(x: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> Tensor:
    return functional.cross_entropy(functional.linear(x, weight, bias), labels, reduction="sum")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_AT_ONCE", 200)


@pytest.mark.parametrize("sizes", [(5, 3, 7), (70, 16, 40), (1, 1, 1), (40, 4, 1)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
@pytest.mark.parametrize("bias", [True, False])
def test_loss_and_gradients_are_those_of_the_definition(
    sizes: tuple[int, int, int], dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    exact, labels = example(*sizes)
    inputs = example(*sizes, dtype)[0]
    wanted, given = [ts if bias else ts[:2] for ts in (exact, inputs)]
    last = (None,) if not bias else ()
    expected = definition(*wanted, *last, labels)
    loss = linear_cross_entropy(*given, *last, labels)
    assert loss.dtype == dtype
    pairs = zip(torch.autograd.grad(3 * loss, given), torch.autograd.grad(3 * expected, wanted), strict=True)
    for a, e in ((loss.detach(), expected.detach()), *pairs):
        largest = max(1.0, float(e.abs().max()))
        torch.testing.assert_close(a.double(), e, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_what_is_frozen_gets_no_gradient(frozen: int) -> None:
    inputs, labels = example(9, 3, 5)
    expected = torch.autograd.grad(definition(*inputs, labels), inputs)
    inputs[frozen].requires_grad_(False)
    linear_cross_entropy(*inputs, labels).backward()
    for i, tensor in enumerate(inputs):
        if i == frozen:
            assert tensor.grad is None
        else:
            torch.testing.assert_close(tensor.grad, expected[i], rtol=1e-12, atol=1e-12)


class _Largest(TorchDispatchMode):
    """The most entries of any tensor that is made."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        sizes = [leaf.numel() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.entries = max([self.entries, *sizes])
        return result


def test_the_scores_are_never_all_there() -> None:
    inputs, labels = example(320, 3, 50)
    with _Largest() as made:
        linear_cross_entropy(*inputs, labels).backward()
    assert made.entries == max(320 * 3, module.LEAST_ROWS * 50)


def test_under_autocast_the_products_are_bfloat16_and_the_loss_is_float32() -> None:
    inputs, labels = example(60, 16, 12, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = linear_cross_entropy(*inputs, labels)
    assert loss.dtype == torch.float32
    expected = definition(*inputs, labels)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.0)
    for a, e in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, e, rtol=0.05, atol=0.03 * float(e.abs().max()))
