"""Reductions of layers with a decay a head and state (gated linear attention), against simulations written out."""

from typing import Any

import pytest
import torch
from selective_cases import WIDTH, build, context, noise, output_errors, projection, reduction
from torch import Tensor, nn

from compressm_cli.layers.selective import HeadProjection, VectorTrace
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.hankel.selective.selection import interpolation, pivoted_fold, regression, top
from compressm_cli.methods.hankel.selective.vector import VectorReduction

VARIANTS = sorted(VectorReduction.variants)
ORDER, HEADS = 6, 2


def inputs(dtype: torch.dtype = torch.float64, length: int = 48) -> list[Tensor]:
    return [noise(2, length, WIDTH, seed=seed, dtype=dtype) for seed in (1, 2)]


def states(trace: VectorTrace) -> Tensor:
    """(batch, length, heads, N, P), a step at a time."""
    h, found = torch.zeros(()), []
    for t in range(trace.q.shape[1]):
        added = trace.k[:, t, :, :, None] * trace.v[:, t, :, None, :]
        h = torch.exp(trace.log_decay[:, t])[..., None] * h + added
        found.append(h)
    return torch.stack(found, dim=1)


def read(h: Tensor, q: Tensor) -> Tensor:
    return torch.einsum("blhnp,blhn->blhp", h, q)


def outputs_with(found: HeadProjection, trace: VectorTrace) -> Tensor:
    index = found.keep.expand(*trace.k.shape[:2], -1, -1)
    q = torch.einsum("hrn,blhn->blhr", found.to_output, trace.q)
    k, decay = trace.k.gather(-1, index), trace.log_decay.gather(-1, index)
    return read(states(VectorTrace(q, k, trace.v, decay, trace.weight)), q)


def test_gramians_are_means() -> None:
    layer, batches = build("gla"), inputs(length=9)
    found = reduction(layer, batches)
    traces = [layer.trace(u) for u in batches]
    P = sum(torch.einsum("blhp,blhnp,blhmp->hnm", t.weight, states(t), states(t)) for t in traces) / 36
    Q = sum(torch.einsum("blhn,blhm->hnm", t.q, t.q) for t in traces) / 36
    torch.testing.assert_close(found.P, P)
    torch.testing.assert_close(found.Q, Q)
    values = torch.linalg.eigvals(P @ Q).real.clamp_min(0).sqrt().sort(descending=True, dim=1).values
    torch.testing.assert_close(found.spectrum(), values.mean(0), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_all_states_are_all_of_the_layer(variant: str, dtype: torch.dtype, tolerance: float) -> None:
    layer, batches = build("gla", dtype), inputs(dtype)
    assert output_errors(layer, batches, projection(layer, batches, ORDER, variant)) <= tolerance


def test_the_measured_error_is_that_of_the_weighted_recurrence() -> None:
    layer, batches = build("gla"), inputs()
    for variant in VARIANTS:
        found = projection(layer, batches, 3, variant)
        wrong = whole = 0.0
        for u in batches:
            trace = layer.trace(u)
            y = read(states(trace), trace.q)
            wrong += float((trace.weight * (y - outputs_with(found, trace)) ** 2).sum())
            whole += float((trace.weight * y**2).sum())
        measured, _ = reduction(layer, batches, variant).errors(found)
        assert measured == pytest.approx((wrong / whole) ** 0.5, rel=1e-9)


def rearranged(layer: Any, order: Tensor, scale: Tensor) -> None:
    """The states of each head in another order, keys times a scale and queries over it."""
    n = layer.state_dim
    rows = torch.cat([order + n * head for head in range(layer.heads)])
    with torch.no_grad():
        layer.q_proj.weight.copy_(layer.q_proj.weight[rows] / scale.repeat(layer.heads)[:, None])
        layer.k_proj.weight.copy_(layer.k_proj.weight[rows] * scale.repeat(layer.heads)[:, None])
        for p in (layer.gk_proj[1].weight, layer.gk_proj[1].bias):
            p.copy_(p[rows])


@pytest.mark.parametrize("variant", ["pivoted", "gramian"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-5)])
def test_the_names_and_scales_of_states_do_not_matter(
    variant: str, dtype: torch.dtype, tolerance: float
) -> None:
    layer, other, batches = build("gla", dtype), build("gla", dtype), inputs(dtype)
    rearranged(other, torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([0.3, 4.0, 1.0, 0.1, 2.0, 0.7]))
    results = []
    for one in (layer, other):
        whole = torch.cat([one(u).detach() for u in batches])
        one.set_state_parameters(one.reduced_parameters(projection(one, batches, 3, variant)))
        results.append((whole, torch.cat([one(u).detach() for u in batches])))
    for before, after in zip(*results, strict=True):
        assert float((before - after).norm() / before.norm()) <= tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-7), (torch.float32, 2e-5)])
def test_states_that_are_not_needed_are_cut_without_loss(dtype: torch.dtype, tolerance: float) -> None:
    """Twelve states a head of which four are needed: four twins, two without keys, two without queries."""
    layer, batches = build("gla", dtype, order=12), inputs(dtype)
    with torch.no_grad():
        for first in (0, 12):
            a, b = slice(first, first + 4), slice(first + 4, first + 8)
            layer.k_proj.weight[b] = -0.5 * layer.k_proj.weight[a]
            layer.gk_proj[1].weight[b] = layer.gk_proj[1].weight[a]
            layer.gk_proj[1].bias[b] = layer.gk_proj[1].bias[a]
            layer.k_proj.weight[first + 8 : first + 10] = 0.0
            layer.q_proj.weight[first + 10 : first + 12] = 0.0
    assert output_errors(layer, batches, projection(layer, batches, 4)) <= tolerance
    assert output_errors(layer, batches, projection(layer, batches, 3)) > 1e-2
    # A plain selection cannot merge.
    assert output_errors(layer, batches, projection(layer, batches, 4, "gramian")) > 1e-2


def test_what_dropped_states_cost_is_the_sum_of_their_contributions_and_has_a_bound() -> None:
    layer, batches = build("gla"), inputs()
    measured = reduction(layer, batches)
    scores = (measured.P.diagonal(dim1=1, dim2=2) * measured.Q.diagonal(dim1=1, dim2=2)).sqrt()
    G, whole, contributions = torch.zeros(HEADS, ORDER, ORDER, dtype=torch.float64), 0.0, []
    for u in batches:
        trace = layer.trace(u)
        parts = states(trace) * trace.q[..., None]
        G += torch.einsum("blhp,blhnp,blhmp->hnm", trace.weight, parts, parts)
        whole += float((trace.weight * parts.sum(3) ** 2).sum())
        contributions.append((trace.weight, parts))
    for variant in ("gramian", "random"):
        for order in range(1, ORDER):
            found = projection(layer, batches, order, variant)
            dropped = torch.ones(HEADS, ORDER, dtype=torch.float64).scatter(1, found.keep, 0.0)
            expected = float(torch.einsum("hn,hnm,hm->", dropped, G, dropped))
            assert measured.errors(found)[0] ** 2 * whole == pytest.approx(expected, rel=1e-3)
            wrong = [
                (w * torch.einsum("blhnp,hn->blhp", p, dropped) ** 2).sum(-1).sqrt() for w, p in contributions
            ]
            assert bool((torch.cat(wrong).mean((0, 1)) <= (scores * dropped).sum(1)).all())


@pytest.mark.parametrize("order", [2, 4, 8, 12])
def test_the_predicted_error_of_interpolation_is_about_the_measured_one(order: int) -> None:
    layer, batches = build("gla", order=16), inputs()
    measured, predicted = reduction(layer, batches).errors(projection(layer, batches, order))
    assert 0.6 <= predicted / measured <= 1.4


def test_interpolation_beats_plain_selection() -> None:
    layer, batches = build("gla", order=16), inputs()
    errors = {v: reduction(layer, batches).errors(projection(layer, batches, 8, v))[0] for v in VARIANTS}
    assert errors["pivoted"] < 0.8 * min(errors["gramian"], errors["random"])


def test_heads_choose_their_own_states() -> None:
    layer, batches = build("gla"), inputs()
    for variant in VARIANTS:
        found = projection(layer, batches, 3, variant)
        assert found.keep.shape == (HEADS, 3)
        assert all(len(set(row.tolist())) == 3 for row in found.keep)
        rows = torch.eye(ORDER, dtype=torch.float64)[found.keep]
        assert torch.equal(
            torch.einsum("hrn,hsn->hrs", found.to_output, rows), torch.eye(3).double().expand(2, 3, 3)
        )
    again = projection(layer, batches, 3, "random")
    assert torch.equal(again.keep, projection(layer, batches, 3, "random").keep)


# ---- choosing states -----------------------------------------------------------------------------------------


def semidefinite(n: int, seed: int) -> Tensor:
    root = noise(n, n, seed=seed)
    return root @ root.T


def test_a_fold_is_the_best_read_out_of_the_kept_states() -> None:
    """Its error is tr(Q (P - P_:S P_SS^-1 P_S:)), and no other read-out of the same states has less."""
    P, Q = semidefinite(7, 1), semidefinite(7, 2)
    fold = pivoted_fold(P, Q, 3)

    def error(to_output: Tensor) -> float:
        lost = torch.eye(7, dtype=torch.float64) - torch.eye(7, dtype=torch.float64)[fold.keep].T @ to_output
        return float(torch.trace(lost.T @ P @ lost @ Q))

    S = fold.keep
    exact = torch.trace(Q @ (P - P[:, S] @ torch.linalg.inv(P[S][:, S]) @ P[S]))
    assert fold.error == pytest.approx(float(exact), rel=1e-6)
    assert error(fold.to_output) == pytest.approx(fold.error, rel=1e-6)
    for seed in range(5):
        assert error(fold.to_output + 0.01 * noise(3, 7, seed=seed)) > fold.error
    first = [float((P[:, n] / P[n, n] ** 0.5) @ Q @ (P[:, n] / P[n, n] ** 0.5)) for n in range(7)]
    assert int(S[0]) == max(range(7), key=first.__getitem__)


def test_a_fold_of_a_singular_gramian_is_finite() -> None:
    P = semidefinite(7, 1)
    P[3], P[:, 3] = 0.0, 0.0
    P = torch.cat([torch.cat([P, P], 1), torch.cat([P, P], 1)], 0)
    for order in (1, 6, 10, 14):
        fold = pivoted_fold(P, semidefinite(14, 2), order)
        assert len(set(fold.keep.tolist())) == order
        assert bool(fold.to_output.isfinite().all())
    assert pivoted_fold(P, semidefinite(14, 2), 6).error <= 1e-6
    zero = pivoted_fold(torch.zeros(3, 3).double(), torch.zeros(3, 3).double(), 2)
    assert bool(zero.to_output.isfinite().all())


def test_interpolation_and_regression() -> None:
    P = semidefinite(6, 3)
    keep = torch.tensor([4, 1])
    wanted = torch.linalg.solve(P[keep][:, keep], P[keep])
    torch.testing.assert_close(interpolation(P, keep), wanted, rtol=1e-7, atol=1e-8)
    assert torch.equal(interpolation(P, keep)[:, keep], torch.eye(2, dtype=torch.float64))
    # However the states are scaled.
    scale = torch.diag(torch.tensor([1e-9, 1e6], dtype=torch.float64))
    inner, cross = P[keep][:, keep], P[keep]
    torch.testing.assert_close(
        scale @ regression(scale @ inner @ scale, scale @ cross), wanted, rtol=1e-7, atol=1e-8
    )


def test_the_largest_scores_in_their_old_order() -> None:
    assert top(torch.tensor([1.0, 5.0, 5.0, 0.0, 7.0]), 3).tolist() == [1, 2, 4]
    assert top(torch.tensor([2.0, 2.0, 2.0]), 2).tolist() == [0, 1]


# ---- refusals ------------------------------------------------------------------------------------------------


def test_what_cannot_be_measured_is_refused() -> None:
    layer, batches = build("gla"), inputs()
    with pytest.raises(ValueError, match="no calibration batches"):
        reduction(layer, [])
    with pytest.raises(
        ValueError, match=r"variant is balanced; of this kind of layer there are pivoted, gramian"
    ):
        reduction(layer, batches, "balanced")
    batches[0][1, 2, 3] = torch.inf
    with pytest.raises(ValueError, match="not finite"):
        reduction(layer, batches)


def test_a_run_goes_on_after_a_refusal() -> None:
    model = nn.ModuleDict({"first": build("gla"), "second": build("gla")})
    config = HankelConfig(method="hankel", keep_fraction=0.5, variant="balanced")
    given = {"first": inputs(), "second": inputs()}
    plan = Hankel(config).plan(model, context(given))
    assert plan.edits == []
    assert all(
        r.reason.startswith("nothing cut: refused: compression.variant is balanced") for r in plan.records
    )
    config = HankelConfig(method="hankel", keep_fraction=0.5)
    given["first"][0][0, 0, 0] = torch.nan
    plan = Hankel(config).plan(model, context(given))
    assert plan.records[0].reason.startswith("nothing cut: refused: the states or queries")
    assert plan.records[1].reason.startswith(f"cut from {ORDER} to 3; error ")
    assert plan.records[1].details["kept"] is None
