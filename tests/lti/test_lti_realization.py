import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from lti_systems import (
    defective_looking_system,
    dense_system,
    diagonal_system,
    impulse_response,
    relative,
    systems,
)

from compressm_cli.lti import Realization

I2 = torch.eye(2)


def test_properties_and_double_precision() -> None:
    r = Realization(torch.tensor([0.5, 0.25]), torch.ones(2, 3), torch.ones(4, 2), torch.zeros(4, 3))
    assert (r.order, r.inputs, r.outputs, r.is_diagonal, r.is_complex) == (2, 3, 4, True, False)
    assert all(x.dtype == torch.float64 for x in (r.A, r.B, r.C, r.D))
    assert r.spectral_radius() == 0.5
    assert r.poles().dtype == torch.complex128
    with pytest.raises(dataclasses.FrozenInstanceError):
        r.A = r.B  # type: ignore[misc]


def test_real_and_complex_entries_get_one_type() -> None:
    r = Realization(torch.tensor([0.5]), torch.ones(1, 1, dtype=torch.complex64), torch.ones(1, 1))
    assert r.A.dtype == r.B.dtype == r.C.dtype == torch.complex128
    assert Realization(0.5 * I2, I2, torch.ones(1, 2, dtype=torch.int64)).C.dtype == torch.float64


def test_keeps_its_own_detached_copy() -> None:
    A = torch.full((2,), 0.5, dtype=torch.float64, requires_grad=True)
    B = torch.ones(2, 1, dtype=torch.float64)
    r = Realization(A, B, B.T)
    B.fill_(7.0)
    assert not r.A.requires_grad
    assert torch.equal(r.B, torch.ones(2, 1, dtype=torch.float64))
    assert torch.equal(r.C, torch.ones(1, 2, dtype=torch.float64))


@pytest.mark.parametrize(
    ("matrices", "message"),
    [
        ((torch.ones(2, 3), I2, I2), r"A must be diagonal \(n,\) or square \(n, n\).*\(2, 3\)"),
        ((torch.ones(0), torch.ones(0, 1), torch.ones(1, 0)), "A must be"),
        ((0.5 * I2, torch.ones(3, 1), I2), r"B must have shape \(n, p\) with n = 2"),
        ((0.5 * I2, torch.ones(2), I2), "B must have shape"),
        ((0.5 * I2, I2, torch.ones(1, 3)), r"C must have shape \(q, n\) with n = 2"),
        ((0.5 * I2, I2, I2, torch.ones(1, 2)), r"D must have shape \(q, p\) = \(2, 2\), got \(1, 2\)"),
        ((torch.tensor([0.5, torch.nan]), I2, I2), "A has non-finite entries"),
        ((0.5 * I2, I2 * torch.inf, I2), "B has non-finite entries"),
        ((0.5 * I2, I2, I2 * torch.nan), "C has non-finite entries"),
        ((0.5 * I2, I2, I2, I2 * torch.inf), "D has non-finite entries"),
    ],
)
def test_bad_matrices_are_named(matrices: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Realization(*matrices)


@given(systems(12))
@settings(max_examples=40, deadline=None)
def test_frequency_response_is_the_definition(r: Realization) -> None:
    omega = torch.tensor([0.0, 0.3, 1.7, torch.pi], dtype=torch.float64)
    d = r.dense()
    A, B, C = (x.to(torch.complex128) for x in (d.A, d.B, d.C))
    expected = torch.stack(
        [C @ torch.linalg.solve(torch.exp(1j * w) * torch.eye(r.order, dtype=A.dtype) - A, B) for w in omega]
    )
    assert relative(r.frequency_response(omega), expected) < 1e-10
    assert relative(d.frequency_response(omega), expected) < 1e-10


@pytest.mark.parametrize("dense", [False, True])
def test_frequency_response_is_the_transform_of_the_impulse_response(dense: bool) -> None:
    r = diagonal_system(3, 6, radius=0.8, feedthrough=True)
    r = r.dense() if dense else r
    length = 256
    spectrum = torch.fft.fft(impulse_response(r, length), dim=0)
    omega = 2 * torch.pi * torch.arange(length, dtype=torch.float64) / length
    assert relative(r.frequency_response(omega), spectrum) < 1e-12


def test_frequency_response_in_many_chunks_and_of_no_points() -> None:
    r = diagonal_system(0, 1000, 20, 2)
    omega = torch.linspace(0, 3, 301, dtype=torch.float64)
    assert len(omega) * r.order * r.inputs > 2**22
    one_by_one = torch.cat([r.frequency_response(w[None]) for w in omega])
    assert relative(r.frequency_response(omega), one_by_one) < 1e-13
    assert r.frequency_response(omega[:0]).shape == (0, r.outputs, r.inputs)
    with pytest.raises(ValueError, match=r"omega must have shape \(m,\)"):
        r.frequency_response(omega[None])


@pytest.mark.parametrize("dense", [False, True])
def test_real_output_is_the_real_part_for_real_inputs(dense: bool) -> None:
    r = diagonal_system(1, 5, feedthrough=True)
    r = r.dense() if dense else r
    real = r.real_output()
    assert real.order == 10
    assert real.is_diagonal != dense
    response = impulse_response(real, 40)
    assert float(response.imag.abs().max()) < 1e-14
    assert relative(response.real, impulse_response(r, 40).real) < 1e-13
    assert dense_system(0, 3).real_output().order == 3


@given(systems(12))
@settings(max_examples=40, deadline=None)
def test_diagonalize_keeps_the_response(r: Realization) -> None:
    d = r.diagonalize()
    assert d.is_diagonal
    condition = 1.0 if r.is_diagonal else float(torch.linalg.cond(torch.linalg.eig(r.A)[1]))
    omega = torch.linspace(-3, 3, 20, dtype=torch.float64)
    assert relative(d.frequency_response(omega), r.frequency_response(omega)) < 1e-10 * condition


def test_diagonalize_refuses_a_defective_matrix() -> None:
    jordan = 0.5 * torch.eye(3) + torch.diag(torch.ones(2), 1)
    with pytest.raises(ValueError, match=r"condition number of its eigenvectors is .*e\+"):
        Realization(jordan, torch.ones(3, 1), torch.ones(1, 3)).diagonalize()
    with pytest.raises(ValueError, match="condition number"):
        defective_looking_system(0, 6).diagonalize()


def test_poles_of_dense_and_diagonal_agree() -> None:
    r = diagonal_system(5, 8)
    sort = np.sort_complex
    assert np.allclose(sort(r.poles().numpy()), sort(r.dense().poles().numpy()), rtol=1e-13)
    assert abs(r.spectral_radius() - r.dense().spectral_radius()) < 1e-13
