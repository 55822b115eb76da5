"""Cuts of selective layers in a model under training: moments, groups, and distillation of what is left."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from selective_cases import (
    CASES,
    CUTS,
    ORDER,
    PAIR_IDS,
    PAIRS,
    WIDTH,
    Cut,
    build,
    context,
    noise,
    output_errors,
    projection,
)
from torch import Tensor, nn
from torch.optim import AdamW

from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.engine.state import capture, restore
from compressm_cli.layers.interface import state_axis, state_space_layers
from compressm_cli.layers.selective import (
    ChannelProjection,
    GroupProjection,
    HeadProjection,
    SelectiveProjection,
)
from compressm_cli.methods.hankel.method import Hankel, HankelConfig
from compressm_cli.methods.hankel.selective.distill import Batch, distilled, output_error
from compressm_cli.methods.hankel.selective.excerpt import Rows
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.projection import Moments, Project

LENGTH = 12
FIRST, SECOND = "blocks.0.layer", "blocks.1.layer"
MAPS = {"maps": {"B_proj", "C_proj"}, "channels": {"B_map", "C_map"}}
"""Parameters that a kind of cut adds, gated linear attention apart."""


def small_model(case: str) -> nn.Module:
    torch.manual_seed(3)
    layer = {**CASES[case], "state_dim": ORDER}
    config = SequenceConfig(layer=layer, model_dim=WIDTH, depth=2)
    return build_model(config, DataSpec(classes=4, length=LENGTH, features=2)).double()


def loss_of(model: nn.Module) -> Tensor:
    return nn.functional.cross_entropy(model(noise(5, LENGTH, 2, seed=1)), torch.tensor([0, 1, 2, 3, 0]))


def take_steps(model: nn.Module, optimizer: AdamW, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()


def trained(case: str, rate: float = 1e-2, steps: int = 2) -> tuple[nn.Module, AdamW]:
    model = small_model(case)
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=1e-2, weight_decay=0.1))
    for group in optimizer.param_groups:
        group["lr"] = rate
    take_steps(model, optimizer, steps)
    return model, optimizer


def names_in_groups(model: nn.Module, optimizer: AdamW) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def wanted_groups(model: nn.Module) -> list[list[str]]:
    """Recurrent parameters, matrices and the others, each in the order of the model (which has no embedding)."""
    recurrent = {
        f"{prefix}.{name}"
        for prefix, layer in state_space_layers(model).items()
        for name in layer.recurrent_parameters
    }
    rest = {name: p for name, p in model.named_parameters() if name not in recurrent}
    matrices = [name for name, p in rest.items() if p.ndim >= 2]
    others = [name for name, p in rest.items() if p.ndim < 2]
    return [[name for name, _ in model.named_parameters() if name in recurrent], matrices, others]


def state_of(model: nn.Module, optimizer: AdamW) -> dict[str, dict[str, Tensor]]:
    named = model.named_parameters()
    return {name: copy.deepcopy(optimizer.state[p]) for name, p in named if p in optimizer.state}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def cut_plan(model: nn.Module, cut: Cut, order: int, moments: Moments = "reset", layer: str = FIRST) -> Plan:
    projected = cut.projection(state_space_layers(model)[layer], order)
    return Plan(edits=[Project(state_axis(layer), order, projected, moments)])


def changed_by(case: str, cut: Cut) -> set[str]:
    """Names of the parameters that a cut replaces or adds."""
    if case.startswith("gla"):
        gates = {"gk_proj.1.weight", "gk_proj.1.bias"} if cut.kind == "heads" else set()
        return {"q_proj.weight", "k_proj.weight"} | gates
    if cut.kind == "coordinates":
        return {"in_proj.weight", "conv1d.weight", "conv1d.bias"}
    shared = {"A_log"} if case == "mamba" else set()
    return shared | MAPS.get(cut.kind, {"x_proj.weight"})


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
@pytest.mark.parametrize("moments", ["reset", "transport", "slice"])
def test_a_cut_changes_only_the_named_layer(case: str, cut: Cut, moments: Moments) -> None:
    model, optimizer = trained(case)
    weights, states = copy.deepcopy(model.state_dict()), state_of(model, optimizer)
    surgery.apply_plan(model, optimizer, cut_plan(model, cut, 4, moments))
    assert surgery.orders(model) == {FIRST: 4, SECOND: ORDER}
    assert names_in_groups(model, optimizer) == wanted_groups(model)
    changed = {f"{FIRST}.{name}" for name in changed_by(case, cut)}
    others = set(weights) - changed
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in others)
    after = state_of(model, optimizer)
    assert all(same_state(after[name], states[name]) for name in others)
    assert {id(p) for p in optimizer.state} <= {id(p) for p in model.parameters()}
    if moments == "reset":
        assert not changed & set(after)
    for name in changed & set(after):
        assert after[name]["exp_avg"].shape == model.get_parameter(name).shape
        assert bool((after[name]["exp_avg_sq"] >= 0).all())
    take_steps(model, optimizer, 2)
    assert set(state_of(model, optimizer)) == {name for name, _ in model.named_parameters()}
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
@pytest.mark.parametrize("moments", ["transport", "slice"])
def test_a_cut_model_lies_in_memory_as_a_loaded_one(case: str, cut: Cut, moments: Moments) -> None:
    model, optimizer = trained(case)
    surgery.apply_plan(model, optimizer, cut_plan(model, cut, 4, moments))
    assert all(value.is_contiguous() for value in model.state_dict().values())
    assert all(value.is_contiguous() for state in optimizer.state.values() for value in state.values())


@pytest.mark.parametrize(("case", "cut"), PAIRS, ids=PAIR_IDS)
def test_sliced_moments_are_those_of_the_first_states(case: str, cut: Cut) -> None:
    model, optimizer = trained(case)
    before = state_of(model, optimizer)
    surgery.apply_plan(model, optimizer, cut_plan(model, cut, 4, "slice"))
    after = state_of(model, optimizer)
    layer: Any = state_space_layers(model)[FIRST]
    rows: dict[str, Tensor | slice] = {}
    first = torch.arange(4)
    if case == "mamba":
        rank = layer.rank
        rows["x_proj.weight"] = torch.cat([torch.arange(rank), rank + first, rank + ORDER + first])
        rows["A_log"] = (slice(None), slice(4))  # type: ignore[assignment]
    elif case.startswith("mamba2"):
        x, groups = layer.channels, layer.groups
        kept = torch.cat([first + g * ORDER for g in range(2 * groups)])
        conv = torch.cat([torch.arange(x), x + kept])
        last = 2 * x + 2 * groups * ORDER + torch.arange(layer.heads)
        rows = {"conv1d.weight": conv, "conv1d.bias": conv}
        rows["in_proj.weight"] = torch.cat([torch.arange(x), x + conv, last])
    else:
        both = torch.cat([first, ORDER + first])
        names = ("q_proj.weight", "k_proj.weight", "gk_proj.1.weight", "gk_proj.1.bias")
        rows = dict.fromkeys(names, both)
    for name in changed_by(case, cut) & set(rows):
        old, new = before[f"{FIRST}.{name}"], after[f"{FIRST}.{name}"]
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(new[key], old[key][rows[name]]), name


# ---- transported moments -------------------------------------------------------------------------------------


def silence(case: str, layer: Any) -> list[int]:
    """Make two states useless - nothing reads them, nothing drives them - and name the others."""
    idle, n = [1, 4], ORDER
    with torch.no_grad():
        if case == "mamba":
            layer.x_proj.weight[[layer.rank + i for i in idle]] = 0.0
            layer.x_proj.weight[[layer.rank + n + i for i in idle]] = 0.0
        elif case.startswith("mamba2"):
            shared = layer.channels + torch.cat([torch.tensor(idle) + n * g for g in range(2 * layer.groups)])
            layer.in_proj.weight[layer.channels + shared] = 0.0
            layer.conv1d.bias[shared] = 0.0
        else:
            rows = torch.cat([torch.tensor(idle) + n * h for h in range(layer.heads)])
            layer.q_proj.weight[rows] = 0.0
            layer.k_proj.weight[rows] = 0.0
    return [i for i in range(n) if i not in idle]


def exact(case: str, cut: Cut, layer: Any) -> SelectiveProjection:
    """A projection that loses nothing: of states that are useless, or to another basis of the others."""
    keep = torch.tensor(silence(case, layer))[[2, 0, 3, 1]]
    rows = torch.eye(ORDER, dtype=torch.float64)[keep]
    scale = torch.tensor([0.5, 3.0, 1.0, 0.2], dtype=torch.float64)[:, None]
    if cut.kind == "heads":
        return HeadProjection(keep.expand(layer.heads, -1), rows.expand(layer.heads, -1, -1))
    if cut.kind == "coordinates":
        sorted_rows = torch.eye(ORDER, dtype=torch.float64)[keep.sort().values].expand(layer.groups, -1, -1)
        return GroupProjection(sorted_rows, sorted_rows, keep.sort().values.expand(layer.groups, -1))
    if cut.kind == "maps":
        groups = getattr(layer, "groups", layer.heads)
        T = noise(groups, 4, 4, seed=1) + 3 * torch.eye(4, dtype=torch.float64)
        return GroupProjection(T @ rows, torch.linalg.inv(T).mT @ rows)
    A = -torch.exp(layer.A_log.detach())[:, keep]
    return ChannelProjection(rows * scale, rows / scale, A)


MOVED = [(case, cut) for case, cut in PAIRS if cut.kind in ("shared", "heads", "coordinates")]
MOVED += [("gla-scalar", next(cut for cut in CUTS if cut.kind == "maps"))]


@pytest.mark.parametrize(("case", "cut"), MOVED, ids=[f"{case}-{cut.kind}" for case, cut in MOVED])
def test_transported_first_moments_are_gradients_of_the_new_parameters(case: str, cut: Cut) -> None:
    model = small_model(case)
    projected = exact(case, cut, state_space_layers(model)[FIRST])
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=1e-2))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(model, optimizer, 1)
    before = loss_of(model).detach()
    surgery.apply_plan(model, optimizer, Plan(edits=[Project(state_axis(FIRST), 4, projected, "transport")]))
    torch.testing.assert_close(loss_of(model).detach(), before, rtol=1e-10, atol=0)
    after = state_of(model, optimizer)
    model.zero_grad()
    loss_of(model).backward()
    changed = changed_by(case, cut)
    carried = {name for name in changed if f"{FIRST}.{name}" in after}
    assert changed - carried == ({"A_log"} if case == "mamba" else set())
    for name in carried:
        gradient = model.get_parameter(f"{FIRST}.{name}").grad
        assert gradient is not None
        state = after[f"{FIRST}.{name}"]
        torch.testing.assert_close(
            state["exp_avg"], 0.1 * gradient, rtol=1e-7, atol=1e-12, msg=lambda m, n=name: n + m
        )
        assert float(state["step"]) == 1.0


@pytest.mark.parametrize(("case", "groups"), [("mamba2", 1), ("mamba2-groups", 2)])
def test_moments_of_maps_are_transported_to_the_next_maps(case: str, groups: int) -> None:
    model = small_model(case)
    layer = state_space_layers(model)[FIRST]
    # The map of six new states from six, two of which nothing drives or reads.
    start = noise(groups, ORDER, ORDER, seed=5), noise(groups, ORDER, ORDER, seed=6)
    for m in start:
        m[:, [1, 4]] = 0.0
    surgery.apply_plan(model, None, Plan(edits=[Project(state_axis(FIRST), ORDER, GroupProjection(*start))]))
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=1e-2))
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    take_steps(model, optimizer, 1)
    rows = torch.eye(ORDER, dtype=torch.float64)[[5, 0, 3, 2]]
    T = noise(groups, 4, 4, seed=1) + 3 * torch.eye(4, dtype=torch.float64)
    projected = GroupProjection(T @ rows, torch.linalg.inv(T).mT @ rows)
    surgery.apply_plan(model, optimizer, Plan(edits=[Project(state_axis(FIRST), 4, projected, "transport")]))
    after = state_of(model, optimizer)
    model.zero_grad()
    loss_of(model).backward()
    for name in ("B_proj", "C_proj"):
        gradient = layer.get_parameter(name).grad
        torch.testing.assert_close(after[f"{FIRST}.{name}"]["exp_avg"], 0.1 * gradient, rtol=1e-7, atol=1e-12)


# ---- new parameters ------------------------------------------------------------------------------------------


ADDING = [(case, cut) for case, cut in PAIRS if cut.kind in MAPS and case != "gla-scalar"]


@pytest.mark.parametrize(("case", "cut"), ADDING, ids=[case for case, _ in ADDING])
def test_new_parameters_join_the_groups_and_go_again(case: str, cut: Cut) -> None:
    model, optimizer = trained(case)
    before, names = capture(model, optimizer), names_in_groups(model, optimizer)
    added = {f"{FIRST}.{name}" for name in MAPS[cut.kind]}
    surgery.apply_plan(model, optimizer, cut_plan(model, cut, 4))
    groups = names_in_groups(model, optimizer)
    assert groups == wanted_groups(model)
    recurrent = state_space_layers(model)[FIRST].recurrent_parameters
    assert added <= set(groups[0] if "B_proj" in recurrent and case != "mamba" else groups[1])
    assert not added & set(state_of(model, optimizer))
    take_steps(model, optimizer, 2)
    assert added <= set(state_of(model, optimizer))
    cut_state, loss = capture(model, optimizer), loss_of(model).detach()
    take_steps(model, optimizer, 1)
    later = loss_of(model).detach()

    # As after a rejected trial.
    restore(model, optimizer, before)
    assert names_in_groups(model, optimizer) == names
    assert not added & set(model.state_dict())
    # As when a run is resumed, in a model that was never cut.
    for one, other in ((model, optimizer), trained(case)):
        restore(one, other, cut_state)
        assert names_in_groups(one, other) == groups
        assert torch.equal(loss_of(one), loss)
        for group in other.param_groups:
            group["lr"] = 1e-2
        take_steps(one, other, 1)
        assert torch.equal(loss_of(one), later)


def test_channels_orders_are_part_of_a_captured_state() -> None:
    cut = next(cut for cut in CUTS if cut.kind == "orders")
    model, optimizer = trained("mamba")
    before = capture(model, optimizer)
    surgery.apply_plan(model, optimizer, cut_plan(model, cut, 4, "transport"))
    layer: Any = state_space_layers(model)[FIRST]
    kept = layer.kept.clone()
    after, loss = capture(model, optimizer), loss_of(model).detach()
    assert after["weights"][f"{FIRST}.kept"].dtype == torch.int64
    restore(model, optimizer, before)
    assert layer.kept is None
    restore(model, optimizer, after)
    assert torch.equal(layer.kept, kept)
    assert torch.equal(loss_of(model), loss)


def test_a_truncation_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    model, optimizer = trained("mamba2")
    plan = cut_plan(model, next(cut for cut in CUTS if cut.kind == "maps"), 4)
    plan.edits[0].projections.to_input[0, 0, 0] = torch.nan  # type: ignore[union-attr]
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"blocks\.0\.layer: not finite after the truncation: B_proj"):
        surgery.apply_plan(model, optimizer, plan)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert names_in_groups(model, optimizer) == wanted_groups(model)


# ---- distillation --------------------------------------------------------------------------------------------


VARIANTS = [
    ("mamba", "balanced"),
    ("mamba", "gramian"),
    ("mamba", "channel_orders"),
    ("mamba", "channel_balanced"),
    ("mamba2", "gramian"),
    ("mamba2-groups", "balanced"),
    ("gla", "pivoted"),
    ("gla-scalar", "balanced"),
]


def batches(count: int = 2) -> list[Tensor]:
    return [noise(2, 24, WIDTH, seed=seed, dtype=torch.float32) for seed in range(count)]


def whole(given: list[Tensor]) -> list[Batch]:
    """Batches that are passed through at once."""
    return [[Rows(u, None)] for u in given]


@pytest.mark.parametrize(("case", "variant"), VARIANTS)
def test_distillation_brings_the_cut_layer_closer_and_touches_nothing_else(case: str, variant: str) -> None:
    layer, given = build(case, torch.float32), batches()
    found = projection(layer, given, 2, variant)
    values = layer.reduced_parameters(found)
    start = {name: value.clone() for name, value in values.items()}
    weights, random = copy.deepcopy(layer.state_dict()), torch.get_rng_state()
    with torch.no_grad():
        better = distilled(layer, values, whole(given), 30)
        assert not torch.is_grad_enabled()
    again = distilled(layer, values, whole(given), 30)
    assert all(torch.equal(better[name], again[name]) for name in better)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, weights[name]) for name, value in layer.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in layer.parameters())
    assert better.keys() == values.keys()
    assert all(torch.equal(values[name], start[name]) for name in values)
    assert all(better[name].shape == values[name].shape and not better[name].requires_grad for name in better)
    before, after = (output_error(layer, v, whole(given)) for v in (values, better))
    assert before == pytest.approx(output_errors(layer, given, found), rel=1e-4)
    assert after is not None
    assert before is not None
    assert after < 0.95 * before
    for name, rows in layer.state_rows().items():
        if name in values:
            others = torch.ones(len(values[name]), dtype=torch.bool)
            others[rows] = False
            assert torch.equal(better[name][others], values[name][others].float())
            assert not torch.equal(better[name], values[name].float())


def test_distillation_that_does_not_help_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = build("mamba", torch.float32), batches()
    values = layer.reduced_parameters(projection(layer, given, 2, "balanced"))
    monkeypatch.setattr("compressm_cli.methods.hankel.selective.distill.RATE", 30.0)
    assert distilled(layer, values, whole(given), 3) is values
    assert distilled(layer, values, whole(given), 0) is values
    silent = copy.deepcopy(layer)
    nn.init.zeros_(silent.out_proj.weight)
    assert distilled(silent, values, whole(given), 3) is values
    assert output_error(silent, values, whole(given)) is None


def test_distilled_values_travel_in_the_plan() -> None:
    model = nn.ModuleDict({"first": build("mamba", torch.float32), "second": build("mamba2", torch.float32)})
    given = {"first": batches(), "second": batches()}
    settings: dict[str, Any] = {"method": "hankel", "keep_fraction": 0.34}
    plain = Hankel(HankelConfig(**settings)).plan(model, context(given))
    plan = Hankel(HankelConfig(**settings, distill_steps=20)).plan(model, context(given))
    for edit, record, old in zip(plan.edits, plan.records, plain.records, strict=True):
        assert isinstance(edit, Project)
        assert edit.values is not None
        layer: Any = model[edit.layer]
        whole = [layer(u).detach() for u in given[edit.layer]]
        start = output_errors(layer, given[edit.layer], edit.projections)
        surgery.apply_plan(model, None, Plan(edits=[edit]))
        assert layer.state_dim == 2
        wrong = sum(
            float((layer(u).detach() - y).square().sum())
            for u, y in zip(given[edit.layer], whole, strict=True)
        )
        error = (wrong / sum(float(y.square().sum()) for y in whole)) ** 0.5
        assert record.details["output_error"] == pytest.approx(error, rel=1e-3)
        # Of the recurrence, before distillation.
        assert record.details["measured_error"] == old.details["measured_error"]
        assert old.details["output_error"] is None
        assert record.reason == (
            f"{old.reason}; 20 steps of distillation: error of the output {start:.3g} -> {error:.3g}"
        )


def test_distilled_values_that_are_not_finite_are_refused() -> None:
    model = nn.ModuleDict({"layer": build("mamba2", torch.float32)})
    layer: Any = model["layer"]
    found = projection(layer, batches(), 2)
    values = {
        name: torch.full_like(value, torch.inf) for name, value in layer.reduced_parameters(found).items()
    }
    with pytest.raises(ValueError, match="not finite after the truncation"):
        surgery.apply_plan(model, None, Plan(edits=[Project(state_axis("layer"), 2, found, values=values)]))


def test_a_run_with_distillation_resumes_to_the_same_model(tmp_path: Path) -> None:
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.engine import experiment
    from compressm_cli.engine.view import SilentView
    from compressm_cli.recipe import recipe_from_mapping
    from compressm_cli.runs.folder import Run

    class Interrupting(SilentView):
        def step(self, number: int, *_: Any) -> None:
            if number == 5:
                raise KeyboardInterrupt

    def recipe(name: str) -> Any:
        layer = {"kind": "mamba2", "state_dim": 6, "head_dim": 4}
        schedule = {"kind": "listed", "at_steps": [2]}
        compression = {"method": "hankel", "keep_fraction": 0.5, "distill_steps": 4, "moments": "transport"}
        mapping = {
            "name": name,
            "device": "cpu",
            "data": {"task": "digits"},
            "model": {"layer": layer, "model_dim": 4, "depth": 1},
            "train": {"steps": 6, "batch_size": 4, "eval_every": 6, "checkpoint_every": 3},
            "compression": {**compression, "schedule": schedule},
            "output": {"root": str(tmp_path)},
        }
        return recipe_from_mapping(mapping, "test")

    whole = recipe("whole")
    run = experiment.start(whole, 0, experiment.load_data(whole), SilentView(), "test")
    (line,) = run.read_compression()
    assert "4 steps of distillation" in line["reason"]
    broken = recipe("broken")
    with pytest.raises(KeyboardInterrupt):
        experiment.start(broken, 0, experiment.load_data(broken), Interrupting(), "test")
    (other,) = Run.find(tmp_path / "broken")
    experiment.resume(other, broken, SilentView(), "test")
    weights = [Checkpoint.load(r.final_checkpoint).weights for r in (run, other)]
    assert weights[0].keys() == weights[1].keys()
    assert "blocks.0.layer.B_proj" in weights[0]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
