"""Folds are the least squares that they say, and what leaves is never missed more with them than without."""

import copy

import pytest
import torch
from networks import image_workload, images, language_workload, trained
from torch import Tensor, nn

from compressm_cli.pruning import Fold, Groups, Workload
from compressm_cli.pruning.folds import folds
from compressm_cli.structure.edits import Add, Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.surgery import apply_edits

KEPT = {
    "second.inner:neurons": ("second.inner.down", True, list(range(3, 12))),
    "fourth.inner:neurons": ("fourth.inner.down", False, list(range(0, 24, 2))),
    "third.inner:heads": ("third.inner.o", False, [1, 3]),
    "third.inner:vo_dim": ("third.inner.o", False, [0, 2]),
    "first.inner:queries": ("first.inner.o", True, [1]),
    "0:channels": ("3", True, [0, 1, 4, 7]),
}


def network(name: str) -> tuple[nn.Module, Workload]:
    return (images(), image_workload()) if name == "0:channels" else (trained(), language_workload(20))


def folded(model: nn.Module, workload: Workload, kept: dict[str, list[int]]) -> tuple[list[Add], list[Fold]]:
    groups = {group.name: group for group in Groups.of(model).free}
    return folds(model, [(groups[name], torch.tensor(units)) for name, units in kept.items()], workload)


def seen_of(model: nn.Module, module: str, workload: Workload) -> tuple[Tensor, Tensor]:
    """What a linear map is given (places, inputs) and what it gives back (places, outputs)."""
    seen: list[tuple[Tensor, Tensor]] = []
    hook = model.get_submodule(module).register_forward_hook(lambda _, given, y: seen.append((given[0], y)))
    with torch.no_grad():
        for batch in workload.batches:
            workload.run(model, batch)
    hook.remove()
    last = 1 if module == "3" else -1
    xs, ys = zip(*seen, strict=True)
    return tuple(torch.cat([t.movedim(last, -1).flatten(0, -2) for t in part]) for part in (xs, ys))


@pytest.mark.parametrize("name", KEPT)
def test_a_fold_is_the_least_squares_of_what_the_layer_puts_out(name: str) -> None:
    module, centred, units = KEPT[name]
    model, workload = network(name)
    edits, (fold,) = folded(model, workload, {name: units})
    x, y = seen_of(model, module, workload)
    outputs = []
    for more in ([], edits):
        small = copy.deepcopy(model)
        apply_edits(small, None, [*more, Keep(name, units)])
        outputs.append(seen_of(small, module, workload))
    (kept, silent), (same, told) = outputs
    assert torch.equal(kept, same)
    ones = torch.ones(len(x), int(centred), dtype=x.dtype)
    basis = torch.cat([kept, ones], dim=1)
    bias = model.get_submodule(module).bias if centred else None
    target = y - (0 if bias is None else bias.detach())
    best = basis @ torch.linalg.lstsq(basis, target).solution - target
    error, least, worst = ((t**2).sum() for t in (told - y, best, silent - y))
    torch.testing.assert_close(error, least, rtol=1e-3, atol=0)
    assert error <= worst
    assert error < 0.9 * worst, "the fold does nothing"
    variance = ((target - target.mean(0) * centred) ** 2).sum()
    assert fold.error == pytest.approx(float(error / variance), rel=1e-6)
    assert fold.error_silent == pytest.approx(float(worst / variance), rel=1e-6)
    assert (fold.module, fold.inputs, fold.removed) == (module, x.shape[1], x.shape[1] - kept.shape[1])
    assert ("bias" in {e.parameter.rpartition(".")[2] for e in edits}) == centred


def test_axes_that_cross_in_a_matrix_are_folded_as_one() -> None:
    model, workload = trained(), language_workload(20)
    kept = {"third.inner:heads": [0, 2, 3], "third.inner:vo_dim": [1, 2, 3]}
    edits, found = folded(model, workload, kept)
    assert [(fold.module, fold.removed) for fold in found] == [("third.inner.o", 4 + 3)]
    small = copy.deepcopy(model)
    apply_edits(small, None, [*(Keep(name, units) for name, units in kept.items()), *edits])
    (_, y), (_, told) = (seen_of(m, "third.inner.o", workload) for m in (model, small))
    assert found[0].error == pytest.approx(float(((told - y) ** 2).mean() / (y**2).mean()), rel=1e-6)


def test_where_nothing_is_folded_the_reason_is_told() -> None:
    model, workload = copy.deepcopy(trained()), language_workload(20)
    model.add_module("again", model.fourth.inner.down)
    kept = {"third.inner:qk_dim": [0], "fourth.inner:neurons": [0, 1]}
    edits, found = folded(model, workload, kept)
    assert not edits
    assert {fold.reason for fold in found} == {
        "nothing folded: its units are not inputs of third.inner.q, a Linear",
        "nothing folded: fourth.inner.down.weight is shared with another module",
    }
    few = language_workload(1, 1)
    edits, (fold,) = folded(trained(), few, {"second.inner:neurons": [0, 1]})
    assert not edits
    assert fold.reason.startswith("nothing folded: it has 24 inputs, and the calibration batches 12 places")
    edits, found = folded(images(), image_workload(), {"5:channels": [0, 1]})
    assert [fold.module for fold in found] == ["9"]
    edits, found = folded(images(), image_workload(), {"3:channels": [0, 1]})
    assert [fold.reason for fold in found] == ["nothing folded: 5 reads more than one place at once"]


def test_padding_is_not_folded_in() -> None:
    model, whole = trained(), language_workload(20)
    batches = [torch.cat([t, torch.zeros(len(t), 5, dtype=t.dtype)], dim=1) for t in whole.batches]
    lengths = {id(t): torch.full((len(t),), 12) for t in batches}
    padded = Workload(batches, whole.loss, whole.labels, whole.run, whole.example, lambda t: lengths[id(t)])
    one, other = (folded(model, w, {"second.inner:neurons": list(range(12))})[0] for w in (whole, padded))
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a.change, b.change, rtol=1e-9, atol=1e-12)


def test_add_goes_with_cuts_in_any_order_and_keeps_moments() -> None:
    change = torch.arange(24.0 * 16).reshape(16, 24)
    results = []
    for order in (1, -1):
        model = copy.deepcopy(trained())
        weight = model.fourth.inner.down.weight
        optimizer = torch.optim.AdamW(model.parameters())
        weight.square().sum().backward()
        optimizer.step()
        before = weight.detach().clone()
        moment = optimizer.state[weight]["exp_avg"].clone()
        edits = [Add("fourth.inner.down.weight", change), Keep("fourth.inner:neurons", range(3, 20))]
        apply_edits(model, optimizer, edits[::order])
        now = model.fourth.inner.down.weight
        assert torch.equal(now, (before + change)[:, 3:20])
        assert torch.equal(optimizer.state[now]["exp_avg"], moment[:, 3:20])
        results.append(now.detach())
    assert torch.equal(*results)


def test_add_is_refused_whole() -> None:
    model = copy.deepcopy(trained())
    before = copy.deepcopy(model.state_dict())
    name, good = "fourth.inner.down.weight", torch.zeros(16, 24)
    wrong = {
        "of the parameter's shape (16, 24), not (3,)": [Add(name, torch.zeros(3))],
        "is not finite": [Keep("fourth.inner:neurons", [0]), Add(name, good / 0)],
        "would both change": [Add(name, good), Add(name, good)],
        "has no parameter 'x'": [Add("x", good)],
    }
    for message, edits in wrong.items():
        with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
            apply_edits(model, None, edits)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert StructureMap.of(model).sizes() == StructureMap.of(trained()).sizes()
