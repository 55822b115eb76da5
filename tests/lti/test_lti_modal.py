import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lti_systems import defective_looking_system, dense_system, diagonal_system, impulse_response, relative

from compressm_cli.lti import Modes, balanced_truncation, count_states, leading_modes, one_of_each_pair


def reconstruct(modes: Modes, g: torch.Tensor) -> torch.Tensor:
    terms = modes.right @ (g * torch.where(modes.is_pair, 2.0, 1.0)[:, None])
    return terms.real


@given(st.integers(0, 2**31), st.integers(1, 30))
@settings(max_examples=40, deadline=None)
def test_modes_reconstruct_the_state_and_its_motion(seed: int, k: int) -> None:
    A = dense_system(seed, k).A
    modes = one_of_each_pair(A)
    pairs, reals = int(modes.is_pair.sum()), int((~modes.is_pair).sum())
    assert 2 * pairs + reals == k
    assert len(modes.poles) == pairs + reals == count_states(A)
    assert bool((modes.poles[modes.is_pair].imag > 0).all())
    assert bool((modes.poles[~modes.is_pair].imag == 0).all())
    assert bool((modes.right[:, ~modes.is_pair].imag == 0).all())
    tolerance = 1e-12 * modes.condition
    identity = torch.eye(len(modes.poles), dtype=torch.complex128)
    assert float((modes.left.mH @ modes.right - identity).abs().max()) < tolerance
    x = torch.eye(k, dtype=torch.float64)
    g = modes.left.mH @ x.to(torch.complex128)
    assert relative(reconstruct(modes, g), x) < tolerance
    assert relative(reconstruct(modes, modes.poles[:, None] * g), A) < tolerance


def test_a_reduced_real_system_as_one_complex_state_a_pair() -> None:
    r = diagonal_system(0, 16, 3, 2)
    reduced = balanced_truncation(r.real_output(), 11).realization
    modes = one_of_each_pair(reduced.A)
    B = modes.left.mH @ reduced.B.to(torch.complex128)
    C = reduced.C.to(torch.complex128) @ modes.right * torch.where(modes.is_pair, 2.0, 1.0)
    steps = [(C @ (modes.poles[:, None] ** t * B)).real for t in range(30)]
    expected = impulse_response(reduced, 31)[1:]
    assert relative(torch.stack(steps), expected) < 1e-12


def test_condition_is_that_of_all_unit_eigenvectors() -> None:
    A = dense_system(1, 9).A
    vectors = np.linalg.eig(A.numpy())[1]
    assert np.allclose(np.linalg.norm(vectors, axis=0), 1.0)
    assert one_of_each_pair(A).condition == pytest.approx(np.linalg.cond(vectors))


def test_counting_agrees_where_two_poles_nearly_meet() -> None:
    rng = np.random.default_rng(0)
    for gap in 10.0 ** np.arange(-17, -1):
        for sign in (-1.0, 1.0):
            block = np.array([[0.5, 1.0], [sign * gap, 0.5]])
            A = rng.standard_normal((12, 12)) / 6
            A[:2] = 0.0
            A[:2, :2] = block
            basis = np.linalg.qr(rng.standard_normal((12, 12)))[0]
            A = torch.from_numpy(basis @ A @ basis.T)
            poles, _ = np.linalg.eig(A.numpy())
            assert count_states(A) == int((poles.imag >= 0).sum())


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), size=st.integers(1, 24), states=st.integers(1, 24))
def test_the_largest_leading_block_is_the_first_one_from_the_top_that_fits(
    seed: int, size: int, states: int
) -> None:
    A = torch.from_numpy(np.random.default_rng(seed).standard_normal((size, size)))
    expected = next(k for k in range(size, 0, -1) if count_states(A[:k, :k]) <= states)
    modes = leading_modes(A, states)
    assert modes.left.shape == (expected, count_states(A[:expected, :expected]))
    assert torch.equal(modes.poles, one_of_each_pair(A[:expected, :expected]).poles)


def test_no_block_has_less_than_one_state() -> None:
    with pytest.raises(ValueError, match="states must be at least 1, got 0"):
        leading_modes(torch.eye(2), 0)


def test_defective_matrices_are_refused() -> None:
    with pytest.raises(ValueError, match="condition number of its eigenvectors"):
        one_of_each_pair(defective_looking_system(0, 6).A)
    with pytest.raises(ValueError, match="condition number of its eigenvectors"):
        one_of_each_pair(torch.tensor([[0.5, 1.0], [0.0, 0.5]]))


def test_bad_matrices_are_refused() -> None:
    for function in (one_of_each_pair, count_states):
        with pytest.raises(ValueError, match=r"A must be real with shape \(k, k\)"):
            function(torch.ones(2, 3))
        with pytest.raises(ValueError, match="A must be real"):
            function(torch.ones(2, 2, dtype=torch.complex128))
        with pytest.raises(ValueError, match="A has non-finite entries"):
            function(torch.full((2, 2), torch.nan))
