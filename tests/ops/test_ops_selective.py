"""The selective scan: every implementation against its definition, in output and gradient."""

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.ops import (
    parallel,
    reference,
    selective,
    selective_cpu,
    selective_scan,
    selective_scan_gated,
    selective_torch,
    simd,
)

SHAPES = [
    (1, 1, 1, 1),
    (2, 1, 16, 3),
    (2, 63, 3, 5),
    (1, 16, 64, 1),
    (3, 17, 130, 4),
    (2, 40, 72, 33),
    (1, 33, 65, 128),
]
"""batch, length, channels, N."""
TOLERANCES = {torch.float64: (1e-13, 1e-13), torch.float32: (1e-6, 2e-6)}
"""Of the output and of gradients, in norm."""


def example(batch: int, length: int, channels: int, n: int) -> list[Tensor]:
    """x, dt, A, B, C, D in float64: decays from hardly any to all within a step."""
    generator = torch.Generator().manual_seed(batch * 1000 + length * 10 + channels + n)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    dt = torch.exp(draw(batch, length, channels) - 3)
    A = -torch.arange(1.0, n + 1, dtype=torch.float64) * torch.exp(draw(channels, n))
    return [
        draw(batch, length, channels),
        dt,
        A,
        draw(batch, length, n),
        draw(batch, length, n),
        draw(channels),
    ]


def gated_example(batch: int, length: int, channels: int, n: int) -> list[Tensor]:
    """As the arguments of ``selective_scan_gated``."""
    x, dt, A, B, C, D = example(batch, length, channels, n)
    raw = torch.log(torch.expm1(dt))
    return [x, raw - D, D, A, B, C, D.flip(0), x.flip(1) * 3]


def some_kept(channels: int, n: int) -> Tensor:
    """From none to all, in no order."""
    kept = torch.linspace(0, n, channels).round().to(torch.int64)
    return kept[torch.randperm(channels, generator=torch.Generator().manual_seed(channels))]


def with_gradients(function: Callable[..., Tensor], inputs: list[Tensor]) -> list[Tensor]:
    leaves = [t.detach().clone().requires_grad_() for t in inputs]
    y = function(*leaves)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y * weight.to(y.dtype)).sum(), leaves)]


def assert_near(actual: list[Tensor], expected: list[Tensor], dtype: torch.dtype) -> None:
    for i, (a, e) in enumerate(zip(actual, expected, strict=True)):
        assert (a.dtype, a.shape) == (dtype, e.shape)
        error = torch.linalg.vector_norm(a.double() - e) / torch.linalg.vector_norm(e).clamp_min(1e-30)
        assert error.item() <= TOLERANCES[dtype][min(i, 1)], i


def rounded(inputs: list[Tensor], dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor]]:
    """In dtype, and those same numbers in float64."""
    low = [t.to(dtype) for t in inputs]
    return low, [t.double() for t in low]


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("some", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_definition(shape: tuple[int, ...], dtype: torch.dtype, some: bool) -> None:
    kept = some_kept(*shape[2:]) if some else None
    inputs, exact = rounded(example(*shape), dtype)
    expected = with_gradients(lambda *t: reference.selective_scan(*t, kept=kept), exact)
    assert_near(with_gradients(lambda *t: selective_scan(*t, kept=kept), inputs), expected, dtype)


@pytest.mark.parametrize("some", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("shape", SHAPES[2:6])
def test_gated_matches_the_definition(shape: tuple[int, ...], dtype: torch.dtype, some: bool) -> None:
    kept = some_kept(*shape[2:]) if some else None
    inputs, exact = rounded(gated_example(*shape), dtype)
    expected = with_gradients(lambda *t: reference.selective_scan_gated(*t, kept=kept), exact)
    assert_near(with_gradients(lambda *t: selective_scan_gated(*t, kept=kept), inputs), expected, dtype)


def test_definition_is_the_discretized_system() -> None:
    inputs = example(1, 7, 2, 3)
    y = reference.selective_scan(*inputs)
    x, dt, A, B, C, D = (t.numpy() for t in inputs)
    for d in range(2):
        h = np.zeros(3)
        for t in range(7):
            h = np.exp(dt[0, t, d] * A[d]) * h + dt[0, t, d] * x[0, t, d] * B[0, t]
            assert y[0, t, d].item() == pytest.approx(C[0, t] @ h + D[d] * x[0, t, d])


@pytest.mark.parametrize("gated", [False, True])
def test_gradient_is_that_of_finite_differences(gated: bool) -> None:
    inputs = (gated_example if gated else example)(2, 5, 3, 2)
    function = selective_scan_gated if gated else selective_scan
    kept = torch.tensor([2, 0, 1])
    leaves = [t.requires_grad_() for t in inputs]
    assert torch.autograd.gradcheck(lambda *t: function(*t, kept=kept), leaves)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("some", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("gated", [False, True])
def test_operators_keep_the_rules_of_custom_operators(dtype: torch.dtype, some: bool, gated: bool) -> None:
    x, dt, A, B, C, D = (t.to(dtype).requires_grad_() for t in example(2, 19, 18, 3))
    kept = some_kept(18, 3) if some else None
    gate = (
        (D.detach().clone().requires_grad_(), x.detach().clone().requires_grad_()) if gated else (None, None)
    )
    operator = torch.ops.compressm.selective_scan_v2.default
    torch.library.opcheck(operator, (x, dt, A, B, C, D, kept, *gate, gated, True))
    torch.library.opcheck(
        operator, (*(t.detach() for t in (x, dt, A, B, C)), None, kept, None, None, False, False)
    )
    plain = [None if t is None else t.detach() for t in (x, dt, A, B, C, D, kept, *gate)]
    _, y, states = operator(*plain, gated, True)
    backward = torch.ops.compressm.selective_scan_backward_v2.default
    asked = [True] * 6 + [gated] * 2
    torch.library.opcheck(backward, (torch.ones_like(plain[0]), *plain, y, states, asked))


@pytest.mark.parametrize("gated", [False, True])
def test_compiles_whole(gated: bool) -> None:
    function = selective_scan_gated if gated else selective_scan
    inputs, exact = rounded((gated_example if gated else example)(2, 19, 18, 3), torch.float32)
    kept = some_kept(18, 3)

    def scaled(*tensors: Tensor) -> Tensor:
        return 0.5 * function(2 * tensors[0], *tensors[1:], kept=kept)

    expected = with_gradients(scaled, exact)
    compiled = torch.compile(scaled, fullgraph=True, backend="aot_eager")
    assert_near(with_gradients(compiled, inputs), expected, torch.float32)


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_result_does_not_depend_on_the_number_of_threads(
    number: int, batch: int, threads: Callable[[int], None]
) -> None:
    inputs, exact = rounded(example(batch, 20, 130, 5), torch.float32)
    expected = with_gradients(reference.selective_scan, exact)
    threads(number)
    assert_near(with_gradients(selective_scan, inputs), expected, torch.float32)


def test_views_of_any_layout() -> None:
    x, dt, A, B, C, D = (t.float() for t in example(3, 21, 40, 6))
    expected = with_gradients(reference.selective_scan, [t.double() for t in (x, dt, A, B, C, D)])
    views = [
        torch.cat([x, x], dim=-1)[..., 40:],
        dt.transpose(1, 2).contiguous().transpose(1, 2),
        A.T.contiguous().T,
        torch.cat([C, B, C], dim=-1)[..., 6:12],
        C.transpose(0, 1).contiguous().transpose(0, 1),
        torch.stack([D, D], dim=1)[:, 0],
    ]
    copies = [t.clone() for t in views]
    y = selective_scan(*views)
    assert_near([y], expected[:1], torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(views, copies, strict=True))
    leaves = [t.detach().requires_grad_() for t in views]
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    spread = weight.transpose(0, 1).contiguous().transpose(0, 1)
    gradients = torch.autograd.grad(selective_scan(*leaves), leaves, spread)
    assert_near([y, *gradients], expected, torch.float32)


def test_states_that_are_not_kept_get_no_gradient_and_may_be_anything() -> None:
    inputs = [t.float() for t in example(2, 20, 40, 6)]
    kept = some_kept(40, 6)
    dropped = torch.arange(6) >= kept[:, None]
    clean = with_gradients(lambda *t: selective_scan(*t, kept=kept), inputs)
    assert clean[3][dropped].eq(0).all()
    assert clean[3][~dropped].ne(0).all()
    inputs[2] = torch.where(dropped, torch.nan, inputs[2])
    spoiled = with_gradients(lambda *t: selective_scan(*t, kept=kept), inputs)
    assert all(torch.equal(a, b) for a, b in zip(clean, spoiled, strict=True))


def test_order_of_channels_does_not_matter() -> None:
    """Sorted, whole vectors are loaded; otherwise one channel after the other."""
    inputs = [t.float() for t in example(2, 20, 70, 6)]
    kept = some_kept(70, 6)
    order = torch.argsort(kept, descending=True, stable=True)
    mixed = with_gradients(lambda *t: selective_scan(*t, kept=kept), inputs)

    def by_order(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        y = selective_scan(x[..., order], dt[..., order], A[order], B, C, D[order], kept=kept[order])
        return y[..., order.argsort()]

    assert all(torch.equal(a, b) for a, b in zip(mixed, with_gradients(by_order, inputs), strict=True))


def test_keeping_as_many_everywhere_is_the_smaller_system() -> None:
    x, dt, A, B, C, D = (t.float() for t in example(2, 20, 40, 6))
    kept = torch.full((40,), 2)
    small = selective_scan(x, dt, A[:, :2].contiguous(), B[..., :2], C[..., :2], D)
    assert torch.equal(selective_scan(x, dt, A, B, C, D, kept=kept), small)
    none = selective_scan(x, dt, A, B, C, D, kept=torch.zeros(40, dtype=torch.int64))
    torch.testing.assert_close(none, D * x)


def test_work_is_that_of_the_states_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """How often the kernel, run as Python on numbers instead of vectors, takes a step with a vector of states."""
    kept = torch.tensor([5] * simd.LANES + [1] * (selective_cpu.WIDTH - simd.LANES))
    owners = (torch.arange(5) < kept[:, None]).sum(0).numpy()
    steps = 0

    def store(array: object, index: object, value: object) -> None:
        nonlocal steps
        steps += array == "y"

    for name, stub in {
        "load": lambda *_: 1.0,
        "load_same": lambda *_: 1.0,
        "exp2_of_product": lambda *_: 1.0,
        "store": store,
    }.items():
        monkeypatch.setattr(selective_cpu, name, stub)
    selective_cpu._forward_states.py_func("a", "h", "dt", "u", "y", "B", "C", owners, len(kept), 5)
    vectors = selective_cpu.WIDTH // simd.LANES
    assert steps == selective_cpu.STEPS * (vectors + 4)


def test_inputs_of_lower_precision_are_scanned_in_float32() -> None:
    x, dt, A, B, C, D = example(2, 20, 18, 3)
    low = [t.bfloat16().requires_grad_() for t in (x, dt)]
    rest = [t.float() for t in (A, B, C, D)]
    y = selective_scan(*low, *rest)
    expected = reference.selective_scan(*(t.double() for t in (*low, *rest)))
    assert_near([y.detach()], [expected.detach()], torch.float32)
    assert torch.autograd.grad(y.sum(), low)[1].dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(selective_scan(*low, *rest), y)


def test_strong_decay_and_large_steps_give_numbers() -> None:
    x, dt, A, B, C, D = (t.float() for t in example(1, 9, 20, 3))
    results = with_gradients(selective_scan, [x, dt * 1e6, A * 1e4, B, C, D])
    assert all(t.isfinite().all() for t in results)
    gated = [t.float() for t in gated_example(1, 9, 20, 3)]
    gated[1], gated[-1] = gated[1] * 1e5, gated[-1] * 1e5
    assert all(t.isfinite().all() for t in with_gradients(selective_scan_gated, gated))


def test_not_a_number_stays_one() -> None:
    x, dt, A, B, C, D = (t.float() for t in example(1, 9, 20, 3))
    dt[0, 4, 7] = torch.nan
    y = selective_scan(x, dt, A, B, C, D)
    assert y[0, 4:, 7].isnan().all()
    assert y[0, :4].isfinite().all()
    assert y[0, :, :7].isfinite().all()


@pytest.mark.parametrize("shape", [(0, 5, 18, 3), (2, 0, 18, 3)])
@pytest.mark.parametrize("dtype", TOLERANCES)
def test_nothing_in_nothing_out(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    results = with_gradients(selective_scan, [t.to(dtype) for t in example(*shape)])
    assert results[0].shape == shape[:3]
    assert results[3].eq(0).all()
    assert results[6].eq(0).all()


def test_without_gradient_nothing_is_kept() -> None:
    inputs = [t.float() for t in example(2, 40, 18, 3)]
    _, y, states = torch.ops.compressm.selective_scan_v2(*inputs, None, None, None, False, False)
    assert y.numel() == states.numel() == 0


def test_meta_device_gives_shapes() -> None:
    leaves = [t.to("meta", torch.float32).requires_grad_() for t in example(2, 20, 18, 3)]
    y = selective_scan(*leaves)
    assert (y.shape, y.dtype, y.device.type) == (leaves[0].shape, torch.float32, "meta")
    assert [g.shape for g in torch.autograd.grad(y.sum(), leaves)] == [t.shape for t in leaves]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_flops_count_states_and_steps(device: str) -> None:
    leaves = [t.to(device, torch.float32).requires_grad_() for t in example(2, 20, 18, 3)]
    entries = 2 * 20 * 18 * 3
    with FlopCounterMode(display=False) as counter:
        y = selective_scan(*leaves)
    assert counter.get_total_flops() == selective.FLOPS_FORWARD * entries
    with FlopCounterMode(display=False) as counter:
        y.backward(torch.ones_like(y))
    assert counter.get_total_flops() == 17 * entries


def test_shapes_that_do_not_fit_are_named() -> None:
    x, dt, A, B, C, D = example(2, 20, 18, 3)
    with pytest.raises(ValueError, match="channels, N"):
        selective_scan(x, dt, A.T, B, C, D)
    with pytest.raises(ValueError, match=r"C \(2, 20, 2\) must be \(2, 20, 3\)"):
        selective_scan(x, dt, A, B, C[..., :2], D)
    with pytest.raises(ValueError, match="kept"):
        selective_scan(x, dt, A, B, C, D, kept=torch.ones(3, dtype=torch.int64))


class TestVectors:
    """The functions of vectors that the kernel uses, against float64."""

    def run(self, function: Callable[..., object], x: np.ndarray) -> np.ndarray:
        import numba

        load, store, lanes = simd.load, simd.store, simd.LANES

        @numba.njit
        def kernel(x, y):  # type: ignore[no-untyped-def]
            for i in range(0, len(x), lanes):
                store(y, i, function(load(x, i)))

        y = np.empty_like(x)
        kernel(x, y)
        return y

    def test_exponential(self) -> None:
        import numba

        exp2, same = simd.exp2_of_product, simd.same
        x = np.linspace(-126, 126, 1600 * simd.LANES, dtype=np.float32)
        y = self.run(numba.njit(lambda a: exp2(a, same(1.0))), x)
        assert np.max(np.abs(y / np.exp2(x.astype(np.float64)) - 1)) < 2e-7
        edges = np.full(simd.LANES, -1e30, np.float32)
        edges[:2] = 0.0, np.nan
        y = self.run(numba.njit(lambda a: exp2(a, same(1.0))), edges)
        assert y[0] == 1.0
        assert np.isnan(y[1])
        assert (y[2:] == 0).all()

    def test_sigmoid_and_softplus(self) -> None:
        x = np.linspace(-20, 20, 1600 * simd.LANES, dtype=np.float32)
        exact = x.astype(np.float64)
        assert np.max(np.abs(self.run(simd.sigmoid, x) * (1 + np.exp(-exact)) - 1)) < 1.5e-6
        assert np.max(np.abs(self.run(simd.softplus, x) / np.logaddexp(0, exact) - 1)) < 1.5e-6

    def test_sum(self) -> None:
        import numba

        total, same = simd.total, simd.same
        x = np.arange(simd.LANES, dtype=np.float32)
        y = self.run(numba.njit(lambda a: same(total(a))), x)
        assert (y == math.comb(simd.LANES, 2)).all()


@pytest.mark.parametrize(("batch", "blocks", "number", "parts"), [(4, 2, 2, 1), (1, 8, 2, 2), (3, 1, 2, 1)])
def test_rows_are_cut_where_threads_would_idle(
    batch: int, blocks: int, number: int, parts: int, threads: Callable[[int], None]
) -> None:
    threads(number)
    assert parallel.parts_a_row(batch, blocks) == parts


def test_without_a_kernel_plain_pytorch_computes_the_same() -> None:
    inputs, exact = rounded(gated_example(2, 70, 9, 4), torch.float32)
    x, raw, bias, A, B, C, D, z = inputs
    kept = some_kept(9, 4)
    expected = with_gradients(lambda *t: reference.selective_scan_gated(*t, kept=kept), exact)
    out, y, states = selective_torch.forward(x, raw, A, B, C, D, kept, bias, z, True, True)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    dx, ddt, dA, dB, dC, dD, dbias, dz = selective_torch.backward(
        weight, x, raw, A, B, C, D, kept, bias, z, y, states, [True] * 8
    )
    assert_near([out, dx, ddt, dbias, dA, dB, dC, dD, dz], expected, torch.float32)
