import control
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from lti_systems import (
    as_tensor,
    defective_looking_system,
    dense_system,
    diagonal_system,
    realified,
    relative,
    systems,
)
from scipy.linalg import solve_discrete_lyapunov

from compressm_cli.lti import (
    Realization,
    controllability_factor,
    controllability_gramian,
    observability_factor,
    observability_gramian,
    real_form,
    real_gramians,
)

EXAMPLES = [
    *(diagonal_system(n, n, radius=0.99) for n in (1, 2, 5, 32, 256)),
    diagonal_system(1, 64, radius=0.9999),
    diagonal_system(2, 32, p=1, q=1, radius=0.999, cluster=1e-6),
    *(dense_system(n, n, radius=0.99) for n in (1, 2, 5, 32, 256)),
    dense_system(3, 16, radius=0.95, real=False),
    defective_looking_system(0, 8),
]
IDS = [f"{'diagonal' if r.is_diagonal else 'dense'}-{r.order}-{r.spectral_radius():.4g}" for r in EXAMPLES]


@pytest.mark.parametrize("r", EXAMPLES, ids=IDS)
def test_gramians_agree_with_scipy(r: Realization) -> None:
    A, B, C = (x.numpy() for x in (r.dense().A, r.B, r.C))
    P = solve_discrete_lyapunov(A, B @ B.conj().T)
    Q = solve_discrete_lyapunov(A.conj().T, C.conj().T @ C)
    assert relative(controllability_gramian(r), as_tensor(P)) < 1e-8
    assert relative(observability_gramian(r), as_tensor(Q)) < 1e-8


@pytest.mark.parametrize("r", [r for r in EXAMPLES if r.order <= 64], ids=[i for i in IDS if "256" not in i])
def test_gramians_agree_with_python_control(r: Realization) -> None:
    real = realified(r) if r.is_complex else r
    reference = control.ss(*(x.numpy() for x in (real.A, real.B, real.C)), 0, dt=True)
    for kind, gramian in (("c", controllability_gramian(r)), ("o", observability_gramian(r))):
        if r.is_complex:
            top = torch.cat([gramian.real, -gramian.imag], dim=1)
            gramian = torch.cat([top, torch.cat([gramian.imag, gramian.real], dim=1)])
        assert relative(gramian, as_tensor(control.gram(reference, kind))) < 1e-8


@given(systems())
@settings(max_examples=40, deadline=None)
def test_lyapunov_residual(r: Realization) -> None:
    d = r.dense()
    P, Q = controllability_gramian(r), observability_gramian(r)
    assert relative(d.A @ P @ d.A.mH + d.B @ d.B.mH, P) < 1e-11
    assert relative(d.A.mH @ Q @ d.A + d.C.mH @ d.C, Q) < 1e-11
    assert torch.equal(P.mH, P) or not r.is_diagonal
    assert relative(P.mH, P) < 1e-15


@given(systems())
@settings(max_examples=40, deadline=None)
def test_factors_multiply_to_the_gramians_state_by_state(r: Realization) -> None:
    for factor, gramian in (
        (controllability_factor(r), controllability_gramian(r)),
        (observability_factor(r), observability_gramian(r)),
    ):
        assert factor.shape[1] <= r.order
        size = gramian.diagonal().real.sqrt()
        error = (factor @ factor.mH - gramian).abs() / (size[:, None] * size)
        # The entries themselves are known to eps / (1 - spectral radius).
        assert float(error.max()) < 1e-13 + 1e-14 / (1 - r.spectral_radius())


@pytest.mark.parametrize("horizon", [1, 2, 17])
def test_finite_horizon_is_the_truncated_sum(horizon: int) -> None:
    diagonal = diagonal_system(4, 7, radius=0.9999)
    real, (P_real, Q_real) = real_form(diagonal), real_gramians(diagonal, horizon)
    for r, P, Q in (
        (diagonal, controllability_gramian(diagonal, horizon), observability_gramian(diagonal, horizon)),
        (real, P_real, Q_real),
        (real, controllability_gramian(real, horizon), observability_gramian(real, horizon)),
    ):
        d = r.dense()
        powers = [torch.linalg.matrix_power(d.A, k) for k in range(horizon)]
        assert relative(P, sum(A @ d.B @ d.B.mH @ A.mH for A in powers)) < 1e-9
        assert relative(Q, sum(A.mH @ d.C.mH @ d.C @ A for A in powers)) < 1e-9


def test_a_long_horizon_is_an_infinite_one() -> None:
    r = diagonal_system(0, 5, radius=0.9)
    assert relative(controllability_gramian(r, 1000), controllability_gramian(r)) < 1e-15
    for function in (controllability_gramian, observability_gramian, real_gramians):
        with pytest.raises(ValueError, match="horizon must be at least 1 step, got 0"):
            function(r, 0)
    with pytest.raises(ValueError, match="horizon must be at least 1 step, got 0"):
        controllability_gramian(r.dense(), 0)


def test_dense_and_diagonal_give_the_same() -> None:
    r = diagonal_system(7, 20, radius=0.9999)
    assert relative(controllability_gramian(r.dense()), controllability_gramian(r)) < 1e-10
    assert relative(observability_gramian(r.dense()), observability_gramian(r)) < 1e-10


def test_real_systems_stay_real() -> None:
    r = dense_system(0, 5)
    assert controllability_gramian(r).dtype == torch.float64
    assert observability_factor(r).dtype == torch.float64


def test_unreachable_states_and_poles_at_zero() -> None:
    A = torch.diag(torch.tensor([0.0, 0.5, 0.0]))
    B = torch.tensor([[1.0], [0.0], [0.0]])
    r = Realization(A, B, torch.ones(1, 3))
    expected = torch.zeros(3, 3, dtype=torch.float64)
    expected[0, 0] = 1.0
    assert torch.allclose(controllability_gramian(r), expected)
    diagonal = Realization(A.diagonal(), B, torch.ones(1, 3))
    assert torch.allclose(controllability_gramian(diagonal), expected)
    assert controllability_factor(diagonal).shape == (3, 1)


@pytest.mark.parametrize("radius", [1.0, 1.02])
def test_unstable_systems_are_refused_with_their_radius(radius: float) -> None:
    poles = torch.tensor([0.5, -radius], dtype=torch.float64)
    r = Realization(poles, torch.ones(2, 1), torch.ones(1, 2))
    for function in (controllability_gramian, observability_gramian, controllability_factor):
        for system in (r, r.dense()):
            with pytest.raises(ValueError, match=rf"unstable: its spectral radius is {radius:g}"):
                function(system)


def test_inputs_are_not_mutated() -> None:
    for r in (diagonal_system(0, 6), dense_system(0, 6)):
        before = [np.copy(x.numpy()) for x in (r.A, r.B, r.C)]
        controllability_gramian(r)
        observability_factor(r)
        assert all(np.array_equal(x, y.numpy()) for x, y in zip(before, (r.A, r.B, r.C), strict=True))
