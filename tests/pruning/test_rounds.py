"""A cut in rounds is one plan, of what is judged and folded anew in each of them."""

import copy

import pytest
import torch
from networks import language_workload, trained
from test_costs import recounted

from compressm_cli.core.errors import BadInputError
from compressm_cli.pruning import planned, prune
from compressm_cli.structure.edits import Add, Keep
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.surgery import apply_edits


def text_of(plan: Plan) -> list[str]:
    edits = [f"{e.axis} {list(e.units)}" for e in plan.edits if isinstance(e, Keep)]
    return [*edits, *(str(record) for record in plan.records)]


@pytest.mark.parametrize(("fold", "score"), [(True, "taylor"), (False, "taylor"), (True, "least_squares")])
def test_one_plan_does_what_the_rounds_do_in_turn(fold: bool, score: str) -> None:
    workload = language_workload(20)
    whole, in_turn = copy.deepcopy(trained()), copy.deepcopy(trained())
    before = copy.deepcopy(whole.state_dict())
    found = planned(whole, workload, 0.6, score, fold=fold, rounds=2)
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())
    one = prune(in_turn, workload, 0.8, score, fold=fold)
    two = prune(in_turn, workload, 0.6 / (one.after.flops / one.before.flops), score, fold=fold)
    apply_edits(whole, None, found.plan.edits)
    for name, value in in_turn.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    assert (found.before.flops, found.after.flops) == (one.before.flops, two.after.flops)
    assert found.after.flops == recounted(whole, workload, {})[0] <= 0.6 * found.before.flops
    assert len(found.folds) == len(one.folds) + len(two.folds)
    assert any(isinstance(edit, Add) for edit in found.plan.edits) == fold
    if score == "taylor":
        assert found.price == pytest.approx((one.price or 0) + (two.price or 0))
        changed = [record.details for record in found.plan.records if record.is_change]
        assert sum(told["price"] for told in changed) == pytest.approx(found.price)


def test_one_round_is_as_it_was_and_more_are_the_same_again() -> None:
    workload = language_workload(20)
    one, given = planned(trained(), workload, 0.6), planned(trained(), workload, 0.6, rounds=1)
    assert text_of(one.plan) == text_of(given.plan)
    added = [[e.change for e in p.plan.edits if isinstance(e, Add)] for p in (one, given)]
    assert added[0]
    assert all(torch.equal(a, b) for a, b in zip(*added, strict=True))
    again = [planned(trained(), workload, 0.6, rounds=3) for _ in range(2)]
    assert text_of(again[0].plan) == text_of(again[1].plan)
    assert any("in rounds, those without which" in record.reason for record in again[0].plan.records)


def test_rounds_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="at least one round, not 0"):
        planned(trained(), language_workload(), 0.5, rounds=0)
    with pytest.raises(
        BadInputError, match=r"round \d of 3, of what is left then: a budget of .* cannot be met"
    ):
        planned(trained(), language_workload(20), 0.01, "magnitude", rounds=3)
