"""A compressor refuses what it cannot use, and cuts a model and its copies together or not at all."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW, Optimizer
from torch.optim.swa_utils import AveragedModel

import compressm
from compressm_cli.layers import LRU, FeedForward, LRUConfig, Residual
from compressm_cli.methods.method import CheckContext, Method, SetupContext, StepContext
from compressm_cli.methods.none import NoCompressionConfig
from compressm_cli.structure.edits import Edit, Keep, MaskEntries, Park
from compressm_cli.structure.modules import Insert, Replace
from compressm_cli.structure.plan import Plan, UnitRecord


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(nn.LayerNorm(4), FeedForward(4, 6)) for _ in range(2))
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


NEURONS = "blocks.0.inner:neurons"
CUT = Keep(NEURONS, [0, 4])


class Planned(Method):
    """Plans at step 1 what it was given, counts its checks, and has a parameter of its own."""

    Config = NoCompressionConfig

    def __init__(self, *edits: Edit) -> None:
        super().__init__(NoCompressionConfig())
        self.edits, self.checks = list(edits), torch.zeros(1)

    def setup(self, model: nn.Module, structure: compressm.StructureMap, context: SetupContext) -> None:
        self.gates = nn.Parameter(torch.ones(3))

    def parameter_groups(self) -> list[dict[str, Any]]:
        return [{"params": [self.gates]}]

    def check_steps(self, total: int) -> list[int]:
        return [1]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        self.checks += 1
        return Plan(self.edits, [UnitRecord("all", "edits", 1, 0, "planned")])

    def state_dict(self) -> dict[str, Any]:
        return {"checks": self.checks}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.checks = state["checks"]


def net() -> Net:
    torch.manual_seed(0)
    return Net()


def compressor_of(model: nn.Module, *edits: Edit, **how: Any) -> tuple[compressm.Compressor, Optimizer]:
    optimizer = AdamW(model.parameters(), lr=1e-2)
    return compressm.Compressor(model, optimizer, Planned(*edits), total_steps=5, **how), optimizer


def one_step(compressor: compressm.Compressor, optimizer: Optimizer) -> compressm.Change:
    x = torch.randn(5, 2, 4, generator=torch.Generator().manual_seed(1))
    (compressor.model(x) - x).square().mean().backward()
    compressor.after_backward()
    optimizer.step()
    optimizer.zero_grad()
    return compressor.after_step()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": len}, "model: builtin_function_or_method is no torch.nn.Module"),
        ({"method": "hankel"}, "method: 'hankel' is no method and no mapping of settings; write such as"),
        ({"method": None}, "method: None is no method"),
        ({"total_steps": 0}, "total_steps: 0 is not how many steps the loop makes; write at least 1"),
        ({"total_steps": 10.5}, "total_steps: 10.5 is not"),
        ({"total_steps": "10"}, "total_steps: '10' is not"),
        ({"length": 2.5}, "length: 2.5 is not the steps of the longest sequence"),
        ({"length": True}, "length: True is not"),
        ({"seed": "a"}, "seed: 'a' is not"),
        ({"optimizer": "adam"}, r"optimizer: str is no torch\.optim\.Optimizer"),
        ({"optimizer": AdamW(Net().parameters())}, "optimizer: it has none of the model's parameters"),
        ({"copies": Net()}, r"copies: Net is no list of modules; write copies=\[average\.module\]"),
        ({"copies": [None]}, r"copies\[0\]: None is no module"),
        (
            {"copies": [AveragedModel(Net())]},
            r"copies\[0\]: AveragedModel has none of .*; give what is within",
        ),
        (
            {"copies": [Net(), nn.Linear(4, 4)]},
            r"copies\[1\]: Linear has none of the model's axes; it has none",
        ),
    ],
)
def test_what_cannot_be_used_is_refused_at_once(given: dict[str, Any], message: str) -> None:
    model = net()
    known = {"model": model, "optimizer": AdamW(model.parameters()), "method": Planned(), "total_steps": 5}
    with pytest.raises(ValueError, match=message) as caught:
        compressm.Compressor(**{**known, **given})
    assert "\n" not in str(caught.value)


def test_the_model_is_no_copy_of_itself() -> None:
    model = net()
    with pytest.raises(ValueError, match=r"copies\[0\]: it is the model itself"):
        compressor_of(model, copies=[model])
    twin = net()
    with pytest.raises(ValueError, match=r"copies\[1\]: it is the model itself, or there twice"):
        compressor_of(model, copies=[twin, twin])


class Spoiled(nn.Linear):
    """Fails where it has come to be in a copy."""

    def axes(self) -> list[Any]:
        if MADE.index(self):
            raise KeyError("spoiled")
        return []


MADE: list[nn.Module] = []
"""What an edit built, first for the model."""


def spoiled(_: nn.Module) -> nn.Module:
    MADE.append(Spoiled(4, 4))
    return MADE[-1]


def shared(_: nn.Module) -> nn.Module:
    MADE.append(MADE[0] if MADE else nn.Linear(4, 4))
    return MADE[-1]


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ([CUT], r"copies\[0\]: blocks.0.inner:neurons: has the units 0 to 1"),
        (
            [MaskEntries("blocks.0.inner.up.bias", torch.arange(6) > 0)],
            r"copies\[0\]: .* the mask has the shape",
        ),
        ([Replace("head", spoiled), MaskEntries("blocks.1.inner.up.bias", torch.arange(6) > 3)], "spoiled"),
        ([Replace("head", shared)], "an edit builds the same module for the model and for a copy"),
    ],
    ids=["another axis", "another shape", "in the end", "the same module"],
)
def test_a_copy_that_cannot_be_cut_leaves_the_model_as_it_is(edits: list[Edit], message: str) -> None:
    MADE.clear()
    model, twin = net(), net()
    compressm.apply_edits(twin, None, [Keep(NEURONS, [1, 2])])
    before = [(p, p.detach().clone()) for m in (model, twin) for p in m.parameters()]
    with pytest.raises((ValueError, KeyError), match=message):
        compressm.apply_edits(model, AdamW(model.parameters()), edits, [twin])
    after = [p for m in (model, twin) for p in m.parameters()]
    assert all(p is old and torch.equal(p, value) for p, (old, value) in zip(after, before, strict=True))


def test_what_is_built_for_a_copy_has_the_same_weights() -> None:
    def block() -> nn.Module:
        return Residual(nn.LayerNorm(4), FeedForward(4, 5))

    model = net()
    average = AveragedModel(model)
    edits = [Insert("blocks", 1, block), Replace("head", lambda _: nn.Linear(4, 4))]
    compressor, optimizer = compressor_of(model, *edits, copies=[average.module])
    one_step(compressor, optimizer)
    one, other = (m.state_dict() for m in (model, average.module))
    assert one.keys() == other.keys()
    for name in ("blocks.1.inner.up.weight", "head.weight"):
        assert torch.equal(one[name], other[name])
        assert model.get_parameter(name) is not average.module.get_parameter(name)


STATES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no state": (lambda _: [1], "the state must be what state_dict"),
    "of a model": (lambda _: net().state_dict(), "the state has no 'step': it is not what"),
    "without random numbers": (
        lambda s: {k: v for k, v in s.items() if k != "generator"},
        "the state has no 'generator'",
    ),
    "step in words": (lambda s: {**s, "step": "x"}, "step must be a count of steps, found the text"),
    "step before the first": (lambda s: {**s, "step": -4}, "step must be a count of steps"),
    "other random numbers": (lambda s: {**s, "generator": torch.zeros(3)}, "generator must be the state of"),
    "one for three": (
        lambda s: {**s, "parameters": [torch.ones(1)]},
        r"parameters must be tensors of the shapes \[\(3,\)\]",
    ),
    "no parameters": (lambda s: {k: v for k, v in s.items() if k != "parameters"}, "parameters must be"),
    "of another method": (lambda s: {**s, "method": 3}, "method must be a mapping"),
    "nothing parked so": (lambda s: {**s, "parked": {"axes": 3}}, "parked must be what is parked"),
    "masks in a list": (lambda s: {**s, "masks": [1]}, "masks must be a mapping"),
    "nothing of what is frozen": (
        lambda s: {k: v for k, v in s.items() if k != "frozen"},
        "frozen is missing",
    ),
    "parked at another size": (
        lambda s: {**s, "parked": parked_of_less()},
        r"parked: blocks.0.inner.up.weight had the shape \(2, 4\), and the model has \(6, 4\); bring it",
    ),
}


def parked_of_less() -> Any:
    model = net()
    compressm.apply_edits(model, None, [Keep(NEURONS, [0, 1, 2])])
    compressm.apply_edits(model, None, [Park(NEURONS, [0])])
    return compressor_of(model)[0].state_dict()["parked"]


@pytest.mark.parametrize("case", STATES)
def test_a_state_of_something_else_is_refused_with_nothing_changed(case: str) -> None:
    change, message = STATES[case]
    compressor, _ = compressor_of(net(), CUT)
    saved = compressor.state_dict()
    method = compressor.method
    assert isinstance(method, Planned)
    checks = method.checks
    with pytest.raises(ValueError, match=message) as caught:
        compressor.load_state_dict(change({**saved, "step": 3}))
    assert "\n" not in str(caught.value)
    assert compressor.step == 0
    assert method.checks is checks
    assert method.gates.tolist() == [1.0, 1.0, 1.0]


def test_a_state_is_that_of_the_moment() -> None:
    """Nothing that the method changes later is seen in it, nor in the state that another one was loaded from."""
    compressor, optimizer = compressor_of(net(), CUT)
    saved = compressor.state_dict()
    one_step(compressor, optimizer)
    assert saved["method"]["checks"].tolist() == [0.0]
    again, other = compressor_of(net(), CUT)
    again.load_state_dict(saved)
    one_step(again, other)
    assert saved["method"]["checks"].tolist() == [0.0]


class Rubbish(Planned):
    def __init__(self, plan: Any) -> None:
        super().__init__()
        self.wanted = plan

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return self.wanted  # type: ignore[no-any-return]

    def after_step(self, step: StepContext) -> Plan | None:
        return self.wanted if step.step == 2 else None


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize(
    "plan",
    [Plan(CUT), Plan([CUT], None), Plan([CUT], [5])],
    ids=["an edit", "no records", "no record"],  # type: ignore[arg-type, list-item]
)
def test_a_plan_of_something_else_is_the_methods_fault(plan: Plan, step: int) -> None:
    model = net()
    optimizer = AdamW(model.parameters())
    compressor = compressm.Compressor(model, optimizer, Rubbish(plan), total_steps=5)
    compressor.step = step - 1
    with pytest.raises(
        ValueError, match=r"none: (plan|after_step): returned .* must be a Plan .*with a list of edits"
    ):
        one_step(compressor, optimizer)
    assert model.blocks[0].inner.up.weight.shape == (6, 4)  # type: ignore[union-attr]


def shared_readout() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(*(LRU(LRUConfig(), 4, 8) for _ in range(2)))
    model[1].C_re = model[0].C_re
    return model


def test_a_plan_that_cannot_be_carried_out_ends_no_loop() -> None:
    """It is recorded as refused, and the loop goes on with the model as it was."""
    model = shared_readout()
    optimizer = AdamW(model.parameters())
    settings = {"method": "hankel", "keep_fraction": 0.5, "schedule": {"kind": "listed", "at_steps": [1]}}
    compressor = compressm.Compressor(
        model, optimizer, settings, total_steps=2, calibration=[torch.randn(2, 6, 4)]
    )
    with pytest.warns(UserWarning, match="what Hankel wanted after step 1 cannot be done") as told:
        change = one_step(compressor, optimizer)
    assert told[0].filename == __file__
    assert not change
    assert "would both change" in (change.refused or "")
    assert [(r.before, r.after) for r in change.records] == [(8, 8)] * 2
    assert all(r.reason.startswith("nothing cut: refused: ") for r in change.records)
    assert not one_step(compressor, optimizer)
    with pytest.warns(UserWarning, match="cannot be done"):
        records = compressm.compress(shared_readout(), settings, calibration=[torch.randn(2, 6, 4)])
    assert all("refused" in r.reason for r in records)


class Wanting(Planned):
    """Asks for the cut right after each step, and remembers what came of it."""

    def __init__(self, *edits: Edit) -> None:
        super().__init__(*edits)
        self.told: list[str] = []

    def after_step(self, step: StepContext) -> Plan | None:
        return Plan(self.edits)

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        return Plan(self.edits)

    def accepted(self, records: list[UnitRecord]) -> None:
        self.told.append("accepted")

    def refused(self, records: list[UnitRecord], why: str) -> None:
        self.told.append(why)


def test_a_refused_plan_is_told_to_its_method_alone() -> None:
    model, method = net(), Wanting(Keep(NEURONS, [9]))
    optimizer = AdamW(model.parameters())
    compressor = compressm.Compressor(model, optimizer, method, total_steps=5)
    with pytest.warns(UserWarning, match="what Wanting wanted after step 1 cannot be done"):
        assert not one_step(compressor, optimizer)
    assert [why.startswith(NEURONS) for why in method.told] == [True, True]


def test_the_exchange_of_gradients_stays_that_of_the_wrapper(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        seen: list[int] = []

        def counting(state: Any, bucket: GradBucket) -> torch.futures.Future[Tensor]:
            seen.append(bucket.index())
            return allreduce_hook(state, bucket)

        wrapped = DistributedDataParallel(net(), bucket_cap_mb=3)
        wrapped.register_comm_hook(None, counting)
        compressor, optimizer = compressor_of(wrapped, CUT)
        one_step(compressor, optimizer)
        assert compressor.model is not wrapped
        seen.clear()
        one_step(compressor, optimizer)
        assert seen
        assert compressor.model.bucket_bytes_cap == wrapped.bucket_bytes_cap
        wrapped = DistributedDataParallel(copy.deepcopy(net()))
        wrapped.register_comm_hook(object(), lambda _, bucket: allreduce_hook(None, bucket))
        compressor, optimizer = compressor_of(wrapped, CUT)
        with pytest.warns(
            UserWarning, match=r"exchanges no gradients any more: its object .* on compressor\.model"
        ):
            one_step(compressor, optimizer)
    finally:
        torch.distributed.destroy_process_group()


def test_parameters_of_a_method_are_trained_or_refused() -> None:
    with pytest.raises(
        ValueError, match="optimizer: Planned has parameters of its own, which are to be trained"
    ):
        compressm.Compressor(net(), None, Planned(), total_steps=5)


def test_two_compressors_of_one_optimizer_have_their_own_parameters() -> None:
    model = net()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    one, other = (compressm.Compressor(model, optimizer, Planned(), total_steps=5) for _ in range(2))
    with torch.no_grad():
        one.method.gates.fill_(2.0)  # type: ignore[attr-defined]
    saved = one.state_dict()
    assert [p.tolist() for p in saved["parameters"]] == [[2.0, 2.0, 2.0]]
    other.load_state_dict(saved)
    assert other.method.gates.tolist() == [2.0, 2.0, 2.0]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (
            (torch.ones(2, 5, 3), torch.ones(2)),
            "the 2 arguments of a batch: TypeError: .*; give batches of what",
        ),
        ({"x": torch.ones(2, 5, 3)}, "a mapping.* of a batch: .*, without labels"),
        (torch.ones(2, 5, 7), r"a tensor float32 of the shape \(2, 5, 7\) of a batch: RuntimeError"),
    ],
    ids=["with labels", "by names", "too wide"],
)
def test_a_batch_that_the_model_cannot_be_called_with_is_nobody_elses_fault(batch: Any, message: str) -> None:
    model = nn.Sequential(LRU(LRUConfig(), 3, 4))
    with pytest.raises(
        ValueError, match=f"^calibration: the model cannot be called with {message}"
    ) as caught:
        compressm.compress(model, {"method": "hankel", "keep_fraction": 0.5}, calibration=[batch])
    assert "\n" not in str(caught.value)
    assert model.training


def test_edits_that_can_be_gone_through_once_reach_the_copies() -> None:
    model, twin = net(), net()
    compressm.apply_edits(model, None, (edit for edit in [CUT]), [twin])
    assert compressm.StructureMap.of(model).sizes() == compressm.StructureMap.of(twin).sizes()
    assert compressm.StructureMap.of(twin)[NEURONS].size == 2


@pytest.mark.parametrize("edits", [None, CUT, Plan([CUT])], ids=["nothing", "an edit", "a plan"])
def test_edits_that_are_no_list_are_refused(edits: Any) -> None:
    with pytest.raises(ValueError, match=r"edits are a list, such as \[Keep\(axis, units\)\]"):
        compressm.apply_edits(net(), None, edits)


def test_units_that_can_be_gone_through_once_are_refused() -> None:
    """Of tied axes the second one would keep none."""
    with pytest.raises(
        ValueError, match="list of their numbers, not a generator, which can be gone through once"
    ):
        compressm.apply_edits(net(), None, [Keep(NEURONS, (i for i in [0, 1]))])  # type: ignore[arg-type]


def test_a_structure_map_is_a_mapping() -> None:
    found = compressm.StructureMap.of(net())
    assert NEURONS in found
    assert "nothing" not in found
    assert found.get("nothing") is None
    with pytest.raises(ValueError, match=r"^the model has no axis 'nothing'; it has "):
        found["nothing"]
