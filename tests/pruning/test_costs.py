"""What a unit costs: as the network without it is counted, whatever else is cut."""

import copy

import pytest
import torch
from networks import image_workload, images, language_workload, trained
from torch import nn

from compressm_cli.measure.formulas import counted
from compressm_cli.pruning import Costs, Groups, Workload
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.surgery import apply_edits

CASES = {"language": (trained, language_workload), "images": (images, image_workload)}


def recounted(model: nn.Module, workload: Workload, sizes: dict[str, int]) -> tuple[int, int]:
    """FLOPs and parameters of a copy that is cut to these sizes, with values."""
    twin = copy.deepcopy(model)
    apply_edits(twin, None, [Keep(name, range(size)) for name, size in sizes.items()])
    with torch.no_grad():
        flops = counted(lambda: workload.run(twin, workload.example))[""]
    return flops, sum(p.numel() for p in twin.parameters())


@pytest.mark.parametrize("name", CASES)
def test_a_unit_costs_what_is_counted_less_without_it(name: str) -> None:
    model, workload = CASES[name][0](), CASES[name][1]()
    groups = Groups.of(model).free
    assert {group.kind for group in groups} >= (
        {"channel"} if name == "images" else {"kv_group", "query", "neuron"}
    )
    costs = Costs(model, groups, workload)
    whole = recounted(model, workload, {})
    assert (costs.whole.flops, costs.whole.parameters) == whole
    for group in groups:
        one, found = costs.of_unit(group), recounted(model, workload, {group.name: group.size - 1})
        assert (one.flops, one.parameters) == (whole[0] - found[0], whole[1] - found[1]), group.name
        assert costs.flops_of_unit(group, {}) == one.flops > 0


def test_what_a_unit_costs_follows_what_else_is_cut() -> None:
    model, workload = trained(), language_workload()
    groups = {group.name: group for group in Groups.of(model).free}
    costs = Costs(model, list(groups.values()), workload)
    sizes = {
        "first.inner:kv_groups": 1,
        "third.inner:heads": 3,
        "third.inner:vo_dim": 2,
        "second.inner:neurons": 7,
    }
    before, _ = recounted(model, workload, sizes)
    assert costs.at(sizes).flops == before
    for name in ("first.inner:queries", "third.inner:heads", "second.inner:neurons", "fourth.inner:neurons"):
        group = groups[name]
        after, _ = recounted(model, workload, {**sizes, name: sizes.get(name, group.size) - 1})
        found = costs.flops_of_unit(group, sizes)
        assert found == pytest.approx(before - after, rel=1e-9), name
    assert (
        costs.flops_of_unit(groups["first.inner:queries"], sizes)
        < costs.of_unit(groups["first.inner:queries"]).flops
    )


def test_a_network_that_asks_for_values_is_counted_on_a_copy(recwarn: pytest.WarningsRecorder) -> None:
    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = trained()

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            assert int(tokens.max()) < 1000
            found: torch.Tensor = self.inner(tokens)
            return found

    model, workload = Asking(), language_workload()
    costs = Costs(model, Groups.of(model).free, workload)
    assert costs.whole.flops == recounted(model, workload, {})[0]
    assert "FLOPs are counted on a copy with values" in str(recwarn[0].message)


def test_what_cannot_leave_is_told_with_the_reason() -> None:
    model = nn.Sequential(trained(), nn.Linear(13, 13))
    groups = Groups.of(model, {"1:neurons": "it is given back"})
    assert groups.pinned["0.first:sublayer"] == "a whole sub-layer, which is not priced by units"
    assert groups.pinned["1:neurons"] == "it is given back"
    assert not {group.name for group in groups.free} & set(groups.pinned)
