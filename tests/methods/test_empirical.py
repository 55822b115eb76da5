"""Cuts by what calibration inputs really excite, against direct simulation."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from layer_kinds import TIME_INVARIANT
from selective_cases import show
from torch import Tensor, nn

from compressm_cli.layers import LAYERS
from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer
from compressm_cli.lti import Realization, real_gramians
from compressm_cli.methods.hankel import empirical
from compressm_cli.methods.hankel.balanced import BalancedSystem
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.method import CheckContext
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import UnitRecord

WIDTH, ORDER = 3, 8


def build(kind: str = "lru", seed: int = 0) -> TimeInvariantLayer:
    torch.manual_seed(seed)
    options: dict[str, Any] = (
        {"r_min": 0.5, "r_max": 0.95} if kind == "lru" else {"dt_min": 0.1, "dt_max": 0.5}
    )
    layer_class = LAYERS[kind]
    return layer_class(layer_class.Config(kind=kind, **options), WIDTH, ORDER).double()


def white(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def coloured(batch: int, length: int, seed: int = 0) -> Tensor:
    """Slow inputs whose channels are much alike."""
    noise = white(batch, length, WIDTH, seed=seed).numpy()
    for t in range(1, length):
        noise[:, t] = 0.98 * noise[:, t - 1] + 0.02 * noise[:, t]
    mixing = np.ones((WIDTH, WIDTH)) + 0.1 * np.eye(WIDTH)
    return torch.from_numpy(noise @ mixing)


def simulate(poles: np.ndarray, B: np.ndarray, u: np.ndarray) -> np.ndarray:
    """h_t = poles h_{t-1} + B u_t, (batch, length, n)."""
    h = np.zeros((*u.shape[:2], len(poles)), dtype=complex)
    state = np.zeros((u.shape[0], len(poles)), dtype=complex)
    for t in range(u.shape[1]):
        state = poles * state + u[:, t] @ B.T
        h[:, t] = state
    return h


def states(system: Realization, u: Tensor) -> np.ndarray:
    h = simulate(system.A.numpy(), system.B.numpy(), u.numpy())
    return h.reshape(-1, system.order)


def reduced_states(system: Realization, projection: StateProjection, u: Tensor) -> np.ndarray:
    g = simulate(projection.poles.numpy(), projection.reduce_input(system.B).numpy(), u.numpy())
    return g.reshape(-1, projection.order)


def lifted(projection: StateProjection, g: np.ndarray) -> np.ndarray:
    return g @ projection.lift.numpy().T + g.conj() @ projection.lift_conj.numpy().T


def truncated(system: Realization, order: int = 3) -> StateProjection:
    return BalancedSystem.of(system, "real").truncate(order, "largest", torch.Generator()).projection


def state_covariance(system: Realization, inputs: list[Tensor]) -> Tensor:
    statistic = empirical.StateCovariance([system], lambda u: [u])
    show({"": statistic}, {"": inputs})
    (covariance,) = statistic.result()
    return covariance


def moments(
    system: Realization, projection: StateProjection, inputs: list[Tensor]
) -> empirical.SecondMoments:
    covariance = state_covariance(system, inputs)
    statistic = empirical.JointMoments([system], lambda u: [u], [projection], [covariance])
    show({"": statistic}, {"": inputs})
    (found,) = statistic.result()
    return found


def test_state_covariance_tends_to_the_gramian_for_white_inputs() -> None:
    (system,) = build().systems()
    P = state_covariance(system, [white(8, 4000, WIDTH, seed=s) for s in range(4)])
    expected = real_gramians(system)[0]
    assert float((P - expected).norm() / expected.norm()) < 0.03


def test_state_covariance_is_the_mean_over_unequal_batches() -> None:
    (system,) = build().systems()
    inputs = [coloured(2, 30), coloured(5, 30, seed=1)]
    h = np.concatenate([states(system, u) for u in inputs])
    x = np.sqrt(2) * np.c_[h.real, h.imag]
    expected = x.T @ x / len(x)
    np.testing.assert_allclose(state_covariance(system, inputs).numpy(), expected, rtol=1e-10)


def test_the_refitted_lift_is_numpys_least_squares_solution() -> None:
    (system,) = build().systems()
    inputs = [coloured(4, 50), coloured(4, 50, seed=1)]
    refitted = moments(system, projection := truncated(system), inputs).refit_lift(projection)
    h = np.concatenate([states(system, u) for u in inputs])
    g = np.concatenate([reduced_states(system, refitted, u) for u in inputs])
    expected, *_ = np.linalg.lstsq(np.c_[g.real, g.imag], np.c_[h.real, h.imag], rcond=None)
    fitted = np.c_[g.real, g.imag] @ expected
    np.testing.assert_allclose(
        lifted(refitted, g), fitted[:, :ORDER] + 1j * fitted[:, ORDER:], atol=1e-8 * np.abs(h).max()
    )


def test_every_change_of_the_refitted_lift_is_worse() -> None:
    (system,) = build().systems()
    inputs = [coloured(4, 60)]
    original = truncated(system)
    refitted = moments(system, original, inputs).refit_lift(original)
    h, g = states(system, inputs[0]), reduced_states(system, refitted, inputs[0])

    def error(projection: StateProjection) -> float:
        return float((np.abs(h - lifted(projection, g)) ** 2).sum())

    best = error(refitted)
    assert best < error(original)
    for seed in range(5):
        for name in ("lift", "lift_conj"):
            value: Tensor = getattr(refitted, name)
            change = torch.complex(white(*value.shape, seed=seed), white(*value.shape, seed=seed + 50))
            for size in (1e-3, -1e-3):
                assert error(replace(refitted, **{name: value + size * change})) > best


def test_refitting_survives_real_poles() -> None:
    """The imaginary parts of their states are always zero."""
    system = Realization(
        torch.tensor([0.9, -0.5, 0.3], dtype=torch.float64).to(torch.complex128),
        white(3, 1).to(torch.complex128),
        white(1, 3, seed=1).to(torch.complex128),
    )
    inputs = [white(4, 40, 1)]
    projection = truncated(system, 2)
    refitted = moments(system, projection, inputs).refit_lift(projection)
    assert bool(refitted.lift.isfinite().all())
    wrong, whole = moments(system, refitted, inputs).output_error(system, refitted)
    unfitted, _ = moments(system, projection, inputs).output_error(system, projection)
    assert 0 < wrong <= unfitted < whole


def test_output_error_is_that_of_a_direct_simulation() -> None:
    (system,) = build().systems()
    inputs = [coloured(3, 40), coloured(2, 40, seed=1)]
    projection = truncated(system)
    C, reduced_C = system.C.numpy(), projection.reduce_output(system.C).numpy()
    wrong = whole = 0.0
    for u in inputs:
        y = (states(system, u) @ C.T).real
        wrong += ((y - (reduced_states(system, projection, u) @ reduced_C.T).real) ** 2).sum()
        whole += (y**2).sum()
    assert moments(system, projection, inputs).output_error(system, projection) == pytest.approx(
        (wrong, whole), rel=1e-9
    )


def test_relative_error_needs_an_output() -> None:
    assert empirical.relative_error([(1.0, 16.0), (3.0, 0.0)]) == 0.5
    assert empirical.relative_error([(0.0, 0.0)]) is None


def cut(layer: TimeInvariantLayer, gramian: str, inputs: list[Tensor], **settings: Any) -> UnitRecord:
    model = nn.ModuleList([layer])
    schedule = {"kind": "listed", "at_steps": [1]}
    config = HankelConfig(
        method="hankel", gramian=gramian, target_order=3, schedule=schedule, min_reduction=0.0, **settings
    )
    context = CheckContext(
        step=1,
        total_steps=1,
        length=inputs[0].shape[1],
        generator=torch.Generator(),
        calibrate=lambda wanted, count: show(wanted, {"0": inputs[:count]}),
    )
    plan = Hankel(config).plan(model, context)
    surgery.apply_plan(model, None, plan)
    return plan.records[0]


def outputs(layer: TimeInvariantLayer, inputs: list[Tensor]) -> Tensor:
    """What the states contribute, without the feedthrough."""
    with torch.no_grad():
        return torch.cat([layer(u) - layer.get_parameter("D") * u for u in inputs])


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize("seed", range(3))
def test_the_empirical_cut_is_better_on_the_inputs_that_there_are(
    kind: str, realization: str, seed: int
) -> None:
    """Measured on the layer's own outputs for coloured inputs that were not used for calibration."""
    inputs, fresh = [coloured(4, 120, seed=s) for s in (1, 2)], [coloured(4, 120, seed=9)]
    errors = {}
    for gramian in ("analytic", "empirical"):
        layer = build(kind, seed)
        before = outputs(layer, fresh)
        record = cut(layer, gramian, inputs, realization=realization, horizon="infinite")
        assert record.after <= 3
        errors[gramian] = float((outputs(layer, fresh) - before).norm() / before.norm())
    assert errors["empirical"] < errors["analytic"]


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_the_recorded_error_is_the_recurrences(kind: str) -> None:
    inputs = [coloured(4, 60, seed=s) for s in (1, 2)]
    layer = build(kind)
    before = outputs(layer, inputs)
    record = cut(layer, "empirical", inputs, calibration_batches=2)
    lost = float((outputs(layer, inputs) - before).norm())
    assert record.details["measured_error"] == pytest.approx(lost / float(before.norm()), rel=1e-6)
    whole = before + torch.cat([layer.get_parameter("D").detach() * u for u in inputs])
    # Nor that of y + D u.
    assert record.details["measured_error"] != pytest.approx(lost / float(whole.norm()), rel=0.01)
    assert record.details["bound"] is None
    assert record.details["gramian"] == "empirical"


def test_an_analytic_cut_measures_no_error() -> None:
    assert cut(build(), "analytic", [coloured(2, 30)]).details["measured_error"] is None
