"""A budget is kept, by no more than it takes, with the same units each time; whole or not at all."""

import copy
import re
from pathlib import Path

import pytest
import torch
from networks import image_workload, images, language_loss, language_workload, texts, trained
from test_costs import recounted
from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.pruning import SCORES, planned, prune
from compressm_cli.structure.map import StructureMap


@pytest.mark.parametrize("score", SCORES)
def test_the_budget_is_kept_and_hardly_undercut(score: str) -> None:
    model, workload = copy.deepcopy(trained()), language_workload(20)
    found = prune(model, workload, 0.7, score)
    flops, parameters = recounted(model, workload, {})
    assert (found.after.flops, found.after.parameters) == (flops, parameters)
    assert 0.6 * found.before.flops < flops <= 0.7 * found.before.flops
    assert (found.price is None) == (found.no_price is not None) == (score != "taylor")
    sizes = StructureMap.of(model).sizes()
    for record in found.plan.records:
        assert sizes[record.unit] == record.after
        assert record.reason.startswith("cut from" if record.is_change else "nothing cut: ")
    assert bool(torch.isfinite(language_loss(model, texts(4))))


def test_the_same_is_planned_again_and_the_model_left() -> None:
    model, workload = trained(), language_workload(20)
    before = copy.deepcopy(model.state_dict())
    one, other = (planned(model, workload, 0.6) for _ in range(2))
    assert [str(r) for r in one.plan.records] == [str(r) for r in other.plan.records]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    sums = sum(r.details["price"] for r in one.plan.records if r.is_change)
    assert one.price == pytest.approx(sums)


def test_layers_that_are_built_alike_stay_alike() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([copy.deepcopy(trained().second), copy.deepcopy(trained().second)])

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.blocks[1](self.blocks[0](trained().embedding(tokens)))
            return trained().head(y)

    workload = language_workload(20)
    sizes = {}
    for uniform in (False, True):
        model = Two()
        found = prune(model, workload, 0.6, uniform=uniform)
        assert found.after.flops <= 0.6 * found.before.flops
        sizes[uniform] = {r.unit: r.after for r in found.plan.records}
    assert len(set(sizes[True].values())) == 1
    assert len(set(sizes[False].values())) == 2


def test_a_budget_that_cannot_be_met_says_what_can() -> None:
    with pytest.raises(
        BadInputError, match=r"cannot be met: without all .* still takes [\d,]+ FLOPs, 0\.\d+x"
    ):
        planned(trained(), language_workload(20), 0.01, "magnitude")
    with pytest.raises(ValueError, match=r"above 0 and below 1, not 1\.5"):
        planned(trained(), language_workload(), 1.5)
    with pytest.raises(
        ValueError, match="no score 'best'; there are taylor, least_squares, magnitude, random"
    ):
        planned(trained(), language_workload(), 0.5, "best")
    with pytest.raises(BadInputError, match="nothing of the network can be cut: it has no axes"):
        planned(nn.Linear(3, 3), language_workload(), 0.5)


def test_convolutions_whose_axes_were_discovered_are_cut() -> None:
    model = copy.deepcopy(images())
    found = prune(model, image_workload(), 0.5, "taylor")
    assert found.after.flops == recounted(model, image_workload(), {})[0] <= 0.5 * found.before.flops
    assert {record.unit for record in found.plan.records} == {"0:channels", "3:channels", "5:channels"}


def test_units_that_give_nothing_leave_first_and_for_nothing() -> None:
    model, workload = copy.deepcopy(trained()), language_workload(20)
    with torch.no_grad():
        model.fourth.inner.down.weight[:, 5:15] = 0
        model.second.inner.down.weight[:, 10:] = 0
    before = float(language_loss(model, texts(8)).detach())
    found = prune(model, workload, 0.9, fold=False)
    kept = {edit.axis: list(edit.units) for edit in found.plan.edits}
    assert set(kept["second.inner:neurons"]) >= set(range(10))
    assert set(kept["fourth.inner:neurons"]) >= {*range(5), *range(15, 24)}
    assert found.price == 0
    assert float(language_loss(model, texts(8)).detach()) == pytest.approx(before, rel=1e-9)


def test_the_program_in_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text(encoding="utf-8")
    (program,) = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(program, "docs/pruning.md", "exec"), {})
    told = capsys.readouterr().out.split()
    assert float(told[1]) <= 0.5 * float(told[0])
