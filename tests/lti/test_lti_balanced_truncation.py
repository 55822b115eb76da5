import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_systems import (
    as_tensor,
    defective_looking_system,
    dense_system,
    diagonal_system,
    h_infinity_distance,
    refined_grid,
    relative,
    systems,
)
from slycot import ab09ad

from compressm_cli.lti import (
    Realization,
    balance,
    balance_realization,
    balanced_truncation,
    controllability_gramian,
    error_bound,
    hankel_singular_values,
    observability_gramian,
    project,
)


def round_off(r: Realization) -> float:
    """What changes of A by 100 units in the last place do to the response, to first order."""
    d = r.dense()
    eye = torch.eye(r.order, dtype=torch.float64)
    omega = refined_grid(r)
    reached = Realization(d.A, d.B, eye).frequency_response(omega)
    seen = Realization(d.A, eye, d.C).frequency_response(omega)
    norms = [torch.linalg.matrix_norm(x, ord=2) for x in (d.A, reached, seen)]
    return 100 * torch.finfo(torch.float64).eps * float(norms[0] * (norms[1] * norms[2]).max())


@given(systems(16))
@settings(max_examples=40, deadline=None)
def test_every_order_is_stable_biorthogonal_and_within_the_bound(r: Realization) -> None:
    rank = balance_realization(r).rank
    assert 1 <= rank <= r.order
    allowance = round_off(r)
    for order in range(1, rank + 1):
        reduced = balanced_truncation(r, order)
        assert reduced.left.shape == reduced.right.shape == (r.order, order)
        assert not reduced.realization.is_diagonal
        assert reduced.realization.order == order
        identity = torch.eye(order, dtype=reduced.left.dtype)
        sizes = 1 + reduced.left.norm(dim=0)[:, None] * reduced.right.norm(dim=0)
        assert float(((reduced.left.mH @ reduced.right - identity).abs() / sizes).max()) < 1e-13
        assert reduced.realization.spectral_radius() < 1
        bound = error_bound(reduced.hsv, order)
        assert h_infinity_distance(r, reduced.realization) <= bound * (1 + 1e-6) + allowance


@pytest.mark.parametrize(
    "r",
    [
        diagonal_system(0, 48, 4, 3, radius=0.9999),
        diagonal_system(1, 32, 4, 4, radius=0.9999, max_angle=0.3).real_output(),
        diagonal_system(2, 64, 2, 2, radius=0.999, cluster=1e-3),
        dense_system(3, 64, 4, 4, radius=0.999),
        defective_looking_system(4, 8),
    ],
    ids=["diagonal", "real-output", "clustered", "dense", "defective-looking"],
)
def test_larger_systems_are_within_the_bound(r: Realization) -> None:
    rank = balance_realization(r).rank
    allowance = round_off(r)
    for order in sorted({1, rank // 4 + 1, rank // 2 + 1, rank}):
        reduced = balanced_truncation(r, order)
        assert reduced.realization.spectral_radius() < 1
        bound = error_bound(reduced.hsv, order)
        assert h_infinity_distance(r, reduced.realization) <= bound * (1 + 1e-6) + allowance


@pytest.mark.parametrize(("n", "order"), [(2, 1), (16, 5), (64, 20), (256, 40)])
def test_same_transfer_function_as_slycot(n: int, order: int) -> None:
    r = dense_system(n, n, 3, 2, radius=0.9)
    *_, Ar, Br, Cr, hsv = ab09ad("D", "B", "N", n, 3, 2, r.A.numpy(), r.B.numpy(), r.C.numpy(), nr=order)
    expected = Realization(*(as_tensor(x[:order]) for x in (Ar[:, :order], Br)), as_tensor(Cr[:, :order]))
    reduced = balanced_truncation(r, order)
    assert relative(reduced.hsv, as_tensor(hsv)) < 1e-10
    omega = torch.linspace(-torch.pi, torch.pi, 100, dtype=torch.float64)
    assert relative(reduced.realization.frequency_response(omega), expected.frequency_response(omega)) < 1e-8


@given(systems(12))
@settings(max_examples=40, deadline=None)
def test_reduced_gramians_are_the_leading_singular_values(r: Realization) -> None:
    hsv = hankel_singular_values(r)
    order = max(1, int((hsv > 1e-5 * hsv[0]).sum()))
    balancing = balance_realization(r)
    left, right = balancing.coordinates(slice(order))
    P, Q = left.mH @ controllability_gramian(r) @ left, right.mH @ observability_gramian(r) @ right
    assert relative(P, torch.diag(hsv[:order]).to(P.dtype)) < 1e-7
    assert relative(Q, torch.diag(hsv[:order]).to(Q.dtype)) < 1e-7


def test_full_order_is_the_same_system_and_keeps_the_feedthrough() -> None:
    r = diagonal_system(0, 6, 2, 2, feedthrough=True)
    for system in (r, r.real_output()):
        reduced = balanced_truncation(system, system.order).realization
        assert h_infinity_distance(system, reduced) < 1e-10
        assert balanced_truncation(system, 1).realization.D is not None


def test_real_output_is_truncated_to_a_real_system_in_its_own_coordinates() -> None:
    r = diagonal_system(0, 10, 2, 3).real_output()
    reduced = balanced_truncation(r, 7)
    assert not reduced.realization.is_complex
    assert reduced.left.is_complex()
    again = project(r, reduced.left, reduced.right)
    assert relative(again.A, reduced.realization.A) == 0.0
    dense = project(r.dense(), reduced.left, reduced.right)
    assert relative(dense.A, reduced.realization.A.to(dense.A.dtype)) < 1e-13
    assert relative(dense.B, reduced.realization.B.to(dense.A.dtype)) < 1e-13
    assert relative(dense.C, reduced.realization.C.to(dense.A.dtype)) < 1e-13


def test_other_columns_can_be_chosen() -> None:
    r = diagonal_system(3, 12, 4, 4)
    balancing = balance(controllability_gramian(r), observability_gramian(r))
    chosen = torch.tensor([7, 0, 3])
    left, right = balancing.coordinates(chosen)
    assert torch.allclose(left, balancing.left[:, chosen], rtol=1e-12, atol=1e-12)
    assert torch.allclose(right, balancing.right[:, chosen], rtol=1e-12, atol=1e-12)
    assert torch.allclose(left.mH @ right, torch.eye(3, dtype=left.dtype), atol=1e-13)
    assert balancing.coordinates([1, 2])[0].shape == (12, 2)
    for bad in ([12], [-1], torch.tensor([[0]])):
        with pytest.raises(ValueError, match="columns must be indices from 0 to 11"):
            balancing.coordinates(bad)


@given(st.integers(0, 2**31), st.booleans())
@settings(max_examples=30, deadline=None)
def test_balancing_empirical_gramians_of_low_rank(seed: int, complex_: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    dtype = torch.complex128 if complex_ else torch.float64
    X, Y = (torch.randn(9, k, dtype=dtype, generator=generator) for k in (4, 6))
    P, Q = X @ X.mH, Y @ Y.mH
    balancing = balance(P, Q)
    assert balancing.rank == 4
    expected = torch.linalg.svdvals(Y.mH @ X)
    torch.testing.assert_close(balancing.hsv[:4], expected, rtol=1e-7, atol=1e-9)
    assert torch.allclose(balancing.left.mH @ balancing.right, torch.eye(4, dtype=dtype), atol=1e-9)


def test_balance_refuses_what_is_no_gramian() -> None:
    good = torch.eye(3, dtype=torch.float64)
    indefinite = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    for bad, message in (
        (-good, "P must be positive semidefinite"),
        (indefinite, "P must be positive semidefinite"),
        (good + torch.triu(torch.ones(3, 3), 1), "P must be Hermitian"),
        (good * torch.nan, "P must be a square matrix with finite entries"),
    ):
        with pytest.raises(ValueError, match=message):
            balance(bad, good)
    with pytest.raises(ValueError, match="Q must be positive semidefinite"):
        balance(good, indefinite)
    with pytest.raises(ValueError, match="one shape"):
        balance(good, torch.eye(2))
    with pytest.raises(ValueError, match="square"):
        balance(torch.ones(2, 3), torch.ones(2, 3))


def test_orders_out_of_range_are_refused() -> None:
    r = dense_system(0, 4)
    for order in (-1, 0, 5):
        with pytest.raises(ValueError, match=f"order out of range: must be from 1 to 4, got {order}"):
            balanced_truncation(r, order)
    # The third state is neither reached nor seen.
    A = torch.tensor([0.5, 0.4, 0.3])
    B = torch.tensor([[1.0], [1.0], [0.0]])
    degenerate = Realization(A, B, B.T)
    for system in (degenerate, degenerate.dense()):
        reduced = balanced_truncation(system, 2).realization
        assert h_infinity_distance(system, reduced) < 1e-14
        with pytest.raises(ValueError, match="order out of range: the numerical rank of the system is 2"):
            balanced_truncation(system, 3)


def test_projection_shapes_are_checked() -> None:
    r = dense_system(0, 4)
    with pytest.raises(ValueError, match=r"shape \(n, k\) with n = 4"):
        project(r, torch.ones(3, 2), torch.ones(3, 2))
    with pytest.raises(ValueError, match=r"shape \(n, k\) with n = 4"):
        project(r, torch.ones(4, 2), torch.ones(4, 1))


def test_unstable_systems_are_refused() -> None:
    with pytest.raises(ValueError, match="unstable"):
        balanced_truncation(dense_system(0, 4, radius=1.1), 2)


def test_inputs_are_not_mutated() -> None:
    for r in (diagonal_system(0, 6), diagonal_system(0, 6).real_output(), dense_system(0, 6)):
        before = [x.clone() for x in (r.A, r.B, r.C)]
        balanced_truncation(r, 3)
        assert all(torch.equal(x, y) for x, y in zip(before, (r.A, r.B, r.C), strict=True))
    P, Q = controllability_gramian(dense_system(0, 6)), observability_gramian(dense_system(0, 6))
    copies = P.clone(), Q.clone()
    balance(P, Q)
    assert torch.equal(P, copies[0])
    assert torch.equal(Q, copies[1])
