"""Reductions of layers with a decay a channel and state (Mamba), against simulations and sums written out."""

from typing import Any

import pytest
import torch
from selective_cases import WIDTH, build, context, noise, output_errors, projection, reduction
from torch import Tensor, nn

from compressm_cli.layers.selective import ChannelProjection, ChannelTrace
from compressm_cli.lti import balance
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.hankel.selective import channel, moments
from compressm_cli.methods.hankel.selective.channel import ChannelReduction

VARIANTS = sorted(ChannelReduction.variants)
SHARED = [v for v in VARIANTS if v not in ("channel_balanced", "mean_lti", "random", "channel_orders")]
ORDER = 6


def inputs(dtype: torch.dtype = torch.float64, length: int = 48) -> list[Tensor]:
    """With a memory, as real ones have."""
    raw = [noise(2, length, WIDTH, seed=seed) for seed in (1, 2)]
    return [
        torch.stack([0.8 * u[:, max(0, t - 1)] + u[:, t] for t in range(length)], 1).to(dtype) for u in raw
    ]


def states(trace: ChannelTrace) -> Tensor:
    """(batch, length, D, N), a step at a time."""
    h, found = torch.zeros(()), []
    for t in range(trace.x.shape[1]):
        step = trace.dt[:, t, :, None]
        h = torch.exp(step * trace.A) * h + step * trace.x[:, t, :, None] * trace.B[:, t, None]
        found.append(h)
    return torch.stack(found, dim=1)


@pytest.mark.parametrize("piece", [200, 2**22])
def test_moments_are_sums_over_all_states(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moments, "_PIECE_ENTRIES", piece)
    layer = build("mamba")
    traces = [layer.trace(u) for u in inputs(length=7)]
    A = traces[0].A
    total = torch.zeros(len(A), ORDER, ORDER, dtype=torch.float64)
    for trace in traces:
        h = states(trace)
        total += torch.einsum("bld,bldn,bldm->dnm", trace.weight, h, h)
    eye = torch.eye(ORDER, dtype=torch.float64)
    torch.testing.assert_close(moments.channel_moments(traces, A, eye, by_channel=True), total)
    torch.testing.assert_close(moments.channel_moments(traces, A, eye), total.sum(0))
    mixed, to_input = noise(len(A), 3, seed=3).abs().neg(), noise(3, ORDER, seed=4)
    changed = [ChannelTrace(t.x, t.dt, mixed, t.B @ to_input.T, t.C, t.weight) for t in traces]
    wanted = torch.zeros(3, 3, dtype=torch.float64)
    for trace in changed:
        h = states(trace)
        wanted += torch.einsum("bld,bldn,bldm->nm", trace.weight, h, h)
    torch.testing.assert_close(moments.channel_moments(traces, mixed, to_input), wanted)


def test_gramians_are_means() -> None:
    layer, batches = build("mamba"), inputs(length=9)
    found = reduction(layer, batches)
    traces = [layer.trace(u) for u in batches]
    h, C, w, dt, B, x = (
        torch.cat([get(t) for t in traces]).flatten(0, 1)
        for get in (states, *(lambda t, n=n: getattr(t, n) for n in ("C", "weight", "dt", "B", "x")))
    )
    A, steps = traces[0].A, len(C)
    torch.testing.assert_close(found.P, torch.einsum("sd,sdn,sdm->nm", w, h, h) / steps)
    read, decay = C.T @ C / steps, torch.exp(dt[..., None] * A).mean(0)
    torch.testing.assert_close(found.read, read)
    wanted = torch.zeros_like(read)
    for d in range(len(A)):
        wanted += w[:, d].mean() * read / (1 - decay[d][:, None] * decay[d])
    torch.testing.assert_close(found.Q, wanted)
    second, mean, drive = found.input_moments
    torch.testing.assert_close(second, B.T @ B / steps)
    torch.testing.assert_close(mean, B.mean(0))
    torch.testing.assert_close(drive, (dt * x).square().mean(0))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 1e-4)])
def test_all_states_are_all_of_the_layer(variant: str, dtype: torch.dtype, tolerance: float) -> None:
    layer, batches = build("mamba", dtype, order=4), inputs(dtype)
    found = projection(layer, batches, 4, variant)
    assert found.order == 4
    assert output_errors(layer, batches, found) <= tolerance


def test_the_measured_error_is_that_of_the_weighted_recurrence() -> None:
    """For every variant: of the full and the reduced recurrence, both simulated here."""
    layer, batches = build("mamba"), inputs()
    traces = [layer.trace(u) for u in batches]
    for variant in VARIANTS:
        found = projection(layer, batches, 3, variant)
        wrong = whole = 0.0
        for trace in traces:
            y = (states(trace) * trace.C[:, :, None]).sum(-1)
            new = outputs_with(found, trace)
            wrong += float((trace.weight * (y - new) ** 2).sum())
            whole += float((trace.weight * y**2).sum())
        measured, _ = reduction(layer, batches, variant).errors(found)
        assert measured == pytest.approx((wrong / whole) ** 0.5, rel=1e-6)


def outputs_with(found: ChannelProjection, trace: ChannelTrace) -> Tensor:
    each = [m if m.ndim == 3 else m.expand(len(found.A), -1, -1) for m in (found.to_input, found.to_output)]
    h, outputs = torch.zeros(()), []
    for t in range(trace.x.shape[1]):
        step = trace.dt[:, t, :, None]
        B, C = (
            torch.einsum("drn,bn->bdr", m, v[:, t]) for m, v in zip(each, (trace.B, trace.C), strict=True)
        )
        if found.kept is not None:
            C = C * (torch.arange(C.shape[2]) < found.kept[:, None])
        h = torch.exp(step * found.A) * h + step * trace.x[:, t, :, None] * B
        outputs.append((h * C).sum(-1))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("variant", SHARED)
def test_the_names_and_scales_of_states_do_not_matter(variant: str) -> None:
    """A permutation and a diagonal scaling in float32: the same function, before and after the cut."""
    layer, other = build("mamba", torch.float32), build("mamba", torch.float32)
    shuffled = torch.tensor([3, 1, 5, 0, 2, 4])
    scale = torch.tensor([0.3, 4.0, 1.0, 0.1, 2.0, 0.7])[:, None]
    with torch.no_grad():
        low, B, C = other.x_proj.weight.split([other.rank, ORDER, ORDER])
        other.x_proj.weight.copy_(torch.cat([low, B[shuffled] * scale, C[shuffled] / scale]))
        other.A_log.copy_(other.A_log[:, shuffled])
    batches = inputs(torch.float32)
    results = []
    for one in (layer, other):
        whole = [one(u).detach() for u in batches]
        one.set_state_parameters(one.reduced_parameters(projection(one, batches, 3, variant)))
        results.append((torch.cat(whole), torch.cat([one(u).detach() for u in batches])))
    for before, after in zip(*results, strict=True):
        assert float((before - after).norm() / before.norm()) <= 2e-5


def planted(dtype: torch.dtype) -> Any:
    """24 states of which 6 are needed: 6 twins of them, 6 that nothing drives, and 6 that nothing reads."""
    layer = build("mamba", dtype, order=24)
    with torch.no_grad():
        low, B, C = layer.x_proj.weight.double().split([layer.rank, 24, 24])
        B, C = B.clone(), C.clone()
        B[6:12] = -0.5 * B[:6]
        B[12:18], C[18:24] = 0.0, 0.0
        layer.x_proj.weight.copy_(torch.cat([low, B, C]))
        poles = torch.tensor([1.0, 2.5, 6.0, 12.0, 25.0, 50.0]).log()
        layer.A_log.copy_(torch.cat([poles, poles, layer.A_log[0, 12:].detach().cpu().float()]))
    return layer


@pytest.mark.parametrize("variant", ["pivoted", "balanced"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 2e-5)])
def test_states_that_are_not_needed_are_cut_without_loss(
    variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    layer, batches = planted(dtype), inputs(dtype)
    assert output_errors(layer, batches, projection(layer, batches, 6, variant)) <= tolerance
    assert output_errors(layer, batches, projection(layer, batches, 5, variant)) > 1e-5


def selections(layer: Any, batches: list[Tensor], order: int) -> dict[str, ChannelProjection]:
    return {v: projection(layer, batches, order, v) for v in ("gramian", "ghost", "aire", "last", "random")}


def test_what_dropped_states_cost_is_the_sum_of_their_contributions() -> None:
    """E |y - y'|^2 = 1^T G_drop 1 with G_nm = E sum_d w C_n C_m h_dn h_dm."""
    layer, batches = build("mamba"), inputs()
    G, whole = torch.zeros(ORDER, ORDER, dtype=torch.float64), 0.0
    for u in batches:
        trace = layer.trace(u)
        parts = states(trace) * trace.C[:, :, None]
        G += torch.einsum("bld,bldn,bldm->nm", trace.weight, parts, parts)
        whole += float((trace.weight * parts.sum(-1) ** 2).sum())
    for variant, found in selections(layer, batches, 3).items():
        dropped = found.to_input.sum(0) == 0
        assert int(dropped.sum()) == 3
        expected = float(G[dropped][:, dropped].sum())
        measured, _ = reduction(layer, batches, variant).errors(found)
        assert measured**2 * whole == pytest.approx(expected, rel=1e-3)


def test_the_mean_error_of_dropped_states_is_bounded_by_their_scores() -> None:
    layer, batches = build("mamba"), inputs()
    measured = reduction(layer, batches)
    scores = (measured.P.diagonal() * measured.read.diagonal()).sqrt()
    for order in range(1, ORDER):
        for found in selections(layer, batches, order).values():
            norms = []
            for u in batches:
                trace = layer.trace(u)
                dropped = (found.to_input.sum(0) == 0).double()
                missing = (states(trace) * (trace.C * dropped)[:, :, None]).sum(-1)
                norms.append((trace.weight * missing**2).sum(-1).sqrt())
            bound = float((scores * dropped).sum())
            assert float(torch.cat(norms).mean()) <= bound


def test_scores_choose_the_states_that_they_say() -> None:
    layer, batches = build("mamba"), inputs()
    traces = [layer.trace(u) for u in batches]
    h, C, w, B, dt = (
        torch.cat([get(t) for t in traces]).flatten(0, 1)
        for get in (states, *(lambda t, n=n: getattr(t, n) for n in ("C", "weight", "B", "dt")))
    )
    decay = torch.exp(dt[..., None] * traces[0].A).mean(0)
    C2, B2 = C.square().mean(0), B.square().mean(0)
    scores = {
        "gramian": (w[..., None] * h**2).sum(1).mean(0) * C2,
        "ghost": h.square().sum(1).mean(0) * C2,
        "aire": (C2 * B2 / (1 - decay**2)).mean(0),
        "last": ((C2 * B2).sqrt() / (1 - decay)).mean(0),
    }
    for variant, score in scores.items():
        found = projection(layer, batches, 3, variant)
        keep = score.argsort(descending=True)[:3].sort().values
        assert torch.equal(found.to_input, torch.eye(ORDER, dtype=torch.float64)[keep]), variant
        assert torch.equal(found.to_output, found.to_input)
        assert torch.equal(found.A, traces[0].A[:, keep])


def memory_layer(dtype: torch.dtype = torch.float64, order: int = 16) -> Any:
    """With the poles -1 ... -N that training starts from."""
    layer = build("mamba", dtype, order=order)
    with torch.no_grad():
        layer.A_log.copy_(torch.log(torch.arange(1.0, order + 1)) + 0.1 * noise(2 * WIDTH, order, seed=9))
    return layer


@pytest.mark.parametrize("order", [2, 3, 4, 8, 12])
def test_the_predicted_error_of_interpolation_is_about_the_measured_one(order: int) -> None:
    layer, batches = memory_layer(), inputs()
    found = projection(layer, batches, order, "pivoted")
    measured, predicted = reduction(layer, batches).errors(found)
    assert 0.6 <= predicted / measured <= 1.4


def test_the_predicted_error_of_interpolation_is_that_of_an_independent_read_out() -> None:
    """With a C that does not depend on the states, sampled often, prediction and measurement agree."""
    layer, batches = memory_layer(), inputs(length=24)
    reduced = reduction(layer, batches)
    (trace, *_) = reduced.traces
    rows = 400
    C = noise(rows, 24, 16, seed=8) @ noise(16, 16, seed=7)
    many = ChannelTrace(*(getattr(trace, n)[:1].expand(rows, -1, -1) for n in ("x", "dt")), trace.A,
                        trace.B[:1].expand(rows, -1, -1), C, trace.weight[:1].expand(rows, -1, -1))  # fmt: skip
    reduced.traces = [many]
    reduced.gramians()
    found = channel.pivoted(reduced, 4, torch.Generator())
    measured, predicted = reduced.errors(found)
    assert predicted == pytest.approx(measured, rel=0.05)


def test_other_coordinates_have_no_prediction() -> None:
    layer, batches = memory_layer(), inputs()
    for variant in ("balanced_real", "channel_balanced", "channel_orders"):
        measured, predicted = reduction(layer, batches, variant).errors(
            projection(layer, batches, 4, variant)
        )
        assert measured > 0
        assert predicted is None


@pytest.mark.parametrize("order", [1, 2, 4, 8])
def test_balancing_is_never_worse_than_the_pivoted_selection(order: int) -> None:
    layer, batches = memory_layer(), inputs()
    errors = {
        v: reduction(layer, batches).errors(projection(layer, batches, order, v))[0]
        for v in ("balanced", "pivoted", "balanced_real")
    }
    assert errors["balanced"] <= min(errors["pivoted"], errors["balanced_real"])


def test_balancing_beats_every_plain_selection() -> None:
    """By a factor of two at least, at an eighth of the states."""
    layer, batches = memory_layer(order=32), inputs(length=96)
    kept = {v: reduction(layer, batches).errors(p)[0] for v, p in selections(layer, batches, 4).items()}
    balanced = reduction(layer, batches).errors(projection(layer, batches, 4, "balanced"))[0]
    assert balanced <= 0.5 * min(kept.values())


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_decays_are_negative(variant: str) -> None:
    layer, batches = memory_layer(torch.float32), inputs(torch.float32)
    for order in (1, 5, 16):
        found = projection(layer, batches, order, variant)
        assert found.A.shape == (2 * WIDTH, found.order)
        assert float(found.A.max()) <= -1e-4
        assert bool(torch.isfinite(found.to_input).all() and torch.isfinite(found.to_output).all())


def test_the_real_basis_keeps_decays_between_the_extremes() -> None:
    layer, batches = memory_layer(), inputs()
    with torch.no_grad():
        layer.A_log.copy_(
            layer.A_log[:1] + noise(2 * WIDTH, 1, seed=4)
        )  # one shape of poles for all channels
    A = -torch.exp(layer.A_log.detach())
    for order in (1, 4, 8):
        found = channel.galerkin_basis(reduction(layer, batches), order)
        assert bool((A.min(1).values[:, None] * (1 + 1e-9) <= found.A).all())
        assert bool((A.max(1).values[:, None] * (1 - 1e-9) >= found.A).all())
        torch.testing.assert_close(found.to_input @ found.to_output.T, torch.eye(order, dtype=torch.float64))


def turned(reduced: Any) -> Any:
    """The reduction with Gramians for which balancing gives complex eigenvalues at order 2."""
    mean = channel._mean_poles(reduced.A)
    for seed in range(100):
        right, left = noise(reduced.states, 2, seed=seed), noise(reduced.states, 2, seed=seed + 1000)
        small = 1e-6 * torch.eye(reduced.states, dtype=torch.float64)
        reduced.P, reduced.Q = right @ right.T + small, left @ left.T + small
        reduced.__dict__.pop("balancing", None)
        W, V = channel._leading(reduced, 2)
        if bool(torch.linalg.eigvals(W.T @ (mean[:, None] * V)).imag.abs().min() > 0.01):
            return reduced
    raise AssertionError("no such Gramians found")


def test_complex_eigenvalues_have_a_way_out() -> None:
    layer, batches = memory_layer(), inputs()
    reduced = turned(reduction(layer, batches))
    generator = torch.Generator()
    basis = channel.balanced_basis(reduced, 2)
    torch.testing.assert_close(basis.to_input @ basis.to_output.T, torch.eye(2, dtype=torch.float64))
    (refitted,) = channel._refitted(reduced, [basis])
    real, chosen = (v(reduced, 2, generator) for v in (channel.balanced_real, channel.balanced))
    for found in (basis, refitted, real, chosen):
        assert float(found.A.max()) <= -1e-4
        assert bool(found.to_input.isfinite().all() and found.to_output.isfinite().all())
    assert reduced.errors(refitted)[0] < 1.0
    assert reduced.errors(chosen)[0] <= reduced.errors(refitted)[0]
    assert output_errors(layer, batches, chosen) < 1.0


def test_a_basis_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> ChannelProjection:
        raise torch.linalg.LinAlgError("no basis")

    layer, batches = memory_layer(), inputs()
    monkeypatch.setattr(channel, "balanced_basis", failing)
    monkeypatch.setattr(channel, "galerkin_basis", failing)
    found = projection(layer, batches, 4, "balanced")
    assert torch.equal(found.to_output, projection(layer, batches, 4, "pivoted").to_output)


def test_the_read_out_is_refitted_to_the_states() -> None:
    """No other read-out of the same new states has a smaller mean square error of the full state."""
    layer, batches = memory_layer(), inputs()
    reduced = reduction(layer, batches)
    basis = channel.galerkin_basis(reduced, 4)
    (found,) = channel._refitted(reduced, [basis])
    new, old, weight = [], [], []
    for trace in reduced.traces:
        turned_trace = ChannelTrace(
            trace.x, trace.dt, basis.A, trace.B @ basis.to_input.T, trace.C, trace.weight
        )
        new.append(states(turned_trace).flatten(0, 2))
        old.append(states(trace).flatten(0, 2))
        weight.append(trace.weight.flatten().sqrt()[:, None])
    w = torch.cat(weight)
    fit = torch.linalg.lstsq(torch.cat(new) * w, torch.cat(old) * w, driver="gelsd").solution
    errors = [((torch.cat(old) - torch.cat(new) @ m) * w).square().sum() for m in (found.to_output, fit)]
    assert float(errors[0]) == pytest.approx(float(errors[1]), rel=1e-5)
    torch.testing.assert_close(found.to_output, fit, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("order", [1, 3, 5])
def test_channels_keep_the_wanted_number_of_states_in_the_mean(order: int) -> None:
    layer, batches = build("mamba"), inputs()
    found = projection(layer, batches, order, "channel_orders")
    assert found.kept is not None
    assert int(found.kept.sum()) == order * 2 * WIDTH
    assert int(found.kept.max()) == found.order
    assert found.kept.dtype == torch.int64
    # All slots are simulated here, and the kept ones read.
    masked = [outputs_with(found, layer.trace(u)) for u in batches]
    layer.set_state_parameters(layer.reduced_parameters(found))
    for u, y in zip(batches, masked, strict=True):
        x, z, *_ = layer._selected(u)
        wanted = layer.out_proj((y + layer.D * x) * nn.functional.silu(z))
        torch.testing.assert_close(layer(u), wanted, rtol=1e-9, atol=1e-11)


def test_channels_without_any_signal_keep_no_more_than_their_share() -> None:
    layer, batches = build("mamba"), inputs()
    with torch.no_grad():
        layer.out_proj.weight[:, : WIDTH + 4] = 0.0
    found = projection(layer, batches, 3, "channel_orders")
    assert int(found.kept.sum()) == 3 * 2 * WIDTH
    assert int(found.kept[WIDTH + 4 :].min()) == ORDER


@pytest.mark.parametrize("variant", ["channel_balanced", "mean_lti"])
def test_each_channel_is_balanced_with_its_own_gramians(variant: str) -> None:
    layer, batches = memory_layer(order=5), inputs()
    found = projection(layer, batches, 3, variant)
    traces = [layer.trace(u) for u in batches]
    A = traces[0].A
    B, C, dt, x, w = (
        torch.cat([getattr(t, n) for t in traces]).flatten(0, 1) for n in ("B", "C", "dt", "x", "weight")
    )
    h = torch.cat([states(t) for t in traces]).flatten(0, 1)
    d = 5
    decay = torch.exp(dt[:, d, None] * A[d]).mean(0)
    sums = 1 / (1 - decay[:, None] * decay)
    if variant == "mean_lti":
        b, c = B.mean(0), C.mean(0)
        P, Q = (dt * x)[:, d].square().mean() * torch.outer(b, b) * sums, torch.outer(c, c) * sums
    else:
        P, Q = (w[:, d, None] * h[:, d]).T @ h[:, d], C.T @ C / len(C) * sums
    left, right = balance(P, Q).coordinates(slice(3))
    plane = found.to_input[d].T @ found.to_output[d]  # the projector is that of the balanced coordinates
    torch.testing.assert_close(plane, left @ right.T, rtol=1e-4, atol=1e-5)
    expected = torch.linalg.eigvals(left.T @ (A[d][:, None] * right))
    assert float(expected.imag.abs().max()) == 0.0
    torch.testing.assert_close(found.A[d].sort().values, expected.real.sort().values, rtol=1e-4, atol=1e-5)


# ---- refusals ------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused() -> None:
    layer, batches = build("mamba"), inputs()
    with pytest.raises(ValueError, match="no calibration batches"):
        reduction(layer, [])
    batches[0][0, 3, 2] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        reduction(layer, batches)


def test_an_order_above_the_rank_is_refused() -> None:
    layer, batches = planted(torch.float64), inputs()
    with pytest.raises(ValueError, match=r"numerical rank \d+, less than order 23"):
        projection(layer, batches, 23, "balanced_real")
    assert projection(layer, batches, 23, "balanced").order == 23


class Model(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first = layer
        self.second = build("mamba")


def plan_with(given: list[Tensor], **settings: Any) -> Any:
    model = Model(build("mamba"))
    config = HankelConfig(method="hankel", **{"keep_fraction": 0.5, **settings})
    return Hankel(config).plan(model, context({"first": given, "second": inputs()}))


def test_a_run_goes_on_after_a_refusal() -> None:
    bad = inputs()
    bad[1][1, 0, 0] = torch.inf
    for given, why in ((bad, "the states or read-outs on the calibration batches are not finite"),
                       ([], "there are no calibration batches")):  # fmt: skip
        plan = plan_with(given)
        assert [edit.layer for edit in plan.edits] == ["second"]
        first, second = plan.records
        assert first.reason.startswith(f"nothing cut: refused: {why}")
        assert (first.before, first.after) == (ORDER, ORDER)
        assert second.reason.startswith(f"cut from {ORDER} to 3; error ")
        assert second.details["variant"] == "balanced"


@pytest.mark.parametrize("variant", VARIANTS)
def test_channels_without_any_signal_do_no_harm(variant: str) -> None:
    """Nothing reads some of them, and nothing comes into others."""
    layer, batches = build("mamba"), inputs()
    with torch.no_grad():
        layer.out_proj.weight[:, :3] = 0.0
        for p in (layer.in_proj.weight[2:5], layer.conv1d.bias[2:5]):
            p.zero_()
    assert output_errors(layer, batches, projection(layer, batches, 4, variant)) < 1.0
    assert output_errors(layer, batches, projection(layer, batches, ORDER, variant)) <= 1e-4


def test_a_failed_reduction_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> ChannelProjection:
        raise torch.linalg.LinAlgError("not positive-definite")

    monkeypatch.setattr(channel, "galerkin_basis", failing)
    for record in plan_with(inputs(), variant="balanced_real").records:
        assert record.reason == (
            "nothing cut: refused: no balanced_real reduction to order 3: not positive-definite"
        )
    monkeypatch.undo()
    layer = planted(torch.float64)
    plan = Hankel(
        HankelConfig(method="hankel", keep_fraction=0.96, min_reduction=0.0, variant="balanced_real")
    ).plan(nn.ModuleDict({"layer": layer}), context({"layer": inputs()}))
    assert plan.edits == []
    assert "nothing cut: refused: the Gramians have numerical rank" in plan.records[0].reason


def test_a_cut_is_recorded() -> None:
    plan = plan_with(inputs(), variant="pivoted")
    for record, edit in zip(plan.records, plan.edits, strict=True):
        assert (record.after, edit.order, edit.values) == (3, 3, None)
        assert record.details["variant"] == "pivoted"
        assert record.details["gramian"] == "empirical"
        assert len(record.details["hsv"]) == ORDER
        assert record.details["hsv"] == sorted(record.details["hsv"], reverse=True)
        assert record.details["measured_error"] is not None
        assert record.details["predicted_error"] is not None
        assert 0 < record.details["measured_error"] < 1
    balanced = plan_with(inputs(), energy_threshold=0.9, keep_fraction=None).records[0]
    values = torch.tensor(balanced.details["hsv"])
    assert balanced.details["kept"] == balanced.after
    assert balanced.details["tail"] == pytest.approx(
        float(values[balanced.details["kept"] :].sum() / values.sum()), rel=1e-5
    )
    assert balanced.details["tail"] <= 0.1


def test_the_spectrum_is_that_of_the_gramians() -> None:
    reduced = reduction(build("mamba"), inputs())
    wanted = torch.linalg.eigvals(reduced.P @ reduced.Q).real.clamp_min(0).sqrt().sort(descending=True).values
    torch.testing.assert_close(reduced.spectrum(), wanted, rtol=1e-5, atol=1e-9)
    shares = wanted.cumsum(0) / wanted.sum()
    assert reduced.order_for(0.9) == int((shares < 0.9).sum()) + 1
