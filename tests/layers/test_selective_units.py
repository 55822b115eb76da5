"""Channels, heads and single states of selective layers: a layer without them is one in which they are silent."""

from pathlib import Path
from typing import Any

import pytest
import torch
from cut_units import (
    assert_cut_is_silence,
    assert_surgery_follows,
    axes_of,
    is_heard,
    numbers,
    randomized,
    removals,
)
from hypothesis import given, settings
from torch import nn

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.exchange import export
from compressm_cli.layers import LAYERS
from compressm_cli.layers.gla import GLA
from compressm_cli.layers.mamba2 import Mamba2
from compressm_cli.layers.selective import GroupProjection
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.structure.edits import Edit, Keep, Park, Wake
from compressm_cli.structure.modules import Insert
from compressm_cli.structure.projection import Project
from compressm_cli.structure.surgery import apply_edits, sizes

CASES: dict[str, tuple[int, int, dict[str, Any]]] = {
    "mamba": (3, 5, {"kind": "mamba", "dt_rank": 2}),
    "mamba2": (9, 5, {"kind": "mamba2", "head_dim": 3, "expand": 1}),
    "mamba2 groups": (9, 3, {"kind": "mamba2", "head_dim": 3, "groups": 2}),
    "mamba2 norm of pairs of heads": (6, 3, {"kind": "mamba2", "head_dim": 2, "groups": 3, "norm_groups": 1}),
    "mamba2 norm of each head": (10, 3, {"kind": "mamba2", "head_dim": 5, "norm_groups": 4}),
    "mamba2 norm of half a head": (6, 3, {"kind": "mamba2", "head_dim": 6, "norm_groups": 4}),
    "gla": (6, 5, {"kind": "gla", "heads": 2, "gate_rank": 3}),
    "gla scalar": (9, 7, {"kind": "gla", "heads": 3, "gate_rank": 2, "decay": "scalar"}),
}
"""Width, states, settings."""


def build(case: str) -> nn.Module:
    width, order, layer = CASES[case]
    kind = LAYERS[layer["kind"]]
    torch.manual_seed(2)
    return randomized(kind(kind.Config(**layer), width, order))


def inputs(case: str) -> torch.Tensor:
    return numbers(2, 11, CASES[case][0])


@pytest.mark.parametrize("case", CASES)
def test_any_units_may_leave_at_once(case: str) -> None:
    layer, x = build(case), inputs(case)

    @settings(max_examples=8, deadline=None)
    @given(removals(layer))
    def check(removed: dict[str, list[int]]) -> None:
        assert_cut_is_silence(layer, removed, x)

    check()


@pytest.mark.parametrize("case", CASES)
def test_plans_cut_park_and_wake_units(case: str) -> None:
    layer = build(case)
    removed = {name: [0, axis.size - 1][: axis.size - 1] for name, axis in axes_of(layer).items()}
    for name, units in removed.items():
        assert not units or is_heard(layer, {name: units}, inputs(case))
    assert_surgery_follows(layer, removed, inputs(case))


def test_axes_are_those_that_heads_and_norms_allow() -> None:
    found = {case: {name: axis.size for name, axis in axes_of(build(case)).items()} for case in CASES}
    assert found["mamba"] == {":states": 5, ":channels": 6}
    assert found["mamba2"] == {":states": 5, ":heads": 3, ":channels": 3}
    assert found["mamba2 groups"] == {":states": 3, ":heads": 3, ":channels": 3}
    assert found["mamba2 norm of pairs of heads"] == {":states": 3, ":heads": 2, ":channels": 2}
    # A head is a part that the norm scales: without it there would be another number of parts.
    assert found["mamba2 norm of each head"] == {":states": 3, ":heads": 1, ":channels": 5}
    assert found["mamba2 norm of half a head"] == {":states": 3, ":channels": 3}
    assert found["gla"] == {":states": 5}


def test_means_and_roots_stay_those_of_all_units_until_these_are_back() -> None:
    mamba, gla = build("mamba2"), build("gla")
    assert isinstance(mamba, Mamba2)
    assert isinstance(gla, GLA)
    assert mamba.norm.divisor is None
    for axis, unit in ((":heads", 1), (":channels", 2)):
        apply_edits(mamba, None, [Park(axis, [unit])])
        assert mamba.norm.divisor == torch.tensor(9)
        apply_edits(mamba, None, [Wake(axis, [unit])])
        assert mamba.norm.divisor is None
    apply_edits(gla, None, [Park(":states", [1])])
    apply_edits(gla, None, [Park(":states", [0])])
    assert gla.divisor == torch.tensor(5)
    apply_edits(gla, None, [Wake(":states", [1])])
    assert gla.divisor == torch.tensor(5)
    apply_edits(gla, None, [Wake(":states", [0])])
    assert gla.divisor is None


@pytest.mark.parametrize(
    ("case", "axis"),
    [("mamba2 groups", ":heads"), ("mamba2", ":channels"), ("gla", ":states"), ("mamba", ":channels")],
)
def test_training_without_parked_units_is_training_with_them_silent(case: str, axis: str) -> None:
    """The full layer with zeros where they write, and all their entries kept from the optimizer."""
    layer, twin = build(case), build(case)
    optimizer, others = (torch.optim.AdamW(m.parameters(), lr=1e-2, weight_decay=0.1) for m in (layer, twin))

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for seed in range(steps):
            optimizer.zero_grad()
            model(numbers(2, 11, CASES[case][0], seed=seed)).sin().mean().backward()
            optimizer.step()
            for tensor, dim, place, values, _ in held:
                tensor.detach().index_copy_(dim, place, values)

    held: list[tuple[torch.Tensor, int, torch.Tensor, torch.Tensor, torch.Tensor]] = []
    train(layer, optimizer, 2)
    train(twin, others, 2)
    for slot in axes_of(twin)[axis].slots:
        p, place = twin.get_parameter(slot.tensor), slot.entries(torch.tensor([1]))
        for tensor in (p, others.state[p]["exp_avg"], others.state[p]["exp_avg_sq"]):
            values = tensor.detach().index_select(slot.dim, place).clone()
            silent = tensor is p and slot.role == "out"
            held.append((tensor, slot.dim, place, torch.zeros_like(values) if silent else values, values))
    for tensor, dim, place, values, _ in held:
        tensor.detach().index_copy_(dim, place, values)
    apply_edits(layer, optimizer, [Park(axis, [1])])
    train(twin, others, 4)
    held, restored = [], held
    train(layer, optimizer, 4)
    apply_edits(layer, optimizer, [Wake(axis, [1])])
    for tensor, dim, place, _, values in restored:
        tensor.detach().index_copy_(dim, place, values)
    for (name, p), q in zip(layer.named_parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=0, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        for key in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[p][key], others.state[q][key], rtol=0, atol=1e-12)


@pytest.mark.parametrize("moments", ["transport", "slice", "reset"])
def test_a_projection_after_a_cut_by_index_divides_by_the_same_root(moments: Any) -> None:
    """Onto coordinates: the same as if they had been kept by index."""
    one, other = build("gla scalar"), build("gla scalar")
    u = inputs("gla scalar")
    for layer in (one, other):
        apply_edits(layer, None, [Keep(":states", [0, 2, 3, 5])])
    coordinates = torch.eye(4, dtype=torch.float64)[[0, 3]].expand(3, -1, -1)
    projection = GroupProjection(coordinates, coordinates)
    apply_edits(one, torch.optim.AdamW(one.parameters()), [Project(":states", 2, projection, moments)])
    apply_edits(other, None, [Keep(":states", [0, 3])])
    torch.testing.assert_close(one(u), other(u), rtol=0, atol=1e-12)


def recipe(layer: dict[str, Any]) -> Recipe:
    return recipe_from_mapping(
        {
            "name": "units",
            "data": {"task": "tokens", "vocabulary": 11, "length": 9},
            "model": {"layer": layer, "model_dim": 8, "depth": 2, "norm": "rms", "final_norm": True},
            "train": {"steps": 1},
            "compression": {"method": "none"},
        },
        "test",
    )


EDITS: dict[str, tuple[dict[str, Any], list[Edit]]] = {
    "mamba2": (
        {"kind": "mamba2", "state_dim": 5, "head_dim": 4},
        [Keep("blocks.1.layer:heads", [0, 2, 3]), Park("blocks.0.layer:channels", [1])],
    ),
    "gla": (
        {"kind": "gla", "state_dim": 5, "heads": 2},
        [Keep("blocks.1.layer:states", [0, 3]), Park("blocks.0.layer:states", [1])],
    ),
    "mamba": ({"kind": "mamba", "state_dim": 5}, [Keep("blocks.1.layer:channels", [0, 3, 4])]),
}


@pytest.mark.parametrize("kind", EDITS)
def test_a_checkpoint_knows_what_sums_are_divided_by(kind: str, tmp_path: Path) -> None:
    layer, edits = EDITS[kind]
    made = recipe(layer)
    torch.manual_seed(1)
    model = build_model(made.model, made.data.spec())
    apply_edits(model, None, edits)
    Checkpoint.of(model, made, made.data.spec(), 0).save(tmp_path / "cut.pt")
    again = Checkpoint.load(tmp_path / "cut.pt").build_model()
    tokens = torch.arange(18).view(2, 9) % 11
    assert sizes(again) == sizes(model)
    assert torch.equal(again(tokens), model(tokens))
    for edit in edits:
        if isinstance(edit, Park):
            for m in (again, model):
                apply_edits(m, None, [Wake(edit.axis, edit.units)])
            assert again.state_dict().keys() == model.state_dict().keys()
            assert torch.equal(again(tokens), model(tokens))


def test_a_divisor_that_is_none_of_the_models_is_refused(tmp_path: Path) -> None:
    made = recipe(EDITS["mamba2"][0])
    model = build_model(made.model, made.data.spec())
    apply_edits(model, None, [Keep("blocks.1.layer:heads", [0, 2, 3])])
    for wrong in (0, 11, 2**40):
        saved = Checkpoint.of(model, made, made.data.spec(), 0)
        saved.weights["blocks.1.layer.norm.divisor"] = torch.tensor(wrong)
        saved.save(tmp_path / "cut.pt")
        with pytest.raises(
            BadInputError, match=r"damaged checkpoint: blocks.1.layer.norm.divisor must be from 12"
        ):
            Checkpoint.load(tmp_path / "cut.pt")


@pytest.mark.parametrize("kind", ["mamba", "mamba2"])
@pytest.mark.parametrize("target", ["hf", "hf-ragged", "mamba-ssm"])
def test_a_format_that_cannot_tell_of_a_cut_is_refused(kind: str, target: Any, tmp_path: Path) -> None:
    layer, edits = EDITS[kind]
    made = recipe(layer)
    model = build_model(made.model, made.data.spec())
    apply_edits(model, None, edits[:1])
    axis = getattr(edits[0], "axis", "")
    with pytest.raises(BadInputError, match=f"of {axis} 3 of .* are left.*; use --to safetensors"):
        export(Checkpoint.of(model, made, made.data.spec(), 0), target, tmp_path / "out")
    apply_edits(model, None, [Keep("blocks.0:sublayer", [])])
    with pytest.raises(BadInputError, match=r"of blocks.0:sublayer 0 of 1 are left"):
        export(Checkpoint.of(model, made, made.data.spec(), 0), target, tmp_path / "out")
    apply_edits(model, None, [Insert("blocks", 2)])
    with pytest.raises(BadInputError, match="it has grown by 1 blocks; use --to safetensors"):
        export(Checkpoint.of(model, made, made.data.spec(), 0), target, tmp_path / "out")
