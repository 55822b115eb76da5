import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_systems import as_tensor, dense_system, diagonal_system, impulse_response, relative
from scipy.linalg import solve_discrete_lyapunov

from compressm_cli.lti import (
    Realization,
    balance,
    balanced_truncation,
    conjugate_half,
    controllability_gramian,
    from_real_coordinates,
    observability_gramian,
    project,
    real_form,
    real_gramians,
)


@given(st.integers(0, 2**31), st.integers(1, 20), st.sampled_from([0.5, 0.99, 0.9999]))
@settings(max_examples=40, deadline=None)
def test_real_form_is_the_unitary_image_of_real_output(seed: int, n: int, radius: float) -> None:
    r = diagonal_system(seed, n, radius=radius, feedthrough=True)
    real, closed = real_form(r), r.real_output().dense()
    J = from_real_coordinates(torch.eye(2 * n, dtype=torch.float64)).mH
    assert not real.is_complex
    assert relative(J.mH @ J, torch.eye(2 * n, dtype=J.dtype)) < 1e-15
    assert relative(J @ closed.A @ J.mH, real.A.to(J.dtype)) < 1e-14
    assert relative(J @ closed.B, real.B.to(J.dtype)) < 1e-14
    assert relative(closed.C @ J.mH, real.C.to(J.dtype)) < 1e-14
    assert relative(impulse_response(real, 20), impulse_response(r, 20).real) < 1e-13
    P, Q = real_gramians(r)
    assert P.dtype == Q.dtype == torch.float64
    assert relative(J @ controllability_gramian(r.real_output()) @ J.mH, P.to(J.dtype)) < 1e-12
    assert relative(J @ observability_gramian(r.real_output()) @ J.mH, Q.to(J.dtype)) < 1e-12


@pytest.mark.parametrize("n", [1, 6, 40])
def test_real_gramians_agree_with_scipy(n: int) -> None:
    r = diagonal_system(n, n, radius=0.99)
    A, B, C = (x.numpy() for x in (real_form(r).A, real_form(r).B, real_form(r).C))
    P, Q = real_gramians(r)
    assert relative(P, as_tensor(solve_discrete_lyapunov(A, B @ B.T))) < 1e-8
    assert relative(Q, as_tensor(solve_discrete_lyapunov(A.T, C.T @ C))) < 1e-8


def test_real_poles_give_one_seen_state_each() -> None:
    r = Realization(torch.tensor([0.5, -0.3]), torch.ones(2, 1), torch.ones(1, 2))
    P, _ = real_gramians(r)
    assert torch.equal(P[2:], torch.zeros(2, 4, dtype=torch.float64))
    closed = Realization(*(x.to(torch.complex128) for x in (r.A, r.B, r.C))).real_output()
    reduced = balanced_truncation(closed, 2)
    assert relative(impulse_response(reduced.realization, 20), impulse_response(r, 20)) < 1e-13


def test_balancing_in_real_coordinates_is_that_of_real_output() -> None:
    r = diagonal_system(0, 12, 3, 3)
    balancing = balance(*real_gramians(r))
    left, right = balancing.coordinates(slice(9))
    expected = balanced_truncation(r.real_output(), 9)
    assert torch.equal(from_real_coordinates(left), expected.left)
    assert torch.equal(from_real_coordinates(right), expected.right)
    reduced = project(real_form(r), left, right)
    assert relative(reduced.A, expected.realization.A) < 1e-13
    assert relative(reduced.B, expected.realization.B) < 1e-13
    assert relative(reduced.C, expected.realization.C) < 1e-13


def test_from_real_coordinates_maps_states() -> None:
    rng = np.random.default_rng(0)
    h = torch.from_numpy(rng.standard_normal((4, 3)) + 1j * rng.standard_normal((4, 3)))
    x = np.sqrt(2) * torch.cat([h.real, h.imag])
    assert relative(from_real_coordinates(x), torch.cat([h, h.conj()])) < 1e-15


def test_conjugate_half_undoes_real_output() -> None:
    r = diagonal_system(0, 5, feedthrough=True)
    half = conjugate_half(r.real_output())
    assert half is not None
    assert torch.equal(half.A, r.A)
    assert torch.equal(half.B, r.B)
    assert torch.equal(half.C, r.C)
    for other in (r, diagonal_system(0, 6), dense_system(0, 4), r.real_output().dense()):
        assert conjugate_half(other) is None


def test_dense_and_unstable_systems_are_refused() -> None:
    for function in (real_form, real_gramians):
        with pytest.raises(ValueError, match=r"A must be diagonal.*diagonalize"):
            function(dense_system(0, 3))
    with pytest.raises(ValueError, match="unstable"):
        real_gramians(Realization(torch.tensor([1.1 + 0.1j]), torch.ones(1, 1), torch.ones(1, 1)))
