"""Reductions of layers with a scalar decay a head (Mamba-2, linear attention), against simulations written out."""

from typing import Any

import pytest
import torch
from selective_cases import WIDTH, build, context, noise, output_errors, projection, reduction
from torch import Tensor, nn

from compressm_cli.layers.selective import GroupProjection, HeadTrace
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.hankel.selective.group import GroupReduction
from compressm_cli.structure import surgery

VARIANTS = sorted(GroupReduction.variants)
CASES = ["mamba2", "mamba2-groups", "gla-scalar"]
LAYERS_THAT_SELECT = CASES[:2]
ORDER = 6


def inputs(dtype: torch.dtype = torch.float64, length: int = 48) -> list[Tensor]:
    return [noise(2, length, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2)]


def states(trace: HeadTrace) -> Tensor:
    """(batch, length, heads, P, N), a step at a time."""
    heads, groups = trace.u.shape[2], trace.B.shape[2]
    group = torch.arange(heads) // (heads // groups)
    h, found = torch.zeros(()), []
    for t in range(trace.u.shape[1]):
        decay = torch.exp(trace.log_decay[:, t, :, None, None])
        h = decay * h + trace.u[:, t, :, :, None] * trace.B[:, t, group, None, :]
        found.append(h)
    return torch.stack(found, dim=1)


def by_head(trace: HeadTrace, values: Tensor) -> Tensor:
    """(batch, length, groups, n) as (batch, length, heads, n)."""
    return values.repeat_interleave(trace.u.shape[2] // values.shape[2], dim=2)


@pytest.mark.parametrize("case", CASES)
def test_gramians_are_means(case: str) -> None:
    layer, batches = build(case), inputs(length=9)
    found = reduction(layer, batches)
    traces = [layer.trace(u) for u in batches]
    P, Q, steps = torch.zeros_like(found.P), torch.zeros_like(found.Q), 0
    for trace in traces:
        h, heads, groups = states(trace), trace.u.shape[2], trace.B.shape[2]
        each = torch.einsum("blhp,blhpn,blhpm->hnm", trace.weight, h, h)
        P += each.view(groups, heads // groups, *each.shape[1:]).sum(1)
        Q += torch.einsum("blgn,blgm->gnm", trace.C, trace.C)
        steps += h.shape[0] * h.shape[1]
    torch.testing.assert_close(found.P, P / steps)
    torch.testing.assert_close(found.Q, Q / steps)
    values = [
        torch.linalg.eigvals(p @ q / steps**2).real.clamp_min(0).sqrt() for p, q in zip(P, Q, strict=True)
    ]
    wanted = torch.stack([v.sort(descending=True).values for v in values]).mean(0)
    torch.testing.assert_close(found.spectrum(), wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_all_states_are_all_of_the_layer(
    case: str, variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    layer, batches = build(case, dtype), inputs(dtype)
    found = projection(layer, batches, ORDER, variant)
    assert output_errors(layer, batches, found) <= tolerance
    measured, predicted = reduction(layer, batches).errors(found)
    assert measured <= tolerance
    assert predicted <= tolerance


def outputs_with(found: GroupProjection, trace: HeadTrace) -> Tensor:
    B, C = (
        torch.einsum("grn,blgn->blgr", m, v)
        for m, v in ((found.to_input, trace.B), (found.to_output, trace.C))
    )
    h = states(HeadTrace(trace.u, trace.log_decay, B, C, trace.weight))
    return torch.einsum("blhpn,blhn->blhp", h, by_head(trace, C))


@pytest.mark.parametrize("case", CASES)
def test_the_measured_error_is_that_of_the_weighted_recurrence(case: str) -> None:
    layer, batches = build(case), inputs()
    for variant in VARIANTS:
        found = projection(layer, batches, 3, variant)
        wrong = whole = 0.0
        for u in batches:
            trace = layer.trace(u)
            y = torch.einsum("blhpn,blhn->blhp", states(trace), by_head(trace, trace.C))
            wrong += float((trace.weight * (y - outputs_with(found, trace)) ** 2).sum())
            whole += float((trace.weight * y**2).sum())
        measured, _ = reduction(layer, batches, variant).errors(found)
        assert measured == pytest.approx((wrong / whole) ** 0.5, rel=1e-9)


def with_maps(case: str, dtype: torch.dtype, to_input: Tensor, to_output: Tensor) -> Any:
    """A layer whose B and C go through maps."""
    layer = build(case, dtype)
    layer.set_state_parameters(layer.reduced_parameters(GroupProjection(to_input, to_output)))
    return layer


@pytest.mark.parametrize(("case", "groups"), [("mamba2", 1), ("mamba2-groups", 2), ("gla-scalar", 2)])
def test_any_basis_is_the_same_layer_and_gives_the_same_cut(case: str, groups: int) -> None:
    layer, batches = build(case), inputs()
    T = noise(groups, ORDER, ORDER, seed=11) + 4 * torch.eye(ORDER, dtype=torch.float64)
    turned = with_maps(case, torch.float64, T, torch.linalg.inv(T).mT)
    for u in batches:
        with torch.no_grad():
            torch.testing.assert_close(turned(u), layer(u), rtol=1e-12, atol=1e-12)
    results = []
    for one in (layer, turned):
        one.set_state_parameters(one.reduced_parameters(projection(one, batches, 3)))
        with torch.no_grad():
            results.append(torch.cat([one(u) for u in batches]))
    torch.testing.assert_close(*results, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("case", "groups"), [("mamba2", 1), ("mamba2-groups", 2)])
def test_states_that_are_not_needed_are_cut_without_loss(case: str, groups: int) -> None:
    """Maps of rank five at an order of eight: two rows are sums of others, one drives nothing anybody reads."""
    needed = [
        torch.eye(ORDER, dtype=torch.float64)[:5] + 0.1 * noise(groups, 5, ORDER, seed=s) for s in (1, 2)
    ]
    spread = noise(groups, 7, 5, seed=3)
    to_input = torch.cat([spread @ needed[0], noise(groups, 1, ORDER, seed=4)], dim=1)
    to_output = torch.cat([torch.linalg.pinv(spread).mT @ needed[1], torch.zeros(groups, 1, ORDER)], dim=1)
    layer, batches = with_maps(case, torch.float64, to_input, to_output), inputs()
    assert layer.state_dim == 8
    assert output_errors(layer, batches, projection(layer, batches, 5)) <= 1e-12
    assert reduction(layer, batches).errors(projection(layer, batches, 4))[0] > 1e-2
    # Beyond the rank there are no more coordinates: idle states.
    found = projection(layer, batches, 7)
    assert output_errors(layer, batches, found) <= 1e-12
    assert not bool(found.to_input[:, 5:].any() or found.to_output[:, 5:].any())


@pytest.mark.parametrize("case", LAYERS_THAT_SELECT)
def test_what_dropped_states_cost_is_the_sum_of_their_contributions(case: str) -> None:
    layer, batches = build(case), inputs()
    whole, groups = 0.0, layer.groups
    G = torch.zeros(groups, ORDER, ORDER, dtype=torch.float64)
    for u in batches:
        trace = layer.trace(u)
        parts = states(trace) * by_head(trace, trace.C)[:, :, :, None]
        each = torch.einsum("blhp,blhpn,blhpm->hnm", trace.weight, parts, parts)
        G += each.view(groups, -1, ORDER, ORDER).sum(1)
        whole += float((trace.weight * parts.sum(-1) ** 2).sum())
    for variant in ("gramian", "ghost", "random"):
        found = projection(layer, batches, 2, variant)
        dropped = (found.to_input.sum(1) == 0).double()
        assert dropped.sum(1).tolist() == [4.0] * groups
        expected = float(torch.einsum("gn,gnm,gm->", dropped, G, dropped))
        measured, _ = reduction(layer, batches, variant).errors(found)
        assert measured**2 * whole == pytest.approx(expected, rel=1e-3)


def mean_error(layer: Any, batches: list[Tensor], found: GroupProjection) -> Tensor:
    """E |y - y'|_w of each group, (groups,)."""
    norms = []
    for u in batches:
        trace = layer.trace(u)
        y = torch.einsum("blhpn,blhn->blhp", states(trace), by_head(trace, trace.C))
        wrong = trace.weight * (y - outputs_with(found, trace)) ** 2
        norms.append(wrong.unflatten(2, (trace.B.shape[2], -1)).sum((-1, -2)).sqrt().flatten(0, 1))
    return torch.cat(norms).mean(0)


@pytest.mark.parametrize("case", CASES)
def test_bounds_of_the_mean_error_hold(case: str) -> None:
    """The sums of discarded singular values, and of the scores of dropped states, without any assumption."""
    layer, batches = build(case), inputs()
    measured = reduction(layer, batches)
    values = torch.stack([b.hsv for b in measured.balancings])
    scores = (measured.P.diagonal(dim1=1, dim2=2) * measured.Q.diagonal(dim1=1, dim2=2)).sqrt()
    for order in range(1, ORDER):
        errors = mean_error(layer, batches, projection(layer, batches, order))
        assert bool((errors <= values[:, order:].sum(1) + 1e-12).all())
        for variant in ("gramian", "random"):
            found = projection(layer, batches, order, variant)
            dropped = (found.to_input.sum(1) == 0).double()
            assert bool((mean_error(layer, batches, found) <= (scores * dropped).sum(1)).all())


@pytest.mark.parametrize("case", CASES)
def test_balancing_has_the_smallest_predicted_error_and_it_is_the_tail(case: str) -> None:
    """Eckart and Young: sqrt(sum of the squares of the discarded values), less than any other projection's."""
    layer, batches = build(case), inputs()
    reduced = reduction(layer, batches)
    values = torch.stack([b.hsv for b in reduced.balancings])
    for order in (1, 3, 5):
        best = reduced._predicted(projection(layer, batches, order))
        assert best == pytest.approx(float((values[:, order:] ** 2).sum()), rel=1e-6)
        for variant in ("gramian", "ghost", "random"):
            assert reduced._predicted(projection(layer, batches, order, variant)) >= best * (1 - 1e-9)
        any_maps = GroupProjection(*(noise(reduced.groups, order, ORDER, seed=s) for s in (1, 2)))
        assert reduced._predicted(any_maps) > best


@pytest.mark.parametrize("case", LAYERS_THAT_SELECT)
@pytest.mark.parametrize("order", [2, 4, 8, 12])
def test_the_predicted_error_is_about_the_measured_one(case: str, order: int) -> None:
    layer, batches = build(case, order=16), inputs()
    measured, predicted = reduction(layer, batches).errors(projection(layer, batches, order))
    assert 0.6 <= predicted / measured <= 1.15


@pytest.mark.parametrize("case", LAYERS_THAT_SELECT)
def test_balancing_beats_the_selection_of_states(case: str) -> None:
    layer, batches = build(case, order=16), inputs()
    errors = {v: reduction(layer, batches).errors(projection(layer, batches, 4, v))[0] for v in VARIANTS}
    assert errors["balanced"] <= 0.8 * min(errors[v] for v in ("gramian", "ghost", "random"))


@pytest.mark.parametrize("case", LAYERS_THAT_SELECT)
def test_scores_choose_the_states_that_they_say(case: str) -> None:
    layer, batches = build(case), inputs()
    traces = [layer.trace(u) for u in batches]
    h, C, w = (torch.cat(parts) for parts in zip(*((states(t), t.C, t.weight) for t in traces), strict=True))
    C2 = C.square().mean((0, 1))
    for variant, weight in (("gramian", w), ("ghost", torch.ones_like(w))):
        energy = (weight[..., None] * h**2).sum(3).mean((0, 1)).unflatten(0, (layer.groups, -1)).sum(1)
        keep = (energy * C2).argsort(dim=1, descending=True)[:, :3].sort(dim=1).values
        found = projection(layer, batches, 3, variant)
        assert torch.equal(found.keep, keep)
        assert torch.equal(found.to_input, torch.eye(ORDER, dtype=torch.float64)[keep])
        assert torch.equal(found.to_output, found.to_input)


def test_a_selection_leaves_a_layer_of_the_original_kind() -> None:
    layer, batches = build("mamba2-groups"), inputs()
    names = set(layer.state_dict())
    layer.set_state_parameters(layer.reduced_parameters(projection(layer, batches, 4, "gramian")))
    other = build("mamba2-groups", order=4)
    assert set(layer.state_dict()) == names
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(batches[0]), layer(batches[0]))
    assert layer.in_proj.out_features == len(layer.in_proj.weight)
    assert layer.conv1d.groups == layer.conv1d.in_channels == len(layer.conv1d.bias)


def test_the_default_cut_of_linear_attention_adds_nothing() -> None:
    layer, batches = build("gla-scalar"), inputs()
    layer.set_state_parameters(layer.reduced_parameters(projection(layer, batches, 4)))
    other = build("gla-scalar", order=4)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(batches[0]), layer(batches[0]))


# ---- refusals ------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused() -> None:
    layer, batches = build("mamba2"), inputs()
    with pytest.raises(ValueError, match="no calibration batches"):
        reduction(layer, [])
    with pytest.raises(
        ValueError, match=r"compression.variant is pivoted; of this kind of layer there are balanced"
    ):
        reduction(layer, batches, "pivoted")
    batches[1][1, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        reduction(layer, batches)


@pytest.mark.parametrize("case", CASES)
def test_a_run_goes_on_after_a_refusal(case: str) -> None:
    model = nn.ModuleDict({"first": build(case), "second": build(case)})
    bad = inputs()
    bad[0][0, 0, 0] = torch.nan
    config = HankelConfig(method="hankel", keep_fraction=0.5)
    plan = Hankel(config).plan(model, context({"first": bad, "second": inputs()}))
    assert plan.records[0].reason.startswith("nothing cut: refused: the states or read-outs")
    assert plan.records[1].reason.startswith(f"cut from {ORDER} to 3; error ")
    assert plan.records[1].details["predicted_error"] == pytest.approx(
        plan.records[1].details["measured_error"], rel=0.5
    )
    surgery.apply_plan(model, None, plan)
    assert surgery.orders(model) == {"first": ORDER, "second": 3}


@pytest.mark.parametrize("case", ["mamba", *CASES, "gla"])
def test_a_layer_without_output_has_no_error(case: str) -> None:
    layer, batches = build(case), [torch.zeros(1, 4, WIDTH, dtype=torch.float64)]
    if not case.startswith("gla"):
        with torch.no_grad():
            layer.conv1d.bias.zero_()
    config = HankelConfig(method="hankel", keep_fraction=0.5)
    plan = Hankel(config).plan(nn.ModuleDict({"layer": layer}), context({"layer": batches}))
    (record,) = plan.records
    assert (record.after, record.details["measured_error"], record.details["predicted_error"]) == (
        3,
        None,
        None,
    )
    assert record.reason == f"cut from {ORDER} to 3"
