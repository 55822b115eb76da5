"""What is particular to one layer: its start, its discretization, its recipe."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from pydantic import ValidationError

from compressm_cli.layers import LAYERS
from compressm_cli.layers.discretization import continuous_poles, discrete_system, zero_order_hold
from compressm_cli.layers.hippo import hippo_normal
from compressm_cli.layers.lru import LRU
from compressm_cli.layers.s4d import S4D
from compressm_cli.layers.s5 import S5
from compressm_cli.layers.time_invariant import StateProjection

DT = torch.tensor([0.001, 0.03, 0.1, 2.0], dtype=torch.float64)
POLES = torch.tensor([-0.5 + 0j, -0.5 + 3j, -1e-6 + 1e-5j, -40 + 1.5j], dtype=torch.complex128)


def parts(poles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.log(-poles.real), poles.imag


def test_zero_order_hold_is_its_definition() -> None:
    lam, factor = discrete_system(*parts(POLES), torch.log(DT))
    expected = torch.exp(DT * POLES)
    torch.testing.assert_close(lam, expected, rtol=1e-14, atol=0)
    # (exp(z) - 1) / z by its series, z^k / (k+1)!, where it converges fast: exact for slow poles too.
    z = DT[:3] * POLES[:3]
    series = sum(z**k / math.factorial(k + 1) for k in range(12))
    torch.testing.assert_close(factor[:3], DT[:3] * series, rtol=1e-14, atol=0)
    torch.testing.assert_close(factor[3], ((expected - 1) / POLES)[3], rtol=1e-14, atol=0)


def test_zero_order_hold_keeps_its_precision_for_slow_poles_in_float32() -> None:
    decays = torch.tensor([-12.0, -8.0, -2.0])
    _, _, re, im = zero_order_hold(decays, 1e-4 * torch.ones(3), torch.full((3,), math.log(1e-3)))
    _, _, exact_re, exact_im = zero_order_hold(
        decays.double(), 1e-4 * torch.ones(3).double(), torch.full((3,), math.log(1e-3)).double()
    )
    torch.testing.assert_close(re.double(), exact_re, rtol=1e-6, atol=0)
    assert ((im - exact_im).abs() <= 1e-6 * exact_re).all()


def test_continuous_poles_give_the_discrete_ones_back() -> None:
    discrete = torch.tensor([0.3 + 0.9j, 0.5, -0.5, 0.0, 1 - 1e-12, -0.2 - 0.1j], dtype=torch.complex128)
    log_dt = torch.linspace(-7, 1, 6, dtype=torch.float64)
    lam, _ = discrete_system(*continuous_poles(discrete, log_dt), log_dt)
    torch.testing.assert_close(lam, discrete, rtol=0, atol=2e-12)


def test_an_s4d_channel_is_scipys_zero_order_hold_of_its_continuous_system() -> None:
    torch.manual_seed(0)
    layer = S4D(S4D.Config(), 2, 3).double()
    dt = layer.log_dt.exp().tolist()
    a = (-layer.log_A_re.exp() + 1j * layer.A_im).detach().numpy()
    c = (layer.C_re + 1j * layer.C_im).detach().numpy()
    for d in range(2):
        A = np.kron(np.diag(a[d].real), np.eye(2)) + np.kron(np.diag(a[d].imag), [[0, -1], [1, 0]])
        B = np.tile([[1.0], [0.0]], (3, 1))
        C = 2 * np.stack([c[d].real, -c[d].imag], axis=1).reshape(1, -1)
        Ad, Bd, Cd, _, _ = scipy.signal.cont2discrete((A, B, C, 0.0), dt[d], method="zoh")
        expected = [float((Cd @ np.linalg.matrix_power(Ad, k) @ Bd)[0, 0]) for k in range(20)]
        impulse = torch.zeros(1, 20, 2, dtype=torch.float64)
        impulse[0, 0, d] = 1.0
        response = layer(impulse)[0, :, d].detach().clone()
        response[0] -= layer.D[d].item()
        np.testing.assert_allclose(response.numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 7, 16])
def test_hippo_normal_diagonalizes_the_normal_part_of_hippo_legs(order: int) -> None:
    n = np.arange(order)
    legs = -np.tril(np.sqrt(np.outer(2 * n + 1, 2 * n + 1)), -1) - np.diag(n + 1.0)
    normal = legs + np.outer(np.sqrt(n + 0.5), np.sqrt(n + 0.5))
    poles, V = (t.numpy() for t in hippo_normal(order))
    np.testing.assert_allclose(V @ np.diag(poles) @ V.conj().T, normal, atol=1e-12 * order)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(order), atol=1e-12)
    np.testing.assert_allclose(poles, poles[::-1].conj(), atol=1e-10)


def test_s4d_starts_as_the_paper_says() -> None:
    lin = S4D(S4D.Config(), 2, 4)
    inv = S4D(S4D.Config(init="inv"), 2, 4)
    assert torch.allclose(lin.A_im[0], torch.tensor([0.0, 1.0, 2.0, 3.0]) * math.pi)
    expected = [8 / math.pi * (8 / (2 * n + 1) - 1) for n in range(4)]
    assert torch.allclose(inv.A_im[1], torch.tensor(expected))
    for layer in (lin, inv):
        assert torch.allclose(-layer.log_A_re.exp(), torch.tensor(-0.5))
        assert ((layer.log_dt >= math.log(0.001)) & (layer.log_dt <= math.log(0.1))).all()


def test_s5_starts_from_blocks_of_hippo() -> None:
    torch.manual_seed(0)
    layer = S5(S5.Config(state_dim=7, blocks=3), 64, 7)
    expected = torch.cat([hippo_normal(2 * pairs)[0].imag[pairs:] for pairs in (2, 2, 3)])
    assert torch.allclose(layer.A_im.double(), expected, rtol=1e-6)
    assert torch.allclose(-layer.log_A_re.exp(), torch.tensor(-0.5))
    norms = torch.complex(layer.B_re, layer.B_im).norm(dim=1)
    assert ((norms > 0.7) & (norms < 1.3)).all()


def test_s5_is_the_half_of_a_real_system() -> None:
    """One real block whose B and C are drawn as the layer draws them, held at zero order by scipy."""
    config = S5.Config(state_dim=3, dt_min=0.05, dt_max=0.05)
    torch.manual_seed(3)
    layer = S5(config, 2, 3).double()
    torch.manual_seed(3)
    B, C = torch.randn(6, 2) / math.sqrt(2), torch.randn(2, 6) / math.sqrt(6)
    poles, V = (t.numpy() for t in hippo_normal(6))
    A = (V @ np.diag(poles) @ V.conj().T).real
    dt = layer.log_dt.exp()[0].item()
    Ad, Bd, Cd, _, _ = scipy.signal.cont2discrete(
        (A, B.numpy(), C.numpy(), np.zeros((2, 2))), dt, method="zoh"
    )
    (system,) = layer.systems()
    for k in range(10):
        markov = (system.C @ (system.A[:, None] ** k * system.B)).real.numpy()
        np.testing.assert_allclose(markov, Cd @ np.linalg.matrix_power(Ad, k) @ Bd, atol=2e-6)


def test_s5_states_keep_their_own_step_unless_they_are_mixed() -> None:
    torch.manual_seed(0)
    layer = S5(S5.Config(), 2, 3).double()
    (system,) = layer.systems()
    rows = torch.eye(3, dtype=torch.complex128)[[2, 0]]
    none = torch.zeros_like(rows)
    kept = layer.reduced_parameters([StateProjection(system.A[[2, 0]], rows, none, rows.mT, none.mT)])
    assert torch.equal(kept["log_dt"], layer.log_dt[[2, 0]])
    mixing = torch.ones(1, 3, dtype=torch.complex128)
    none = torch.zeros_like(mixing)
    mixed = layer.reduced_parameters([StateProjection(system.A[:1], mixing, none, mixing.mT / 3, none.mT)])
    torch.testing.assert_close(mixed["log_dt"], layer.log_dt.detach().mean()[None])


def test_lru_starts_on_its_ring() -> None:
    torch.manual_seed(0)
    (system,) = LRU(LRU.Config(r_min=0.8, r_max=0.9, max_phase=0.3), 4, 200).systems()
    size, angle = system.A.abs(), torch.angle(system.A)
    assert ((size >= 0.8 - 1e-6) & (size <= 0.9 + 1e-6)).all()
    assert ((angle >= 0) & (angle <= 0.3 + 1e-6)).all()
    # Stationary under white noise: states have variance |B|^2, whatever the pole.
    row = system.B.norm(dim=1) / torch.sqrt(1 - size**2)
    assert ((row > 0.3) & (row < 2.0)).all()


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        ("lru", {"r_min": 0.9, "r_max": 0.5}, "r_min"),
        ("s4d", {"init": "legs"}, "init"),
        ("s4d", {"dt_min": 0.2}, "dt_min"),
        ("s5", {"dt_min": 0.2}, "dt_min"),
        ("s5", {"state_dim": 4, "blocks": 5}, "blocks"),
        ("s5", {"state_dim": [8, 2], "blocks": 4}, "blocks"),
        ("s5", {"block": 2}, "block"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(kind: str, values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LAYERS[kind].Config(kind=kind, **values)
