"""A skeleton is built once for all that ask for the same, and no one sees what another does to it."""

import importlib
from typing import Any

import pytest
from layer_kinds import SMALL
from torch import nn

from compressm_cli.core.registry import Entry
from compressm_cli.layers import LAYERS
from compressm_cli.measure.memory import _LiveTensors
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.structure import surgery

# The module of this name: the package has a function of it.
module = importlib.import_module("compressm_cli.checkpoint.skeleton")


def recipe(kind: str, depth: int = 2) -> Recipe:
    layer = {"kind": kind, "state_dim": 6, **SMALL.get(kind, {})}
    model = {"layer": layer, "model_dim": 6, "depth": depth}
    return recipe_from_mapping(
        {"name": "s", "data": {"task": "digits"}, "model": model, "train": {"steps": 1}}, "test"
    )


def asked(made: Recipe) -> tuple[Any, ...]:
    model = build_model(made.model, made.data.spec())
    return made, made.data.spec(), surgery.sizes(model), model.state_dict()


@pytest.mark.parametrize("kind", LAYERS)
def test_it_has_the_shapes_of_the_model_and_its_own_tensors(kind: str) -> None:
    wanted = asked(recipe(kind))
    one, other = module.skeleton(*wanted), module.skeleton(*wanted)
    shapes = {name: (value.shape, value.dtype) for name, value in wanted[3].items()}
    for found in (one, other):
        assert {name: (v.shape, v.dtype) for name, v in found.state_dict().items()} == shapes
        assert all(value.is_meta for value in found.state_dict().values())
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    one.blocks[0].layer = nn.Identity()
    next(one.parameters()).requires_grad_(False)
    again = module.skeleton(*wanted)
    assert {name: (v.shape, v.dtype) for name, v in again.state_dict().items()} == shapes
    assert all(p.requires_grad for p in again.parameters())


def test_it_is_built_once_until_something_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    built = []

    def counted(*given: Any) -> nn.Module:
        built.append(given)
        return build_model(*given)

    monkeypatch.setattr(module, "build_model", counted)
    module._skeleton.cache_clear()
    first = asked(recipe("lru"))
    for _ in range(3):
        module.skeleton(*first)
    assert len(built) == 1
    module.skeleton(*asked(recipe("lru", depth=3)))
    assert len(built) == 2

    class Other(LAYERS["lru"]):  # type: ignore[misc]
        """As a plug-in that another one was put in the place of."""

    entry = Entry(Other, LAYERS.entries()["lru"].config)
    monkeypatch.setattr(LAYERS, "_entries", {**LAYERS.entries(), "lru": entry})
    assert type(module.skeleton(*first).blocks[0].layer) is Other
    assert len(built) == 3


def test_it_takes_no_memory() -> None:
    wanted = asked(recipe("lru"))
    with _LiveTensors([]) as live:
        module.skeleton(*wanted)
    assert live.peak == 0
