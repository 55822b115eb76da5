"""Surgery changes what a plan names, and nothing else."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_kinds import SMALL, TIME_INVARIANT
from torch import Tensor, nn
from torch.optim import AdamW

from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.optimizer import build_optimizer
from compressm_cli.layers.interface import state_axis, state_space_layers
from compressm_cli.layers.time_invariant import StateProjection, TimeInvariantLayer
from compressm_cli.methods.hankel.balanced import BalancedSystem
from compressm_cli.models import build_model
from compressm_cli.models.sequence import SequenceConfig
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.structure import surgery
from compressm_cli.structure.edits import Keep, MaskEntries, Train
from compressm_cli.structure.masks import enforce_masks, masks_of
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.projection import Moments, Project

WIDTH, ORDER, LENGTH = 3, 6, 20
FIRST, SECOND = "blocks.0.layer", "blocks.1.layer"


def small_model(kind: str = "lru", width: int = WIDTH) -> nn.Module:
    torch.manual_seed(3)
    settings = SMALL.get(kind, {})
    config = SequenceConfig(layer={"kind": kind, "state_dim": ORDER, **settings}, model_dim=width, depth=2)
    return build_model(config, DataSpec(classes=4, length=LENGTH, features=2)).double()


def loss_of(model: nn.Module) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(5, LENGTH, 2, generator=generator, dtype=torch.float64)
    return nn.functional.cross_entropy(model(inputs), torch.tensor([0, 1, 2, 3, 0]))


def take_steps(model: nn.Module, optimizer: AdamW, count: int) -> None:
    for _ in range(count):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
        enforce_masks(model)


def trained(kind: str = "lru", rate: float = 1e-2, steps: int = 3) -> tuple[nn.Module, AdamW]:
    """A model and an optimizer that has moments of all its parameters."""
    model = small_model(kind)
    optimizer = build_optimizer(model, TrainConfig(steps=10, learning_rate=1e-2, weight_decay=0.1))
    for group in optimizer.param_groups:
        group["lr"] = rate
    take_steps(model, optimizer, steps)
    return model, optimizer


def projections(layer: TimeInvariantLayer, order: int) -> list[StateProjection]:
    generator = torch.Generator()
    return [
        BalancedSystem.of(system, "complex").truncate(order, "largest", generator).projection
        for system in layer.systems()
    ]


def cut(model: nn.Module, order: int, moments: Moments = "reset", layer: str = FIRST) -> Plan:
    parts = projections(state_space_layers(model)[layer], order)
    return Plan(edits=[Project(state_axis(layer), order, parts, moments)])


def names_in_groups(model: nn.Module, optimizer: AdamW) -> list[list[str]]:
    names = {id(p): name for name, p in model.named_parameters()}
    return [[names[id(p)] for p in group["params"]] for group in optimizer.param_groups]


def state_of(model: nn.Module, optimizer: AdamW) -> dict[str, dict[str, Tensor]]:
    named = model.named_parameters()
    return {name: copy.deepcopy(optimizer.state[p]) for name, p in named if p in optimizer.state}


def same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def cut_names(model: nn.Module, layer: str = FIRST) -> set[str]:
    return {f"{layer}.{name}" for name in state_space_layers(model)[layer].state_parameters}


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("moments", ["reset", "transport", "slice"])
def test_a_cut_changes_only_the_named_layer(kind: str, moments: Moments) -> None:
    model, optimizer = trained(kind)
    groups, weights = names_in_groups(model, optimizer), copy.deepcopy(model.state_dict())
    states, settings = state_of(model, optimizer), [{**g, "params": None} for g in optimizer.param_groups]
    surgery.apply_plan(model, optimizer, cut(model, 4, moments))
    assert surgery.orders(model) == {FIRST: 4, SECOND: ORDER}
    assert names_in_groups(model, optimizer) == groups
    assert [{**g, "params": None} for g in optimizer.param_groups] == settings
    others = set(weights) - cut_names(model)
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in others)
    after = state_of(model, optimizer)
    assert all(same_state(after[name], states[name]) for name in others)
    present = {id(p) for p in model.parameters()}
    assert {id(p) for p in optimizer.state} <= present
    take_steps(model, optimizer, 2)
    assert set(state_of(model, optimizer)) == set(weights)


@pytest.mark.parametrize("kind", TIME_INVARIANT)
@pytest.mark.parametrize("moments", ["transport", "slice"])
def test_a_cut_model_lies_in_memory_as_a_loaded_one(kind: str, moments: Moments) -> None:
    model, optimizer = trained(kind)
    surgery.apply_plan(model, optimizer, cut(model, 4, moments))
    assert all(value.is_contiguous() for value in model.state_dict().values())
    assert all(value.is_contiguous() for state in optimizer.state.values() for value in state.values())


def test_parameters_keep_their_kind_after_a_cut() -> None:
    model, optimizer = trained()
    model.float()
    model.get_parameter(f"{FIRST}.C_re").requires_grad_(False)
    surgery.apply_plan(model, optimizer, cut(model, 2))
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert surgery.frozen(model) == [f"{FIRST}.C_re"]
    assert model.get_parameter(f"{FIRST}.C_re").untyped_storage().nbytes() == WIDTH * 2 * 4


def test_reset_moments_start_anew() -> None:
    model, optimizer = trained()
    surgery.apply_plan(model, optimizer, cut(model, 4, "reset"))
    assert not cut_names(model) & set(state_of(model, optimizer))


def test_sliced_moments_are_the_leading_ones() -> None:
    model, optimizer = trained()
    before = state_of(model, optimizer)
    surgery.apply_plan(model, optimizer, cut(model, 4, "slice"))
    after = state_of(model, optimizer)
    for name, axis in state_space_layers(model)[FIRST].state_axes.items():
        old, new = before[f"{FIRST}.{name}"], after[f"{FIRST}.{name}"]
        assert torch.equal(new["step"], old["step"])
        for key in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(new[key], old[key].narrow(axis, 0, 4))


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_transported_first_moments_are_gradients_of_the_new_parameters(kind: str) -> None:
    """After a change of coordinates that loses nothing, the layer's own gradient is what must come out."""
    model, optimizer = trained(kind, rate=0.0, steps=1)
    surgery.apply_plan(model, optimizer, cut(model, ORDER, "transport"))
    after = state_of(model, optimizer)
    model.zero_grad()
    loss_of(model).backward()
    carried = {name for name in cut_names(model) if name in after}
    assert carried == {n for n in cut_names(model) if n.rpartition(".")[2][:2] in ("B_", "C_")}
    for name in carried:
        gradient = model.get_parameter(name).grad
        assert gradient is not None
        torch.testing.assert_close(after[name]["exp_avg"], 0.1 * gradient, rtol=1e-6, atol=1e-12)
        assert bool((after[name]["exp_avg_sq"] >= 0).all())
        assert float(after[name]["step"]) == 1.0


def test_transported_first_moments_of_a_lossy_cut_are_the_adjoint_of_the_way_back() -> None:
    model, optimizer = trained(steps=2)
    layer = state_space_layers(model)[FIRST]
    (projection,) = projections(layer, 3)
    before = state_of(model, optimizer)
    old_gamma = torch.exp(layer.get_parameter("gamma_log").detach())[:, None]
    plan = Plan(edits=[Project(state_axis(FIRST), 3, [projection], "transport")])
    unscaled = projection.reduce_input(layer.systems()[0].B)
    surgery.apply_plan(model, optimizer, plan)
    new = {n: model.get_parameter(f"{FIRST}.{n}").detach().requires_grad_() for n in ("B_re", "B_im")}
    new_gamma = torch.exp(model.get_parameter(f"{FIRST}.gamma_log").detach())[:, None]
    # The layer chose the sizes of the new states: read them off.
    scale = (new_gamma * torch.complex(new["B_re"], new["B_im"]).detach() / unscaled)[:, :1]
    B = new_gamma * torch.complex(new["B_re"], new["B_im"]) / scale
    old_B = (projection.lift @ B + projection.lift_conj @ B.conj()) / old_gamma
    moment = torch.complex(before[f"{FIRST}.B_re"]["exp_avg"], before[f"{FIRST}.B_im"]["exp_avg"])
    pairing = (old_B.real * moment.real + old_B.imag * moment.imag).sum()
    expected = torch.autograd.grad(pairing, [new["B_re"], new["B_im"]])
    after = state_of(model, optimizer)
    for name, gradient in zip(("B_re", "B_im"), expected, strict=True):
        torch.testing.assert_close(after[f"{FIRST}.{name}"]["exp_avg"], gradient, rtol=1e-9, atol=1e-14)


def test_a_cut_without_an_optimizer() -> None:
    model = small_model()
    surgery.apply_plan(model, None, cut(model, 4))
    assert surgery.orders(model)[FIRST] == 4


def test_a_cut_before_the_first_step_has_no_moments_to_carry() -> None:
    model = small_model()
    optimizer = build_optimizer(model, TrainConfig(steps=10))
    surgery.apply_plan(model, optimizer, cut(model, 4, "transport"))
    take_steps(model, optimizer, 1)
    assert surgery.orders(model)[FIRST] == 4


def test_a_truncation_that_is_not_finite_is_refused_and_changes_nothing() -> None:
    model, optimizer = trained()
    plan = cut(model, 4)
    (bad,) = projections(state_space_layers(model)[SECOND], 4)
    bad.poles[0] = torch.nan
    plan.edits.append(Project(state_axis(SECOND), 4, [bad]))
    weights, states = copy.deepcopy(model.state_dict()), state_of(model, optimizer)
    with pytest.raises(ValueError, match=r"blocks\.1\.layer: not finite after the truncation"):
        surgery.apply_plan(model, optimizer, plan)
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    after = state_of(model, optimizer)
    assert all(same_state(after[name], states[name]) for name in states)


Values = dict[str, Tensor]
UNFIT: dict[str, tuple[Callable[[Values], Any], str]] = {
    "another shape": (lambda v: {**v, "theta": torch.zeros(99)}, r"theta is a tensor of the shape \(4,\)"),
    "another name": (lambda v: {**v, "nope": torch.zeros(4)}, "not of .*nope"),
    "one less": (lambda v: {n: t for n, t in v.items() if n != "theta"}, "are those of .*theta, not of"),
    "no tensor": (lambda v: {**v, "theta": [0.0] * 4}, "theta is a tensor .* not list"),
    "whole numbers": (lambda v: {**v, "theta": torch.zeros(4).long()}, "theta is of a floating point type"),
    "complex": (lambda v: {**v, "theta": torch.zeros(4) * 1j}, "theta is of a floating point type"),
    "not finite": (lambda v: {**v, "theta": torch.full((4,), torch.nan)}, "not finite"),
    "no values": (lambda v: list(v), "the values are those of"),
}


@pytest.mark.parametrize("case", UNFIT)
@pytest.mark.parametrize("by", ["projections", "slots"])
def test_values_that_do_not_fit_the_layer_are_refused(case: str, by: str) -> None:
    change, message = UNFIT[case]
    model, optimizer = trained()
    layer = state_space_layers(model)[FIRST]
    parts = projections(layer, 4)
    values = layer.reduced_parameters(parts)
    given = parts if by == "projections" else None
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message):
        surgery.apply_edits(model, optimizer, [Project(state_axis(FIRST), 4, given, values=change(values))])
    assert all(torch.equal(model.state_dict()[name], weights[name]) for name in weights)
    surgery.apply_edits(model, optimizer, [Project(state_axis(FIRST), 4, given, values=values)])
    take_steps(model, optimizer, 1)
    assert surgery.orders(model)[FIRST] == 4


@pytest.mark.parametrize("kind", ["s4d", "s5", "lru", "gla", "mamba", "mamba2"])
def test_values_of_the_order_are_those_that_a_cut_by_index_leaves(kind: str) -> None:
    """Without projections, shapes are told by where single states lie."""
    model, cut_one = small_model(kind, width=4), small_model(kind, width=4)
    surgery.apply_edits(cut_one, None, [Keep(state_axis(FIRST), [0, 1, 2, 3])])
    layer = state_space_layers(cut_one)[FIRST]
    values = {s.tensor: layer.get_parameter(s.tensor).detach() for s in layer.state_slots()}
    full = {name: state_space_layers(model)[FIRST].get_parameter(name).detach() for name in values}
    with pytest.raises(ValueError, match="is a tensor of the shape"):
        surgery.apply_edits(model, None, [Project(state_axis(FIRST), 4, None, values=full)])
    surgery.apply_edits(model, None, [Project(state_axis(FIRST), 4, None, values=values)])
    assert surgery.orders(model) == {FIRST: 4, SECOND: ORDER}
    shapes = {name: value.shape for name, value in cut_one.named_parameters()}
    assert {name: value.shape for name, value in model.named_parameters()} == shapes


def test_a_projection_of_another_order_is_refused() -> None:
    model, optimizer = trained()
    axis, parts = state_axis(FIRST), projections(state_space_layers(model)[FIRST], 4)
    for edit, message in (
        (Project(axis, 3, parts), "are of the order 4, not 3"),
        (Project(axis, 3, 7), "are of the order None, not 3"),
        (Project(axis, 0, parts), "a whole number from 1 to 6, not 0"),
        (Project(axis, 7, parts), "a whole number from 1 to 6, not 7"),
        (Project(axis, 4.0, parts), "a whole number from 1 to 6, not 4.0"),  # type: ignore[arg-type]
        (Project(axis, 4, None), "without projections there are no new states"),
    ):
        with pytest.raises(ValueError, match=message):
            surgery.apply_edits(model, optimizer, [edit])
    assert surgery.orders(model)[FIRST] == ORDER


def test_a_mask_holds_entries_at_zero_until_it_is_lifted() -> None:
    model, optimizer = trained()
    name = f"{FIRST}.B_re"
    keep = torch.ones(ORDER, 1, dtype=torch.bool)
    keep[1] = False
    others = {n: p.detach().clone() for n, p in model.named_parameters() if n != name}
    surgery.apply_plan(model, optimizer, Plan(edits=[MaskEntries(name, keep)]))
    assert all(torch.equal(model.get_parameter(n), value) for n, value in others.items())
    for _ in range(3):
        held = model.get_parameter(name)
        assert not bool(held[1].any())
        assert bool((held[keep[:, 0]] != 0).all())
        take_steps(model, optimizer, 1)
    surgery.apply_plan(model, optimizer, Plan(edits=[MaskEntries(name, torch.tensor(True))]))
    assert masks_of(model) == {}
    take_steps(model, optimizer, 1)
    assert bool(model.get_parameter(name)[1].any())


def test_a_cut_lifts_the_masks_of_what_it_replaces() -> None:
    model, optimizer = trained()
    masks: list[Any] = [MaskEntries(f"{layer}.C_re", torch.arange(ORDER) < 3) for layer in (FIRST, SECOND)]
    surgery.apply_plan(model, optimizer, Plan(edits=masks))
    surgery.apply_plan(model, optimizer, cut(model, 4))
    assert list(masks_of(model)) == [f"{SECOND}.C_re"]


def test_frozen_parameters_stay_until_they_are_thawed() -> None:
    model, optimizer = trained()
    names = [f"{FIRST}.B_re", "head.weight"]
    surgery.apply_plan(model, optimizer, Plan(edits=[Train(names, active=False)]))
    assert surgery.frozen(model) == names
    before = {name: model.get_parameter(name).detach().clone() for name in names}
    take_steps(model, optimizer, 2)
    assert all(torch.equal(model.get_parameter(name), value) for name, value in before.items())
    surgery.apply_plan(model, optimizer, Plan(edits=[Train(names, active=True)]))
    assert surgery.frozen(model) == []
    take_steps(model, optimizer, 1)
    assert not any(torch.equal(model.get_parameter(name), value) for name, value in before.items())


@pytest.mark.parametrize("kind", TIME_INVARIANT)
def test_resize_prepares_a_model_for_a_saved_state(kind: str) -> None:
    smaller, optimizer = trained(kind)
    surgery.apply_plan(smaller, optimizer, cut(smaller, 4))
    model, fresh = trained(kind)
    groups = names_in_groups(model, fresh)
    surgery.resize(model, fresh, smaller.state_dict())
    model.load_state_dict(smaller.state_dict())
    assert names_in_groups(model, fresh) == groups
    assert torch.equal(loss_of(model), loss_of(smaller))


def test_constraints_are_restored() -> None:
    model, optimizer = trained()
    name = f"{SECOND}.C_im"
    edits = [MaskEntries(name, torch.arange(ORDER) < 2), Train(["encoder.bias"], active=False)]
    surgery.apply_plan(model, optimizer, Plan(edits=edits))
    masks, frozen = masks_of(model), surgery.frozen(model)
    other, _ = trained()
    surgery.restore_constraints(other, masks, frozen)
    assert surgery.frozen(other) == ["encoder.bias"]
    enforce_masks(other)
    assert not bool(other.get_parameter(name)[:, 2:].any())
    surgery.restore_constraints(other, {}, [])
    assert masks_of(other) == {}
    assert surgery.frozen(other) == []
