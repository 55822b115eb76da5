import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_systems import (
    as_tensor,
    defective_looking_system,
    dense_system,
    diagonal_system,
    realified,
    relative,
    systems,
)
from mpmath import mp
from slycot import ab09ad

from compressm_cli.lti import Realization, error_bound, hankel_singular_values, order_for_energy
from compressm_cli.lti.balancing import graded_svd


def slycot_hsv(r: Realization) -> torch.Tensor:
    """Hankel singular values of a real dense system by SLICOT's AB09AD (Hammarling, in real arithmetic)."""
    n, p, q = r.order, r.inputs, r.outputs
    *_, hsv = ab09ad("D", "B", "N", n, p, q, r.A.numpy(), r.B.numpy(), r.C.numpy(), nr=1)
    return as_tensor(hsv)


def assert_same_hsv(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """1e-8 relative; below round-off of a backward stable computation, 1e-14 times the largest value."""
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-14 * float(expected[0]))


@pytest.mark.parametrize("n", [1, 2, 3, 16, 64, 256])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (4, 3)])
def test_dense_systems_agree_with_slycot(n: int, p: int, q: int) -> None:
    r = dense_system(n, n, p, q, radius=0.95)
    assert_same_hsv(hankel_singular_values(r), slycot_hsv(r))


@pytest.mark.parametrize("radius", [0.99, 0.9999])
@pytest.mark.parametrize("n", [1, 2, 8, 64])
@pytest.mark.parametrize(("p", "q"), [(1, 1), (4, 3)])
def test_diagonal_systems_agree_with_slycot(n: int, p: int, q: int, radius: float) -> None:
    r = diagonal_system(n, n, p, q, radius=radius)
    # The realified system has every value twice.
    assert_same_hsv(hankel_singular_values(r), slycot_hsv(realified(r))[::2])


def test_defective_looking_systems_agree_with_slycot() -> None:
    for r in (defective_looking_system(0, 8), defective_looking_system(1, 4, radius=0.99, spread=0.0)):
        assert_same_hsv(hankel_singular_values(r), slycot_hsv(r))
    clustered = diagonal_system(2, 24, 2, 2, radius=0.999, cluster=1e-5)
    assert_same_hsv(hankel_singular_values(clustered), slycot_hsv(realified(clustered))[::2])


@pytest.mark.parametrize(
    "r",
    [
        diagonal_system(0, 24, 1, 1, radius=0.99),
        diagonal_system(1, 24, 2, 2, radius=0.9999, max_angle=0.3),
        diagonal_system(2, 20, 1, 1, radius=0.99, cluster=0.02),
        diagonal_system(3, 12, 1, 4, radius=0.3, cluster=1e-4),
        diagonal_system(4, 12, 1, 1, radius=0.999).real_output(),
        diagonal_system(5, 8, 1, 3, radius=0.9, cluster=1e-3).real_output(),
    ],
    ids=["siso", "close-to-the-circle", "clustered", "poles-nearly-meet", "real", "real-clustered"],
)
def test_far_down_the_spectrum_against_many_digits(r: Realization) -> None:
    A, B, C = ([[mp.mpc(z) for z in row] for row in x.reshape(len(x), -1).tolist()] for x in (r.A, r.B, r.C))
    with mp.workdps(120):
        lam, B, C = [row[0] for row in A], mp.matrix(B), mp.matrix(C)
        BB, CC, n = B * B.H, C.H * C, r.order
        P = mp.matrix(n, n)
        Q = mp.matrix(n, n)
        for i in range(n):
            for j in range(n):
                P[i, j] = BB[i, j] / (1 - lam[i] * mp.conj(lam[j]))
                Q[i, j] = CC[i, j] / (1 - mp.conj(lam[i]) * lam[j])
        L = mp.cholesky(P)
        squares = mp.eighe(L.H * Q * L, eigvals_only=True)
        roots = sorted((float(mp.sqrt(abs(x))) for x in squares), reverse=True)
        expected = torch.tensor(roots, dtype=torch.float64)
    hsv = hankel_singular_values(r)
    assert expected[-1] < 1e-5 * expected[0]
    torch.testing.assert_close(hsv, expected, rtol=1e-10, atol=1e-15 * float(hsv[0]))


@given(systems(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_invariant_under_change_of_basis(r: Realization, seed: int) -> None:
    hsv = hankel_singular_values(r)
    assert hsv.shape == (r.order,)
    assert hsv.dtype == torch.float64
    assert bool((hsv >= 0).all())
    assert bool((hsv.diff() <= 0).all())
    generator = torch.Generator().manual_seed(seed)
    T = torch.linalg.qr(torch.randn(r.order, r.order, dtype=torch.float64, generator=generator))[0]
    T = (T * (0.5 + torch.rand(r.order, dtype=torch.float64, generator=generator))).to(r.A.dtype)
    d = r.dense()
    turned = Realization(torch.linalg.solve(T, d.A @ T), torch.linalg.solve(T, d.B), d.C @ T)
    assert float((hankel_singular_values(turned) - hsv).abs().max()) < 1e-9 * float(hsv[0])


@given(st.integers(1, 20), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_real_output_has_the_values_of_an_equivalent_real_system(n: int, seed: int) -> None:
    r = diagonal_system(seed, n, radius=0.99).real_output()
    hsv = hankel_singular_values(r)
    by_complex_arithmetic = hankel_singular_values(r.dense())
    torch.testing.assert_close(hsv, by_complex_arithmetic, rtol=1e-8, atol=1e-12 * float(hsv[0]))


def test_unstable_systems_are_refused() -> None:
    r = Realization(torch.tensor([1.5 + 0j]), torch.ones(1, 1), torch.ones(1, 1))
    for system in (r, r.dense(), r.real_output()):
        with pytest.raises(ValueError, match=r"spectral radius is 1\.5"):
            hankel_singular_values(system)


def test_a_system_without_input_has_zero_values() -> None:
    r = Realization(torch.tensor([0.5, 0.25]), torch.zeros(2, 1), torch.ones(1, 2))
    assert torch.equal(hankel_singular_values(r), torch.zeros(2, dtype=torch.float64))
    assert torch.equal(hankel_singular_values(r.dense()), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(1, 1), (5, 5), (9, 4), (4, 9), (60, 60)])
@pytest.mark.parametrize("decay", [0.0, 2.0, 12.0, 40.0])
@pytest.mark.parametrize("complex_", [False, True])
def test_graded_svd_agrees_with_lapack(shape: tuple[int, int], decay: float, complex_: bool) -> None:
    rng = np.random.default_rng(0)
    M = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if complex_ else 0.0)
    M = M * 10.0 ** (-decay * np.arange(shape[1]) / shape[1])
    u, s, v = graded_svd(M)
    expected = np.zeros(shape[1])
    expected[: min(shape)] = np.linalg.svd(M, compute_uv=False)
    assert s.shape == (shape[1],)
    np.testing.assert_allclose(s, expected, rtol=1e-9, atol=1e-14 * s[0])
    r = u.shape[1]
    assert np.abs(u * s[:r] @ v.conj().T - M).max() < 1e-13 * s[0]
    trusted = s[:r] > 1e-8 * s[0]
    for x in (u[:, trusted], v[:, trusted]):
        assert np.abs(x.conj().T @ x - np.eye(x.shape[1])).max() < 1e-10


HSV = torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)


@pytest.mark.parametrize(
    ("threshold", "order"), [(0.1, 1), (0.4, 1), (0.41, 2), (0.7, 2), (0.9, 3), (0.91, 4), (1.0, 4)]
)
def test_order_for_energy_on_a_known_spectrum(threshold: float, order: int) -> None:
    assert order_for_energy(HSV, threshold) == order


@given(
    st.lists(st.floats(0.0, 1e3), min_size=1, max_size=50),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_order_for_energy_is_the_smallest_that_suffices(values: list[float], threshold: float) -> None:
    hsv = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    order = order_for_energy(hsv, threshold)
    kept = hsv.cumsum(0)
    total = float(kept[-1])
    assert 1 <= order <= len(hsv)
    if total > 0:
        assert float(kept[order - 1]) >= threshold * total
        if order > 1 and threshold < 1:
            assert float(kept[order - 2]) < threshold * total


def test_order_for_energy_corner_cases() -> None:
    assert order_for_energy(torch.zeros(5), 0.9) == 1
    assert order_for_energy(torch.zeros(5), 1.0) == 1
    assert order_for_energy(torch.tensor([1.0, 0.0, 0.0]), 1.0) == 3
    assert order_for_energy(torch.tensor([1.0, 0.0, 0.0]), 1.0 - 1e-12) == 1
    assert order_for_energy(torch.full((1000,), 0.1), float(np.nextafter(1.0, 0.0))) <= 1000
    for threshold in (0.0, -0.1, 1.0001, float("nan")):
        with pytest.raises(ValueError, match="energy_threshold must be above 0 and at most 1"):
            order_for_energy(HSV, threshold)
    for bad in (torch.tensor([1.0, 2.0]), torch.tensor([1.0, -1.0]), torch.tensor([torch.nan])):
        with pytest.raises(ValueError, match="finite, non-negative and descending"):
            order_for_energy(bad, 0.5)
    with pytest.raises(ValueError, match="shape"):
        order_for_energy(torch.zeros(0), 0.5)


def test_error_bound_is_twice_the_tail() -> None:
    assert [error_bound(HSV, k) for k in range(5)] == [20.0, 12.0, 6.0, 2.0, 0.0]
    for order in (-1, 5):
        with pytest.raises(ValueError, match=f"order out of range: must be from 0 to 4, got {order}"):
            error_bound(HSV, order)


def test_realified_system_is_what_the_references_need() -> None:
    r = diagonal_system(0, 4)
    omega = torch.tensor([0.7], dtype=torch.float64)
    both = realified(r).frequency_response(omega)[0]
    # For real inputs the two halves of the output are the responses of Re y and Im y.
    q, p = r.outputs, r.inputs
    assert relative(both[:q, :p] + 1j * both[q:, :p], r.frequency_response(omega)[0]) < 1e-12
