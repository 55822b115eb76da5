"""Scores are what they say: gradients of gates, errors of least squares, norms, lots."""

import copy

import pytest
import torch
from networks import image_workload, images, language_workload, trained
from torch import Tensor, nn

from compressm_cli.pruning import SCORES, Group, Groups, Judged, Workload
from compressm_cli.structure.map import tensors_of

UNITS = {"first.inner:queries": 1, "second.inner:neurons": 5, "third.inner:heads": 2, "third.inner:qk_dim": 1}


def judged(
    name: str, model: nn.Module, workload: Workload, folded: bool = True
) -> tuple[dict[str, Group], Judged]:
    groups = Groups.of(model).free
    return {g.name: g for g in groups}, SCORES[name](workload, folded).judge(model, groups)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("network", ["language", "images"])
def test_scores_are_one_a_unit_and_change_nothing(name: str, network: str) -> None:
    model, workload = (
        (trained(), language_workload(20)) if network == "language" else (images(), image_workload())
    )
    before = copy.deepcopy(model.state_dict())
    groups, found = judged(name, model, workload)
    assert found.scores.keys() | found.unknown.keys() == groups.keys()
    assert found.scores
    for group, values in found.scores.items():
        assert values.shape == (groups[group].size,)
        assert values.dtype == torch.float64
        assert bool((values >= 0).all())
    again = judged(name, model, workload)[1].scores
    assert all(torch.equal(values, again[group]) for group, values in found.scores.items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters()) or network == "language"


def gated(model: nn.Module, group: Group, unit: int, gate: float) -> nn.Module:
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for slot in group.outputs:
            tensor, entries = tensors_of(twin)[slot.tensor], slot.entries(torch.tensor([unit]))
            tensor.index_copy_(slot.dim, entries, tensor.index_select(slot.dim, entries) * gate)
    return twin


@pytest.mark.parametrize("name", UNITS)
def test_taylor_is_the_squared_gradient_of_a_gate(name: str) -> None:
    model, workload = trained(), language_workload(3)
    groups, found = judged("taylor", model, workload)
    wanted = []
    for batch in workload.batches:
        up, down = (
            float(workload.loss(gated(model, groups[name], UNITS[name], 1 + e), batch).detach())
            for e in (1e-5, -1e-5)
        )
        wanted.append(workload.labels(batch) / 2 * ((up - down) / 2e-5) ** 2)
    assert float(found.scores[name][UNITS[name]]) == pytest.approx(sum(wanted) / 3, rel=1e-4)


def test_taylor_sees_parameters_that_are_frozen_and_leaves_them_so() -> None:
    model, workload = copy.deepcopy(trained()), language_workload(2)
    wanted = judged("taylor", model, workload)[1].scores
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    found = judged("taylor", model, workload)[1].scores
    assert all(torch.equal(found[name], values) for name, values in wanted.items())
    assert not any(p.requires_grad for p in model.parameters())


def inputs_of(model: nn.Module, module: str, workload: Workload) -> Tensor:
    """All that a linear map is given, (places, inputs)."""
    seen: list[Tensor] = []
    hook = model.get_submodule(module).register_forward_pre_hook(
        lambda _, given: seen.append(given[0].detach())
    )
    for batch in workload.batches:
        workload.run(model, batch)
    hook.remove()
    return torch.cat([x.flatten(0, -2) for x in seen])


@pytest.mark.parametrize("folded", [True, False])
@pytest.mark.parametrize(
    ("name", "module"),
    [("second.inner:neurons", "second.inner.down"), ("fourth.inner:neurons", "fourth.inner.down"),
     ("third.inner:heads", "third.inner.o")],
)  # fmt: skip
def test_least_squares_is_the_error_of_what_reads_the_unit(name: str, module: str, folded: bool) -> None:
    model, workload = trained(), language_workload(20)
    groups, found = judged("least_squares", model, workload, folded)
    x, linear = inputs_of(model, module, workload), model.get_submodule(module)
    assert isinstance(linear, nn.Linear)
    centred = linear.bias is not None
    y = x @ linear.weight.detach().T
    variance = float((y - y.mean(0) * centred).square().sum())
    for unit in (0, groups[name].size - 1):
        (slot,) = groups[name].outputs
        gone = torch.zeros(x.shape[1], dtype=torch.bool)
        gone[slot.entries(torch.tensor([unit]))] = True
        error = x[:, gone]
        if folded:
            others = torch.cat([x[:, ~gone], torch.ones(len(x), int(centred), dtype=x.dtype)], dim=1)
            error = error - others @ torch.linalg.lstsq(others, error).solution
        wanted = float((error @ linear.weight.detach()[:, gone].T).square().sum()) / variance
        assert float(found.scores[name][unit]) == pytest.approx(wanted, rel=1e-3)


def test_what_no_matrix_reads_or_has_too_few_places_has_no_least_squares() -> None:
    _, found = judged("least_squares", trained(), language_workload(1, 1))
    assert "its units are not inputs of third.inner.q" in found.unknown["third.inner:qk_dim"]
    assert (
        "it has 24 inputs, and the calibration batches 12 places; give at least 96"
        in (found.unknown["second.inner:neurons"])
    )
    assert not found.scores
