"""State space duality: the chunked form against the recurrence, against published forms, and its state moments."""

import pytest
import torch
from operator_gradients import as_dtype, assert_near, with_gradients
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from compressm_cli.ops import chunked, reference_matrix
from compressm_cli.ops.ssd import ssd, ssd_state_moments

# batch, length, heads, P, groups, N
SHAPES = [
    (1, 1, 1, 1, 1, 1),
    (2, 7, 2, 3, 1, 4),
    (2, 130, 4, 3, 2, 5),
    (3, 65, 3, 2, 3, 1),
    (1, 129, 4, 1, 1, 3),
]
DTYPES = [(torch.float64, 1e-11), (torch.float32, 5e-6)]
NAMES = ("y", "dx", "ddt", "dA", "dB", "dC", "dD")


def example(*shape: int, dtype: torch.dtype = torch.float64, largest_dt: float = 1.0) -> list[Tensor]:
    batch, length, heads, head_dim, groups, n = shape
    generator = torch.Generator().manual_seed(sum(shape))

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    dt = largest_dt * torch.rand(batch, length, heads, generator=generator, dtype=torch.float64)
    A = -0.01 - torch.rand(heads, generator=generator, dtype=torch.float64)
    B, C = normal(batch, length, groups, n), normal(batch, length, groups, n)
    inputs = [normal(batch, length, heads, head_dim), dt, A, B, C, normal(heads)]
    return [t.to(dtype).requires_grad_() for t in inputs]


@pytest.mark.parametrize("chunk", [1, 5, 16, 64])
@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_matches_the_recurrence(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "ENTRIES_AT_ONCE", 2000)  # several parts
    inputs = example(*shape)
    expected = with_gradients(reference_matrix.ssd, inputs)
    actual = with_gradients(lambda *t: ssd(*t, chunk=chunk), as_dtype(inputs, dtype))
    assert all(t.dtype == dtype for t in actual)
    assert_near(NAMES, actual, expected, tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_strong_decay_among_weak_is_exact(dtype: torch.dtype, tolerance: float) -> None:
    """Heads and steps that forget everything, exp(-50) to exp(-1000), next to some that forget nothing."""
    inputs = example(2, 150, 3, 3, 1, 4)
    with torch.no_grad():
        inputs[1][:, ::2] = 1e-4
        inputs[2].copy_(torch.tensor([-1000.0, -50.0, -0.01]))
    expected = with_gradients(reference_matrix.ssd, inputs)
    actual = with_gradients(ssd, as_dtype(inputs, dtype))
    assert all(bool(t.isfinite().all()) for t in actual)
    assert_near(NAMES, actual, expected, tolerance)


def test_steps_of_any_size_are_safe() -> None:
    inputs = example(2, 150, 2, 3, 1, 4)
    with torch.no_grad():
        inputs[1][:, 1::6] = 50.0
        inputs[1][:, 5::24] = 1000.0
    expected = with_gradients(reference_matrix.ssd, inputs)
    actual = with_gradients(ssd, as_dtype(inputs, torch.float32))
    assert_near(NAMES, actual, expected, 5e-6)


def test_gradient_is_that_of_finite_differences() -> None:
    inputs = example(1, 5, 2, 2, 1, 2)
    assert torch.autograd.gradcheck(lambda *t: ssd(*t, chunk=2), inputs)
    assert torch.autograd.gradcheck(lambda *t: ssd(*t, chunk=8), example(1, 3, 4, 1, 2, 2)[:5])


def test_partial_gradients_and_no_feedthrough() -> None:
    inputs = example(2, 20, 2, 3, 1, 4)
    x, _, A = inputs[:3]
    actual = torch.autograd.grad(ssd(*inputs[:5], chunk=8).square().sum(), (x, A))
    expected = torch.autograd.grad(reference_matrix.ssd(*inputs[:5]).square().sum(), (x, A))
    assert_near(NAMES, list(actual), list(expected), 1e-11)


def test_views_are_as_good_as_copies_and_inputs_are_not_changed() -> None:
    inputs = example(2, 33, 4, 3, 2, 5)
    copies = [t.detach().clone() for t in inputs]
    views = [t.detach().transpose(0, -1).contiguous().transpose(0, -1).requires_grad_() for t in inputs]
    assert not views[0].is_contiguous()
    one = with_gradients(lambda *t: ssd(*t, chunk=8), inputs)
    two = with_gradients(lambda *t: ssd(*t, chunk=8), views)
    assert_near(NAMES, two, one, 1e-12)
    assert all(torch.equal(t.detach(), c) for t, c in zip(inputs, copies, strict=True))


def test_autocast_changes_nothing() -> None:
    inputs = example(2, 70, 2, 4, 1, 8, dtype=torch.float32)
    expected = with_gradients(ssd, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = with_gradients(ssd, inputs)
    for a, e in zip(actual, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, e)


def test_low_precision_inputs_are_computed_in_float32() -> None:
    inputs = example(2, 70, 2, 4, 1, 8, dtype=torch.bfloat16)
    y = ssd(*inputs)
    assert y.dtype == torch.float32
    assert_near(NAMES, [y], [reference_matrix.ssd(*(t.double() for t in inputs))], 2e-6)
    assert all(g.dtype == torch.bfloat16 for g in torch.autograd.grad(y.sum(), inputs))


@pytest.mark.parametrize(
    ("shape", "chunk", "message"),
    [
        ((1, 4, 3, 2, 2, 2), 64, "3 heads"),
        ((1, 4, 2, 2, 1, 2), 0, "at least one step"),
        ((1, 0, 2, 2, 1, 2), 64, "nothing to compute"),
    ],
)
def test_refuses_what_has_no_meaning(shape: tuple[int, ...], chunk: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ssd(*example(*shape), chunk=chunk)


# ---- published forms ----------------------------------------------------------------------------------


def minimal_discrete(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor) -> Tensor:
    """Listing 1 of Mamba-2: the whole sequence as one semiseparable matrix a head, in its four factors."""
    chunk, heads = 8, x.shape[2]
    batch = x.shape[0]
    B, C = (t.repeat_interleave(heads // t.shape[2], dim=2) for t in (B, C))
    X, B, C = (t.reshape(batch, -1, chunk, *t.shape[2:]) for t in (x * dt[..., None], B, C))
    a = (dt * A).reshape(batch, -1, chunk, heads).permute(0, 3, 1, 2)

    def segment_sums(v: Tensor) -> Tensor:
        size = v.shape[-1]
        below = torch.ones(size, size, dtype=torch.bool).tril(-1)
        sums = v[..., None].expand(*v.shape, size).masked_fill(~below, 0).cumsum(-2)
        return sums.masked_fill(~below.logical_or(torch.eye(size, dtype=torch.bool)), -torch.inf)

    cumulated = a.cumsum(-1)
    diagonal = torch.einsum("bclhn,bcshn,bhcls,bcshp->bclhp", C, B, segment_sums(a).exp(), X)
    to_end = (cumulated[..., -1:] - cumulated).exp()
    states = torch.einsum("bclhn,bhcl,bclhp->bchpn", B, to_end, X)
    states = torch.cat([torch.zeros_like(states[:, :1]), states], dim=1)
    between = segment_sums(torch.nn.functional.pad(cumulated[..., -1], (1, 0))).exp()
    states = torch.einsum("bhzc,bchpn->bzhpn", between, states)[:, :-1]
    carried = torch.einsum("bclhn,bchpn,bhcl->bclhp", C, states, cumulated.exp())
    return (diagonal + carried).reshape(x.shape)


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES)
def test_matches_the_published_listing(dtype: torch.dtype, tolerance: float) -> None:
    inputs = example(2, 48, 4, 3, 2, 5)[:5]
    expected = with_gradients(minimal_discrete, inputs)
    assert_near(
        NAMES, with_gradients(lambda *t: ssd(*t, chunk=16), as_dtype(inputs, dtype)), expected, tolerance
    )


@pytest.mark.parametrize("length", [1, 40])
def test_matches_the_scan_of_transformers(length: int) -> None:
    modeling = pytest.importorskip("transformers.models.mamba2.modeling_mamba2")
    if not hasattr(modeling, "mamba2_chunk_scan"):
        pytest.skip("this version of transformers has no mamba2_chunk_scan")
    inputs = example(2, length, 4, 3, 2, 5, dtype=torch.float32, largest_dt=0.3)

    def theirs(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
        return modeling.mamba2_chunk_scan(x, dt, A, B, C, chunk_size=16, D=D)

    assert_near(NAMES, with_gradients(ssd, inputs), with_gradients(theirs, inputs), 1e-5)


def test_a_decay_of_its_own_for_each_head_is_linear_attention() -> None:
    """dt = 1, and values, keys, queries as x, B, C."""
    x, dt, A, B, C, _ = example(2, 30, 2, 3, 2, 4)
    steps = torch.arange(30)
    mask = torch.exp(A[:, None, None] * (steps[:, None] - steps).clamp_min(0)).tril()
    expected = torch.einsum("bthn,bshn,hts,bshp->bthp", C, B, mask, x)
    torch.testing.assert_close(ssd(x, torch.ones_like(dt), A, B, C, chunk=16), expected)


# ---- what it costs ------------------------------------------------------------------------------------


def test_flops_are_those_of_the_products() -> None:
    batch, length, heads, head_dim, groups, n = shape = (2, 64, 4, 3, 2, 5)
    inputs, size = example(*shape), 16
    rows = batch * length // size
    with FlopCounterMode(display=False) as counter:
        y = ssd(*inputs, chunk=size)
    scores, values, states = (
        2 * rows * groups * size**2 * n,
        2 * rows * heads * size**2 * head_dim,
        2 * rows * heads * size * head_dim * n,
    )
    assert counter.get_total_flops() == scores + values + 2 * states
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 3 * scores + 2 * values + 4 * states


def test_flops_can_be_counted_without_values() -> None:
    totals = []
    for device in ("cpu", "meta"):
        inputs = [t.detach().to(device).requires_grad_() for t in example(2, 50, 4, 3, 2, 5)]
        with FlopCounterMode(display=False) as counter:
            y = ssd(*inputs, chunk=16)
            y.sum().backward()
        assert y.shape == inputs[0].shape
        totals.append(counter.get_total_flops())
    assert totals[0] == totals[1] > 0


def test_nothing_with_a_state_at_each_step_is_kept() -> None:
    batch, length, heads, head_dim, _, n = shape = (1, 256, 2, 16, 1, 16)
    kept: dict[int, int] = {}

    def note(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes() // t.element_size()
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        ssd(*example(*shape), chunk=64)
    # x, y and the states at four ends of chunks; dt, B and C are smaller.
    assert (
        sum(kept.values()) < 6 * batch * length * heads * head_dim < batch * length * heads * head_dim * n / 2
    )


@pytest.mark.slow
def test_compiles_to_one_graph() -> None:
    inputs = example(2, 40, 4, 3, 2, 5, dtype=torch.float32)
    compiled = torch.compile(lambda *t: ssd(*t, chunk=16), fullgraph=True, backend="aot_eager")
    assert_near(
        NAMES, with_gradients(compiled, inputs), with_gradients(lambda *t: ssd(*t, chunk=16), inputs), 1e-5
    )


# ---- moments of the states ----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 2e-6)])
def test_moments_are_those_of_the_states(
    shape: tuple[int, ...], dtype: torch.dtype, tolerance: float
) -> None:
    batch, length, heads, _, groups, n = shape
    x, dt, A, B, _, _ = example(*shape)
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    h = reference_matrix.ssd_states(x, dt, A, B).view(batch, length, groups, heads // groups, -1, n)
    by_group = weight.view(*h.shape[:-1])
    expected = torch.einsum("blgkp,blgkpn,blgkpm->gnm", by_group, h, h)
    actual = ssd_state_moments(*(t.to(dtype) for t in (x, dt, A, B, weight)), groups)
    assert (actual.dtype, actual.requires_grad) == (torch.float64, False)
    assert_near(NAMES, [actual], [expected], tolerance)


def test_moments_refuse_other_groups() -> None:
    x, dt, A, B, _, _ = example(1, 4, 4, 2, 2, 3)
    with pytest.raises(ValueError, match="2 groups, not 1"):
        ssd_state_moments(x, dt, A, B, x.square(), 1)
