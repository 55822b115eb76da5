"""Units drawn by lot, or by their weights: as many as asked for, of the kinds that are named."""

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compressm_cli.core.errors import BadInputError
from compressm_cli.layers.attention import Attention
from compressm_cli.layers.feed_forward import FeedForward
from compressm_cli.layers.gla import GLA, GLAConfig
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.layers.mamba2 import Mamba2, Mamba2Config
from compressm_cli.methods.baselines.magnitude import Magnitude, MagnitudeConfig
from compressm_cli.methods.baselines.random import Random, RandomConfig
from compressm_cli.methods.method import CheckContext
from compressm_cli.structure.edits import Keep
from compressm_cli.structure.map import StructureMap
from compressm_cli.structure.plan import Plan
from compressm_cli.structure.surgery import apply_plan


def method(**settings: Any) -> Random:
    return Random(RandomConfig.model_validate({"method": "random", **settings}))


def model() -> nn.ModuleList:
    torch.manual_seed(0)
    attention = GLA(GLAConfig(heads=4), 16, 6)
    return nn.ModuleList([LRU(LRUConfig(), 6, 10), attention])


def plan(of: Random, on: nn.Module, seed: int = 0) -> Plan:
    generator = torch.Generator().manual_seed(seed)
    return of.plan(on, CheckContext(1, 10, 20, generator, lambda *_: None))


def test_so_many_units_stay_as_are_asked_for() -> None:
    """Those with the largest scores, of each axis of the kinds that are named, and nothing of others."""
    whole = model()
    before = StructureMap.of(whole)
    made = plan(method(keep_fraction=0.5), whole)
    assert [(r.unit, r.before, r.after) for r in made.records] == [("0:states", 10, 5), ("1:states", 6, 3)]
    poles = whole[0].get_parameter("nu_log").detach().clone()
    apply_plan(whole, None, made)
    after = StructureMap.of(whole).sizes()
    assert after == {n: {"0:states": 5, "1:states": 3}.get(n, axis.size) for n, axis in before.items()}
    scores = torch.tensor(made.records[0].scores)
    kept = scores.argsort(descending=True)[:5].sort().values
    assert torch.equal(whole[0].get_parameter("nu_log"), poles[kept])


def test_the_lot_is_the_seeds() -> None:
    one, same, other = (plan(method(), model(), seed).records for seed in (1, 1, 2))
    assert one == same
    assert one[0].scores != other[0].scores


@pytest.mark.parametrize("keep", [0.01, 0.5, 0.99])
def test_every_kind_keeps_what_its_axes_ask_for(keep: float) -> None:
    torch.manual_seed(0)
    mamba = Mamba2(Mamba2Config(head_dim=4), 8, 6)
    whole = nn.ModuleList([mamba, FeedForward(8, 20), Attention(8, heads=4, kv_heads=2)])
    kinds = ["state", "head", "channel", "neuron", "kv_group", "query"]
    axes = {name: axis for name, axis in StructureMap.of(whole).items() if axis.kind in kinds}
    assert len({axis.kind for axis in axes.values()}) > 4
    made = plan(method(kinds=kinds, keep_fraction=keep), whole)
    assert {r.unit for r in made.records} <= set(axes)
    for record in made.records:
        axis = axes[record.unit]
        assert axis.minimum <= record.after <= axis.size
        assert record.after % axis.multiple_of == 0 or record.after == axis.size
        assert record.reason.startswith("cut from" if record.is_change else "nothing cut: ")
    apply_plan(whole, None, made)
    found = StructureMap.of(whole).sizes()
    assert all(found[record.unit] == record.after for record in made.records)
    for layer in whole:
        assert bool(torch.isfinite(layer(torch.randn(2, 5, 8))).all())


def test_after_a_rejection_less_is_removed_or_nothing() -> None:
    gentle, stopped = (method(safety={"on_rejection": how}, keep_fraction=0.2) for how in ("gentler", "stop"))
    removed = []
    for _ in range(4):
        made = plan(gentle, model())
        removed.append(made.records[0].before - made.records[0].after)
        gentle.rejected(made.records)
    assert removed == [8, 4, 2, 1]
    resumed = method(safety={"on_rejection": "stop"})
    stopped.rejected([])
    resumed.load_state_dict(stopped.state_dict())
    assert not plan(resumed, model())
    assert "an earlier cut was rejected" in plan(resumed, model()).records[0].reason
    for state in ({}, {"rejections": -1}, {"rejections": "x"}):
        with pytest.raises(ValueError, match="rejections must be a whole number"):
            resumed.validate(state, model())


def test_an_adaptive_schedule_has_nothing_to_wait_for() -> None:
    with pytest.raises(ValidationError, match="'equidistant', 'listed'"):
        method(schedule={"kind": "adaptive"})


def test_so_many_units_stay_as_are_listed_for_a_check() -> None:
    """By check, whatever the step; a number below what the axis allows is raised to that."""
    listed = method(units=[[8, 5], [3, 2]], schedule={"kind": "listed", "fractions": [0.2, 0.6]})
    whole = model()
    for step, sizes in ((2, [8, 5]), (6, [3, 2])):
        context = CheckContext(step, 10, 20, torch.Generator(), lambda *_: None)
        made = listed.plan(whole, context)
        assert [record.after for record in made.records] == sizes
        apply_plan(whole, None, made)
    context = CheckContext(6, 10, 20, torch.Generator(), lambda *_: None)
    assert not listed.plan(whole, context)
    wrong = method(units=[[8]], schedule={"kind": "listed", "fractions": [0.2]})
    with pytest.raises(BadInputError, match=r"compression\.units: 1 numbers are listed .* write 2"):
        wrong.plan(whole, context)


def test_units_are_listed_instead_of_a_share_and_for_each_check() -> None:
    schedule = {"kind": "listed", "fractions": [0.2, 0.6]}
    known = RandomConfig.model_validate({"method": "random", "units": [[8], [3]], "schedule": schedule})
    assert known.keep_fraction is None
    assert RandomConfig.model_validate(known.model_dump()) == known
    for wrong in ({"units": [[8]]}, {"units": [[8], [3]], "keep_fraction": 0.5}, {"keep_fraction": None}):
        with pytest.raises(ValidationError, match=r"checks|exactly one"):
            method(schedule=schedule, **wrong)


def test_the_largest_weights_stay() -> None:
    """States by what they are fed by and read by, however large poles are; neurons by their rows and columns."""
    torch.manual_seed(0)
    lru, feed = LRU(LRUConfig(), 6, 10), FeedForward(6, 8)
    with torch.no_grad():
        for name, parameter in lru.named_parameters():
            if name.startswith("B_"):
                parameter[[2, 5]] *= 100
        for parameter in feed.parameters():
            for dim, size in enumerate(parameter.shape):
                if parameter.ndim == 2 and size == 8:
                    parameter.data = parameter.data.index_fill(dim, torch.tensor([1, 7]), 9.0)
    config = MagnitudeConfig.model_validate(
        {
            "method": "magnitude",
            "kinds": ["state", "neuron"],
            "units": [[2, 2]],
            "schedule": {"kind": "equidistant", "count": 1},
        }
    )
    context = CheckContext(1, 10, 20, torch.Generator(), lambda *_: None)
    made = Magnitude(config).plan(nn.ModuleList([lru, feed]), context)
    assert [edit.units for edit in made.edits if isinstance(edit, Keep)] == [[2, 5], [1, 7]]
    assert "those with the largest weights" in made.records[0].reason
    with torch.no_grad():
        lru.get_parameter("C_re").fill_(math.nan)
    refused = Magnitude(config).plan(nn.ModuleList([lru, feed]), context)
    assert len(refused.edits) == 1
    assert refused.records[0].reason.startswith("nothing cut: ")
