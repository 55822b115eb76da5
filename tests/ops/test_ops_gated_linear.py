"""Gated linear attention: the chunked form against the recurrence, also under strong decay, and its state moments."""

import pytest
import torch
from operator_gradients import as_dtype, assert_near, with_gradients
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.ops import chunked, reference_matrix
from compressm_cli.ops.gated_linear import gated_linear_attention, gla_state_moments
from compressm_cli.ops.ssd import ssd

# batch, length, heads, P, N
SHAPES = [(1, 1, 1, 1, 1), (2, 7, 2, 3, 4), (2, 130, 4, 3, 5), (3, 65, 3, 2, 1), (1, 129, 4, 1, 3)]
DTYPES = [(torch.float64, 1e-11), (torch.float32, 2e-6)]
NAMES = ("y", "dq", "dk", "dv", "dlog_decay")


def example(*shape: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    batch, length, heads, head_dim, n = shape
    generator = torch.Generator().manual_seed(sum(shape))
    sizes = [(batch, length, heads, m) for m in (n, n, head_dim)]
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    log_decay = -torch.rand(sizes[0], generator=generator, dtype=torch.float64)
    return [t.to(dtype).requires_grad_() for t in (q, k, v, log_decay)]


@pytest.mark.parametrize("chunk", [1, 4, 16, 64])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_recurrence(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "ENTRIES_AT_ONCE", 2000)  # several parts
    inputs = example(*shape)
    expected = with_gradients(reference_matrix.gated_linear_attention, inputs)
    actual = with_gradients(lambda *t: gated_linear_attention(*t, chunk=chunk), as_dtype(inputs, dtype))
    assert all(t.dtype == dtype for t in actual)
    assert_near(NAMES, actual, expected, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("decay", ["everywhere", "some rows", "some steps"])
def test_strong_decay_is_exact(dtype: torch.dtype, tolerance: float, decay: str) -> None:
    """exp(-50) a step, and exp(-1000): over a chunk exp of the sum overflows and underflows in any precision."""
    inputs = example(2, 150, 2, 3, 4)
    with torch.no_grad():
        if decay == "everywhere":
            inputs[3].fill_(-50.0)
        elif decay == "some rows":
            inputs[3][..., 1:3] = -50.0
        else:
            inputs[3][:, ::3] = -1e-3
            inputs[3][:, 1::9] = -50.0
            inputs[3][:, 2::50] = -1000.0
    expected = with_gradients(reference_matrix.gated_linear_attention, inputs)
    actual = with_gradients(gated_linear_attention, as_dtype(inputs, dtype))
    assert all(bool(t.isfinite().all()) for t in actual)
    assert_near(NAMES, actual, expected, tolerance)


def test_gradient_is_that_of_finite_differences() -> None:
    for chunk, shape in ((2, (1, 5, 2, 2, 2)), (8, (1, 6, 1, 1, 3))):
        assert torch.autograd.gradcheck(
            lambda *t, chunk=chunk: gated_linear_attention(*t, chunk=chunk), example(*shape)
        )


def test_one_decay_for_all_rows_is_state_space_duality() -> None:
    q, k, v, log_decay = example(2, 100, 2, 3, 4)
    dt = torch.rand(2, 100, 2, dtype=torch.float64)
    A = torch.tensor([-0.3, -2.0], dtype=torch.float64)
    decay = (dt * A)[..., None].expand_as(log_decay)
    actual = gated_linear_attention(q, k, v * dt[..., None], decay, chunk=16)
    torch.testing.assert_close(actual, ssd(v, dt, A, k, q))


def test_views_are_as_good_as_copies_and_inputs_are_not_changed() -> None:
    inputs = example(2, 32, 4, 3, 5)
    copies = [t.detach().clone() for t in inputs]
    views = [t.detach().transpose(0, 3).contiguous().transpose(0, 3).requires_grad_() for t in inputs]
    assert not views[0].is_contiguous()
    one = with_gradients(lambda *t: gated_linear_attention(*t, chunk=8), inputs)
    two = with_gradients(lambda *t: gated_linear_attention(*t, chunk=8), views)
    assert_near(NAMES, two, one, 1e-12)
    assert all(torch.equal(t.detach(), c) for t, c in zip(inputs, copies, strict=True))


def test_autocast_changes_nothing() -> None:
    inputs = example(2, 70, 2, 4, 8, dtype=torch.float32)
    expected = with_gradients(gated_linear_attention, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = with_gradients(gated_linear_attention, inputs)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, e)


def test_low_precision_inputs_are_computed_in_float32() -> None:
    inputs = example(2, 70, 2, 4, 8, dtype=torch.bfloat16)
    y = gated_linear_attention(*inputs)
    assert y.dtype == torch.float32
    assert_near(NAMES, [y], [reference_matrix.gated_linear_attention(*(t.double() for t in inputs))], 2e-6)
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(y.sum(), inputs))


@pytest.mark.parametrize(
    ("shape", "chunk", "message"),
    [
        ((1, 4, 2, 2, 2), 12, "power of two, not 12"),
        ((1, 4, 2, 2, 2), 0, "power of two, not 0"),
        ((0, 4, 2, 2, 2), 64, "nothing to compute"),
    ],
)
def test_refuses_what_has_no_meaning(shape: tuple[int, ...], chunk: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gated_linear_attention(*example(*shape), chunk=chunk)


# ---- what it costs ------------------------------------------------------------------------------------


def test_flops_are_those_of_the_products() -> None:
    batch, length, heads, head_dim, n = shape = (2, 64, 4, 3, 5)
    inputs, size = example(*shape), 16
    rows = batch * length // size * heads
    with FlopCounterMode(display=False) as counter:
        y = gated_linear_attention(*inputs, chunk=size)
    # Halving a chunk into two, four, ... reads each pair of different steps once: l (l - 1) / 2 products of N.
    scores = rows * size * (size - 1) * n
    values, states = 2 * rows * size**2 * head_dim, 2 * rows * size * head_dim * n
    assert counter.get_total_flops() == scores + values + 2 * states
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 3 * scores + 2 * values + 4 * states


def test_flops_can_be_counted_without_values() -> None:
    totals = []
    for device in ("cpu", "meta"):
        inputs = [t.detach().to(device).requires_grad_() for t in example(2, 50, 4, 3, 5)]
        with FlopCounterMode(display=False) as counter:
            y = gated_linear_attention(*inputs, chunk=16)
            y.sum().backward()
        assert y.shape == inputs[2].shape
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_nothing_with_a_state_at_each_step_is_kept() -> None:
    batch, length, heads, head_dim, n = shape = (1, 256, 2, 16, 16)
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        gated_linear_attention(*example(*shape), chunk=64)
    # Four inputs, and the states at four ends of chunks.
    assert (
        sum(kept.values()) < 6 * batch * length * heads * head_dim < batch * length * heads * head_dim * n / 2
    )


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    inputs = example(2, 40, 4, 3, 5, dtype=torch.float32)
    compiled = torch.compile(
        lambda *t: gated_linear_attention(*t, chunk=16), fullgraph=True, backend="aot_eager"
    )
    expected = with_gradients(lambda *t: gated_linear_attention(*t, chunk=16), inputs)
    assert_near(NAMES, with_gradients(compiled, inputs), expected, 1e-5)


# ---- moments of the states ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_moments_are_those_of_the_states(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    _, k, v, log_decay = example(*shape)
    weight = torch.rand(v.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = reference_matrix.gla_states(k, v, log_decay)
    expected = torch.einsum("blhp,blhnp,blhmp->hnm", weight, h, h)
    actual = gla_state_moments(*(t.to(dtype) for t in (k, v, log_decay, weight)))
    assert (actual.dtype, actual.requires_grad) == (torch.float64, False)
    assert_near(NAMES, [actual], [expected], tolerance)
