"""Hankel truncation against computations of its own kind in NumPy and SciPy, and the rules around it."""

import copy
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from layer_kinds import TIME_INVARIANT
from pydantic import ValidationError
from scipy.linalg import eigh, solve_discrete_lyapunov, svd
from selective_cases import show
from torch import Tensor, nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.layers import LAYERS
from compressm_cli.layers.time_invariant import TimeInvariantLayer
from compressm_cli.lti import Realization, order_for_energy
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.method import CheckContext
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import Plan, UnitRecord

OMEGA = np.linspace(0.0, np.pi, 2001)
WIDTH, ORDER = 3, 8
OPTIONS: dict[str, dict[str, Any]] = {
    "lru": {"r_min": 0.3, "r_max": 0.9},
    "s4d": {"dt_min": 0.1, "dt_max": 0.5},
    "s5": {"dt_min": 0.1, "dt_max": 0.5},
}

Matrices = tuple[np.ndarray, np.ndarray, np.ndarray]


# ---- the independent computation ----------------------------------------------------------------------


def dense(system: Realization) -> Matrices:
    return np.diag(system.A.numpy()), system.B.numpy(), system.C.numpy()


def closed(system: Realization) -> Matrices:
    """The system of order 2 n whose output for real inputs is the real part."""
    a, b, c = system.A.numpy(), system.B.numpy(), system.C.numpy()
    return np.diag(np.r_[a, a.conj()]), np.r_[b, b.conj()], np.c_[c, c.conj()] / 2


def gramians(m: Matrices) -> tuple[np.ndarray, np.ndarray]:
    A, B, C = m
    P = solve_discrete_lyapunov(A, B @ B.conj().T, method="bilinear")
    Q = solve_discrete_lyapunov(A.conj().T, C.conj().T @ C, method="bilinear")
    return P, Q


def factor(P: np.ndarray) -> np.ndarray:
    values, vectors = eigh((P + P.conj().T) / 2)
    return vectors * np.sqrt(values.clip(0))


def reference_hsv(m: Matrices) -> np.ndarray:
    P, Q = gramians(m)
    return svd(factor(Q).conj().T @ factor(P), compute_uv=False)


def reference_truncation(m: Matrices, order: int) -> Matrices:
    A, B, C = m
    P, Q = gramians(m)
    Lp, Lq = factor(P), factor(Q)
    U, S, Vh = svd(Lq.conj().T @ Lp)
    T = Lp @ Vh.conj().T[:, :order] / np.sqrt(S[:order])
    W = Lq @ U[:, :order] / np.sqrt(S[:order])
    return W.conj().T @ A @ T, W.conj().T @ B, C @ T


def count_states(A: np.ndarray) -> int:
    """States of a diagonal form with one state a real pole and one a conjugate pair."""
    poles = np.linalg.eigvals(A)
    real = np.abs(poles.imag) < 1e-9
    return int(real.sum() + (~real).sum() // 2)


def reference_real_truncation(system: Realization, states: int) -> Matrices:
    """The largest order of the real system whose states fit."""
    m = closed(system)
    for order in range(2 * states, 0, -1):
        reduced = reference_truncation(m, order)
        if count_states(reduced[0]) <= states:
            return reduced
    raise AssertionError("no order fits")


def transfer(m: Matrices, omega: np.ndarray = OMEGA) -> np.ndarray:
    A, B, C = m
    z = np.exp(1j * omega)[:, None, None]
    return C @ np.linalg.solve(z * np.eye(len(A)) - A, np.broadcast_to(B, (len(omega), *B.shape)))


def real_part_transfer(m: Matrices) -> np.ndarray:
    """Frequency response from a real input to the real part of the output."""
    return (transfer(m) + transfer(m, -OMEGA).conj()) / 2


def h_infinity(difference: np.ndarray) -> float:
    return float(np.linalg.norm(difference, ord=2, axis=(1, 2)).max())


# ---- models and plans ---------------------------------------------------------------------------------


def build(kind: str = "lru", state_dim: int = ORDER, seed: int = 0, **options: Any) -> TimeInvariantLayer:
    torch.manual_seed(seed)
    layer_class = LAYERS[kind]
    config = layer_class.Config(kind=kind, **{**OPTIONS.get(kind, {}), **options})
    return layer_class(config, WIDTH, state_dim).double()


PAPERS = {"method": "hankel", "gramian": "analytic", "horizon": "infinite"}


def config(**settings: Any) -> HankelConfig:
    return HankelConfig(**{**PAPERS, **settings})


def context(
    step: int = 1, total: int = 1, seed: int = 0, inputs: dict[str, list[Tensor]] | None = None
) -> CheckContext:
    return CheckContext(
        step=step,
        total_steps=total,
        length=30,
        generator=torch.Generator().manual_seed(seed),
        calibrate=lambda wanted, _: show(wanted, inputs or {}),
    )


ONCE = {"kind": "listed", "at_steps": [1]}


def plan_for(
    layers: Iterable[TimeInvariantLayer], *, seed: int = 0, **settings: Any
) -> tuple[nn.Module, Plan]:
    model = nn.ModuleList(layers)
    method = Hankel(config(**{"schedule": ONCE, "min_reduction": 0.0, **settings}))
    return model, method.plan(model, context(seed=seed))


def cut(layer: TimeInvariantLayer, **settings: Any) -> UnitRecord:
    """Carry out the plan for one layer; returns its record."""
    model, plan = plan_for([layer], **settings)
    surgery.apply_plan(model, None, plan)
    return plan.records[0]


def impulse_transfer(layer: TimeInvariantLayer, length: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies and response (m, H, H) of what the layer computes, from its impulse responses."""
    impulse = torch.zeros(WIDTH, length, WIDTH, dtype=torch.float64)
    impulse[torch.arange(WIDTH), 0, torch.arange(WIDTH)] = 1.0
    with torch.no_grad():
        kernel = layer(impulse).numpy().transpose(1, 2, 0)  # time, output, input
    kernel[0] -= np.diag(layer.get_parameter("D").detach().numpy())
    # The layers' state sees an input at the same step, a realization's one step later.
    omega = 2 * np.pi * np.arange(length) / length
    return omega, np.fft.fft(kernel, axis=0) * np.exp(-1j * omega)[:, None, None]


# ---- the mathematics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", [1, 3, 5])
def test_complex_realization_is_an_independent_balanced_truncation(seed: int, order: int) -> None:
    layer = build(seed=seed)
    expected = transfer(reference_truncation(dense(layer.systems()[0]), order))
    record = cut(layer, realization="complex", selection="largest", target_order=order)
    assert layer.state_dim == record.after == order
    found = transfer(dense(layer.systems()[0]))
    assert h_infinity(found - expected) <= 1e-8 * h_infinity(expected)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("order", [1, 3, 5])
def test_real_realization_is_an_independent_truncation_of_the_real_system(seed: int, order: int) -> None:
    layer = build(seed=seed)
    reference = reference_real_truncation(layer.systems()[0], order)
    record = cut(layer, realization="real", target_order=order)
    assert layer.state_dim == record.after == count_states(reference[0]) <= order
    assert record.details["kept"] == len(reference[0])
    expected, found = transfer(reference), real_part_transfer(dense(layer.systems()[0]))
    assert h_infinity(found - expected) <= 1e-8 * h_infinity(expected)


@pytest.mark.parametrize(("seed", "order", "expected"), [(4, 3, 5), (10, 10, 19), (16, 7, 13)])
def test_the_largest_real_order_that_fits_is_taken(seed: int, order: int, expected: int) -> None:
    """Here a smaller real order needs more states than a larger one, so that no order may be skipped."""
    layer = build(seed=seed, state_dim=12)
    reference = reference_real_truncation(layer.systems()[0], order)
    assert len(reference[0]) == expected
    assert cut(layer, target_order=order).details["kept"] == expected


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_the_layer_computes_the_truncated_system(kind: str, realization: str) -> None:
    """Of what the layer's forward really does, not of what it says of itself."""
    layer, order = build(kind), 4
    references = [
        reference_real_truncation(s, order)
        if realization == "real"
        else reference_truncation(dense(s), order)
        for s in layer.systems()
    ]
    cut(layer, realization=realization, target_order=order)
    omega, found = impulse_transfer(layer)
    responses = [(transfer(m, omega) + transfer(m, -omega).conj()) / 2 for m in references]
    if len(responses) == 1:
        expected = responses[0]
    else:
        expected = np.zeros_like(found)
        for channel, response in enumerate(responses):
            expected[:, channel, channel] = response[:, 0, 0]
    assert h_infinity(found - expected) <= 1e-8 * h_infinity(expected)


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_recorded_hankel_singular_values_are_the_independent_ones(kind: str, realization: str) -> None:
    layer = build(kind)
    matrices = [closed(s) if realization == "real" else dense(s) for s in layer.systems()]
    expected = np.mean([reference_hsv(m) for m in matrices], axis=0)
    _, plan = plan_for([layer], realization=realization, energy_threshold=0.9)
    np.testing.assert_allclose(plan.records[0].details["hsv"], expected, rtol=1e-8, atol=1e-8 * expected[0])


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("realization", ["real", "complex"])
@pytest.mark.parametrize("order", [1, 2, 5, 7])
def test_the_measured_error_is_within_the_recorded_bound(kind: str, realization: str, order: int) -> None:
    layer = build(kind)
    before = [real_part_transfer(dense(s)) for s in layer.systems()]
    record = cut(layer, realization=realization, target_order=order)
    after = [real_part_transfer(dense(s)) for s in layer.systems()]
    measured = max(h_infinity(new - old) for old, new in zip(before, after, strict=True))
    assert record.details["bound"] is not None
    assert 0 < measured <= record.details["bound"] * (1 + 1e-6)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_gramians_over_the_length_of_a_sequence(realization: str) -> None:
    """The sums of their definition, term by term; no error bound holds then."""
    layer = build(r_min=0.8, r_max=0.99)
    (system,) = layer.systems()
    A, B, C = closed(system) if realization == "real" else dense(system)
    powers = [np.linalg.matrix_power(A, k) for k in range(30)]
    P = sum(M @ B @ (M @ B).conj().T for M in powers)
    Q = sum((C @ M).conj().T @ C @ M for M in powers)
    expected = svd(factor(Q).conj().T @ factor(P), compute_uv=False)
    record = cut(layer, realization=realization, horizon="sequence", target_order=4)
    assert record.details["horizon"] == 30
    assert record.details["bound"] is None
    assert record.after <= 4
    np.testing.assert_allclose(record.details["hsv"], expected, rtol=1e-8, atol=1e-8 * expected[0])


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_where_a_horizon_gives_an_unstable_system_all_time_is_looked_at(realization: str) -> None:
    """Poles far slower than the sequences are long: a reduction over the length alone makes them unstable."""
    layer, twin = (build("s4d", dt_min=0.001, dt_max=0.1) for _ in range(2))
    record = cut(layer, realization=realization, horizon="sequence", target_order=3)
    assert record.after == 3
    assert (
        "systems balanced over all time, since over 30 steps: the reduced system is not stable"
        in record.reason
    )
    assert all(system.spectral_radius() < 1 for system in layer.systems())
    assert cut(twin, realization=realization, horizon="infinite", target_order=3).reason == "cut from 8 to 3"
    same = [
        torch.allclose(a.frequency_response(torch.tensor(OMEGA)), b.frequency_response(torch.tensor(OMEGA)))
        for a, b in zip(layer.systems(), twin.systems(), strict=True)
    ]
    assert any(same)
    assert same.count(True) == int(record.reason.split(" of ")[0].split()[-1])


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_tail_is_the_discarded_share_of_the_energy(realization: str) -> None:
    record = cut(build(), realization=realization, target_order=3)
    assert record.details["tail"] == pytest.approx(
        sum(record.details["hsv"][record.details["kept"] :]) / sum(record.details["hsv"])
    )


def test_real_poles_are_kept_as_single_states() -> None:
    layer = build(max_phase=1e-3)
    with torch.no_grad():
        layer.get_parameter("theta").copy_(torch.tensor([0.0, torch.pi] * 4))
        for name in ("B_im", "C_im"):
            layer.get_parameter(name).zero_()
    reference = reference_real_truncation(layer.systems()[0], 3)
    cut(layer, target_order=3)
    theta = layer.get_parameter("theta").detach()
    assert bool((theta.abs().lt(1e-9) | (theta.abs() - torch.pi).abs().lt(1e-9)).all())
    found = real_part_transfer(dense(layer.systems()[0]))
    assert h_infinity(found - transfer(reference)) <= 1e-8 * h_infinity(transfer(reference))


# ---- targets ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [BadInputError, ValueError])
def test_a_list_of_targets_for_other_layers_is_told_in_words(error: type[Exception]) -> None:
    """As where blocks are gone: in a run, and in a loop of one's own."""
    with pytest.raises(
        error,
        match=r"target_order: 3 orders are listed, .* states are 0, 1; write one number, or a list of 2",
    ):
        plan_for([build(), build()], target_order=[2, 2, 2])


@pytest.mark.parametrize("threshold", [0.3, 0.8, 0.95])
def test_energy_threshold_keeps_that_share_and_no_more(threshold: float) -> None:
    layer = build(state_dim=16)
    record = cut(layer, realization="complex", energy_threshold=threshold)
    assert record.after == order_for_energy(torch.tensor(record.details["hsv"]), threshold)
    energy = np.cumsum(record.details["hsv"]) / np.sum(record.details["hsv"])
    assert energy[record.after - 1] >= threshold
    assert record.after == 1 or energy[record.after - 2] < threshold


def test_energy_threshold_of_the_real_system() -> None:
    layer = build(state_dim=16)
    m = closed(layer.systems()[0])
    k = order_for_energy(torch.tensor(reference_hsv(m).copy()), 0.9)
    states = count_states(reference_truncation(m, k)[0])
    record = cut(layer, energy_threshold=0.9)
    assert record.after == states < 16
    assert record.details["tail"] is not None
    assert record.details["tail"] <= 0.1


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("realization", ["real", "complex"])
def test_a_threshold_of_one_cuts_nothing(kind: str, realization: str) -> None:
    layer = build(kind, state_dim=12)
    if kind == "lru":  # not even states that are numerically superfluous
        with torch.no_grad():
            layer.get_parameter("C_re")[:, 4:] = 0.0
            layer.get_parameter("C_im")[:, 4:] = 0.0
    _, plan = plan_for([layer], energy_threshold=1.0, realization=realization)
    assert not plan
    assert plan.records[0].after == 12
    assert plan.records[0].reason.startswith("nothing cut")


def test_keep_fraction_is_of_the_present_order() -> None:
    layer = build()
    assert cut(layer, keep_fraction=0.5, realization="complex").after == 4
    assert cut(layer, keep_fraction=0.5, realization="complex").after == 2


def test_target_order_is_reached_by_equal_ratios() -> None:
    method = Hankel(
        config(target_order=4, realization="complex", schedule={"kind": "equidistant", "until": 1.0})
    )
    model = nn.ModuleList([build(state_dim=64)])
    orders = []
    for step in (1, 2, 3, 4):
        surgery.apply_plan(model, None, method.plan(model, context(step, total=4)))
        orders.append(surgery.orders(model)["0"])
    assert orders == [32, 16, 8, 4]


def test_target_order_by_layer() -> None:
    model, plan = plan_for([build(seed=i) for i in range(3)], target_order=[2, 5, 8], realization="complex")
    surgery.apply_plan(model, None, plan)
    assert surgery.orders(model) == {"0": 2, "1": 5, "2": 8}


def test_target_order_total_goes_where_the_energy_is() -> None:
    """A layer whose energy sits in two states leaves the others the rest; none is left without a state."""
    concentrated, spread = build(seed=1), build(seed=2)
    with torch.no_grad():
        for name in ("C_re", "C_im"):
            concentrated.get_parameter(name)[:, 2:] *= 1e-6
    model, plan = plan_for([concentrated, spread], target_order_total=8, realization="complex")
    surgery.apply_plan(model, None, plan)
    assert surgery.orders(model) == {"0": 2, "1": 6}
    model, plan = plan_for([build(seed=i) for i in range(3)], target_order_total=3, realization="complex")
    surgery.apply_plan(model, None, plan)
    assert surgery.orders(model) == {"0": 1, "1": 1, "2": 1}


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_targets_are_reached_by_the_real_system_too(kind: str) -> None:
    layer = build(kind)
    assert cut(layer, target_order=4).after in (3, 4)
    assert layer.state_dim in (3, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "exactly one of"),
        ({"energy_threshold": 0.9, "target_order": 3}, "energy_threshold and target_order"),
        ({"target_order": [4, 2], "min_order": 3}, "must not be below min_order"),
        ({"energy_threshold": 0.0}, "greater than 0"),
    ],
)
def test_impossible_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**settings)


# ---- limits -------------------------------------------------------------------------------------------


def test_min_reduction_leaves_small_cuts_undone() -> None:
    _, plan = plan_for([build(state_dim=20)], target_order=19, min_reduction=0.1)
    assert not plan
    assert "min_reduction" in plan.records[0].reason
    _, plan = plan_for([build(state_dim=20)], target_order=18, min_reduction=0.1)
    assert plan


def test_min_order_and_multiple_of_round_up() -> None:
    assert cut(build(), target_order=6, min_order=6, realization="complex").after == 6
    assert cut(build(), energy_threshold=0.01, min_order=3, realization="complex").after == 3
    assert cut(build(), energy_threshold=0.01, multiple_of=4, realization="complex").after == 4
    assert cut(build(), target_order=5, multiple_of=4).after == 8


def test_a_multiple_is_kept_where_fewer_coordinates_exist() -> None:
    """Two states carry everything; the others that make up the multiple neither read nor contribute."""
    layer = build()
    with torch.no_grad():
        for name in ("C_re", "C_im"):
            layer.get_parameter(name)[:, 2:] = 0.0
    before = real_part_transfer(dense(layer.systems()[0]))
    assert cut(layer, energy_threshold=0.999999, multiple_of=4).after == 4
    after = real_part_transfer(dense(layer.systems()[0]))
    assert h_infinity(after - before) <= 1e-8 * h_infinity(before)


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_a_system_without_output_is_cut_to_an_idle_state(realization: str) -> None:
    layer = build()
    with torch.no_grad():
        for name in ("C_re", "C_im"):
            layer.get_parameter(name).zero_()
    record = cut(layer, energy_threshold=0.9, realization=realization)
    assert record.after == 1
    assert record.details["tail"] == 0.0
    assert h_infinity(transfer(dense(layer.systems()[0]))) == 0.0


def test_a_dead_channel_does_not_keep_others_from_being_cut() -> None:
    layer = build("s4d")
    with torch.no_grad():
        layer.get_parameter("C_re")[0] = 0.0
        layer.get_parameter("C_im")[0] = 0.0
    record = cut(layer, target_order=3)
    assert record.after <= 3
    assert record.details["bound"] is not None


# ---- selection ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("realization", ["real", "complex"])
def test_what_is_kept_decides_the_error(realization: str) -> None:
    errors, tails = {}, {}
    for selection in ("largest", "random", "smallest"):
        layer = build()
        before = real_part_transfer(dense(layer.systems()[0]))
        record = cut(layer, target_order=4, realization=realization, selection=selection)
        tails[selection] = record.details["tail"]
        errors[selection] = h_infinity(real_part_transfer(dense(layer.systems()[0])) - before)
        assert (record.details["bound"] is not None) == (selection == "largest")
        assert (record.details["kept"] is not None) == (selection == "largest")
    assert tails["largest"] < tails["random"] < tails["smallest"]
    assert errors["largest"] < min(errors["random"], errors["smallest"])


def test_random_selection_follows_the_generator() -> None:
    def weights(seed: int) -> dict[str, Tensor]:
        layer = build(state_dim=16)
        cut(layer, target_order=4, selection="random", seed=seed)
        return layer.state_dict()

    one, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


# ---- refusals -----------------------------------------------------------------------------------------


def test_unusable_layers_are_refused_with_a_reason_and_others_are_cut() -> None:
    broken, unstable, sound = build(seed=1), build(seed=2), build(seed=3)
    with torch.no_grad():
        broken.get_parameter("B_re")[0, 0] = torch.nan
        unstable.get_parameter("nu_log")[0] = -60.0
    model, plan = plan_for([broken, unstable, sound], target_order=3, realization="complex")
    assert [record.title for record in plan.records] == ["0", "1", "2"]
    assert "refused: B has non-finite entries" in plan.records[0].reason
    assert "refused: the system is unstable" in plan.records[1].reason
    surgery.apply_plan(model, None, plan)
    assert surgery.orders(model) == {"0": ORDER, "1": ORDER, "2": 3}


def test_a_reduced_system_that_cannot_be_diagonalized_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("compressm_cli.methods.hankel.balanced.MAX_EIGENVECTOR_CONDITION", 1.0)
    layer = build()
    _, plan = plan_for([layer], target_order=3, realization="complex")
    assert not plan
    assert plan.records[0].reason.startswith(
        "nothing cut: refused: the reduced system cannot be diagonalized"
    )
    assert plan.records[0].after == ORDER


def test_an_unusable_layer_does_not_disturb_an_adaptive_schedule() -> None:
    schedule = {"kind": "adaptive", "every": 1, "start": 0.0, "until": 1.0, "patience": 1}
    method = Hankel(config(target_order=3, schedule=schedule))
    model = nn.ModuleList([build(seed=1), build(seed=2)])
    assert not method.plan(model, context(1, 10))
    with torch.no_grad():
        model[0].get_parameter("B_re")[0, 0] = torch.nan
    plan = method.plan(model, context(2, 10))
    assert "refused" in plan.records[0].reason
    assert method.plan(model, context(3, 10))


# ---- over time ----------------------------------------------------------------------------------------


def test_adaptive_waits_until_orders_stand_still_then_cuts_and_waits_again() -> None:
    schedule = {"kind": "adaptive", "every": 1, "start": 0.0, "until": 1.0, "patience": 2, "tolerance": 0.0}
    method = Hankel(config(keep_fraction=0.5, schedule=schedule, realization="complex"))
    model = nn.ModuleList([build()])
    cuts = []
    for step in range(1, 8):
        plan = method.plan(model, context(step, 10))
        if plan:
            cuts.append(step)
            surgery.apply_plan(model, None, plan)
            method.accepted(plan.records)
        else:
            assert "has not settled" in plan.records[0].reason
    assert cuts == [3, 6]
    assert surgery.orders(model) == {"0": 2}


def safe(on_rejection: str) -> Hankel:
    settings = {"energy_threshold": 0.5, "safety": {"on_rejection": on_rejection}, "realization": "complex"}
    return Hankel(config(**settings, schedule=ONCE))


def test_each_rejection_halves_what_the_next_cut_removes() -> None:
    method, model = safe("gentler"), nn.ModuleList([build(state_dim=16)])
    removed = []
    for _ in range(3):
        plan = method.plan(model, context())
        removed.append(16 - plan.records[0].after)
        method.rejected(plan.records)
    assert removed[0] > 4
    assert removed[1:] == [removed[0] // 2, removed[0] // 4]


def test_a_gentler_cut_still_keeps_to_the_multiple() -> None:
    method = Hankel(
        config(
            target_order=4, multiple_of=4, safety={}, schedule=ONCE, realization="complex", min_reduction=0.0
        )
    )
    model = nn.ModuleList([build(state_dim=16)])
    orders = []
    for _ in range(3):
        plan = method.plan(model, context())
        orders.append(plan.records[0].after)
        method.rejected(plan.records)
    assert orders == [4, 12, 16]


def test_no_further_cut_after_a_rejection_where_the_recipe_says_stop() -> None:
    method, model = safe("stop"), nn.ModuleList([build(state_dim=16)])
    plan = method.plan(model, context())
    assert plan
    method.rejected(plan.records)
    plan = method.plan(model, context())
    assert not plan
    assert plan.records[0].reason == "nothing cut: an earlier cut was rejected; no further cuts"


def test_memory_survives_its_state_dict() -> None:
    method, other, model = safe("gentler"), safe("gentler"), nn.ModuleList([build(state_dim=16)])
    method.rejected(method.plan(model, context()).records)
    other.load_state_dict(method.state_dict())
    assert other.plan(model, context()).records[0].after == method.plan(model, context()).records[0].after


# ---- promises of every plan ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("gramian", ["analytic", "empirical"])
@pytest.mark.parametrize("selection", ["largest", "random"])
def test_planning_changes_nothing(kind: str, gramian: str, selection: str) -> None:
    model = nn.ModuleList([build(kind)])
    weights, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    inputs = {"0": [torch.ones(2, 30, WIDTH, dtype=torch.float64).cumsum(1).sin()]}
    method = Hankel(config(target_order=3, gramian=gramian, selection=selection, schedule=ONCE))
    assert method.plan(model, context(inputs=inputs))
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    assert torch.equal(torch.get_rng_state(), random)
    assert surgery.orders(model) == {"0": ORDER}


@pytest.mark.parametrize(
    "settings", [{"energy_threshold": 0.9}, {"energy_threshold": 1.0}, {"target_order": 3}]
)
def test_every_layer_has_a_record_that_says_why(settings: dict[str, Any]) -> None:
    _, plan = plan_for([build(seed=i) for i in range(3)], **settings)
    assert [record.title for record in plan.records] == ["0", "1", "2"]
    for record in plan.records:
        assert record.reason.startswith("cut from" if record.after < ORDER else "nothing cut: ")
        assert record.details["realization"] == "real"
        assert record.details["gramian"] == "analytic"
        assert record.seconds > 0
        assert len(record.details["hsv"]) == 2 * ORDER
    assert {edit.layer for edit in plan.edits} == {r.title for r in plan.records if r.after < ORDER}
