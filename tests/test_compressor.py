"""Compression in a training loop of one's own."""

import copy
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import StepLR
from torch.optim.swa_utils import AveragedModel

import compressm
from compressm_cli import layers
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.layers.mamba import Mamba, MambaConfig
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.methods.none import NoCompressionConfig
from compressm_cli.structure.edits import MaskEntries, Park, Train, Wake
from compressm_cli.structure.plan import Plan

STEPS = 12
HANKEL = {
    "method": "hankel",
    "keep_fraction": 0.5,
    "schedule": {"kind": "listed", "at_steps": [4, 8]},
    "moments": "slice",
}


class Own(nn.Module):
    """A network of somebody else's, with layers of ours somewhere in it."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = nn.ModuleDict({"first": LRU(LRUConfig(), 6, 16), "second": Mamba(MambaConfig(), 6, 8)})
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        for layer in self.inside.values():
            x = x + torch.tanh(layer(x))
        return self.out(x.mean(1)) * scale


def own() -> Own:
    torch.manual_seed(0)
    return Own()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(4, 20, 6, generator=generator), torch.randint(3, (4,), generator=generator)


def calibration() -> Iterable[Any]:
    return ((batch(100 + i)[0], 2.0) if i % 2 else batch(100 + i)[0] for i in range(50))


def train(compressor: compressm.Compressor, optimizer: Optimizer, steps: range) -> list[compressm.Change]:
    changes = []
    for step in steps:
        inputs, labels = batch(step)
        loss = nn.functional.cross_entropy(compressor.model(inputs), labels) + compressor.penalty()
        loss.backward()
        compressor.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        changes.append(compressor.after_step())
    return changes


OPTIMIZERS: dict[str, Any] = {
    "adamw": lambda p: AdamW(p, lr=1e-2),
    "sgd": lambda p: SGD(p, lr=1e-2, momentum=0.9),
    "rmsprop": lambda p: RMSprop(p, lr=1e-3, momentum=0.5),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_loop_of_ones_own_makes_its_model_smaller(name: str) -> None:
    """With its schedule of learning rates, and a moving average of the weights that is cut alike."""
    model = own()
    optimizer = OPTIMIZERS[name](model.parameters())
    schedule, average = StepLR(optimizer, 5), AveragedModel(model)
    compressor = compressm.Compressor(
        model, optimizer, HANKEL, total_steps=STEPS, calibration=calibration, copies=[average.module]
    )
    changes = []
    for step in range(STEPS):
        changes += train(compressor, optimizer, range(step, step + 1))
        schedule.step()
        average.update_parameters(model)
    assert [bool(change) for change in changes] == [step in (4, 8) for step in range(1, STEPS + 1)]
    first, second = ([r.after for r in changes[at].records] for at in (3, 7))
    assert all(after <= wanted for after, wanted in zip(first + second, [8, 4, 4, 2], strict=True))
    sizes = compressm.StructureMap.of(model).sizes()
    assert [sizes["inside.first:states"], sizes["inside.second:states"]] == second
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in model.parameters()]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(
        OPTIMIZERS[name]([nn.Parameter(torch.ones(1))]).defaults["lr"] / 100
    )
    assert all(
        a.shape == b.shape for a, b in zip(average.module.parameters(), model.parameters(), strict=True)
    )
    assert bool(torch.isfinite(average(batch(0)[0])).all())


def test_it_goes_on_from_its_state_bit_by_bit() -> None:
    model = own()
    optimizer = AdamW(model.parameters(), lr=1e-2)
    compressor = compressm.Compressor(model, optimizer, HANKEL, total_steps=STEPS, calibration=calibration)
    train(compressor, optimizer, range(6))
    kept = copy.deepcopy((model.state_dict(), optimizer.state_dict(), compressor.state_dict()))
    train(compressor, optimizer, range(6, STEPS))
    again = own()
    others = AdamW(again.parameters(), lr=1e-2)
    compressm.resize(again, others, kept[0])
    again.load_state_dict(kept[0])
    others.load_state_dict(kept[1])
    resumed = compressm.Compressor(again, others, HANKEL, total_steps=STEPS, calibration=calibration)
    resumed.load_state_dict(kept[2])
    train(resumed, others, range(6, STEPS))
    assert resumed.step == compressor.step == STEPS
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


class Constraining(Method):
    """Masks a part of the head, freezes its bias and parks states at step 2, which wake at step 6."""

    Config = NoCompressionConfig

    def check_steps(self, total: int) -> list[int]:
        return [2, 6]

    def plan(self, model: nn.Module, context: CheckContext) -> Plan:
        if context.step == 6:
            return Plan([Wake("inside.first:states", [1])])
        keep = torch.ones(3, 6, dtype=torch.bool)
        keep[:, :2] = False
        return Plan([
            MaskEntries("out.weight", keep),
            Train(["out.bias"], active=False),
            Park("inside.first:states", [1]),
        ])  # fmt: skip


def constrained() -> tuple[Own, nn.Module, AdamW, compressm.Compressor]:
    model = own()
    average, optimizer = copy.deepcopy(model), AdamW(model.parameters(), lr=1e-2)
    method = Constraining(NoCompressionConfig())
    return model, average, optimizer, compressm.Compressor(
        model, optimizer, method, total_steps=STEPS, copies=[average]
    )  # fmt: skip


def test_masks_and_what_is_frozen_and_parked_are_in_its_state() -> None:
    """Of copies, too: a parked state of theirs wakes with that of the model."""
    model, average, optimizer, compressor = constrained()
    train(compressor, optimizer, range(3))
    kept = copy.deepcopy((
        model.state_dict(), optimizer.state_dict(), average.state_dict(), compressor.state_dict()
    ))  # fmt: skip
    train(compressor, optimizer, range(3, STEPS))
    again, other, others, resumed = constrained()
    compressm.resize(again, others, kept[0])
    compressm.resize(other, None, kept[2])
    for part, saved in zip((again, others, other, resumed), kept, strict=True):
        part.load_state_dict(saved)
    assert not again.out.bias.requires_grad
    assert not other.get_parameter("out.bias").requires_grad
    train(resumed, others, range(3, STEPS))
    assert not again.out.weight[:, :2].any()
    for one, same in ((model, again), (average, other)):
        saved = same.state_dict()
        assert all(torch.equal(value, saved[name]) for name, value in one.state_dict().items())


def test_a_state_that_is_not_the_models_is_refused_before_anything_changes() -> None:
    *_, compressor = constrained()
    *_, other = constrained()
    saved = other.state_dict()
    for wrong, told in (
        (
            {"masks": {"out.weight": torch.ones(3, 5, dtype=torch.bool)}},
            r"masks\['out.weight'\] must be a mask of",
        ),
        ({"frozen": ["nothing"]}, "frozen must be names of parameters, found the text 'nothing'"),
        ({"copies": []}, "the state is of 0 copies of the model, and there are 1"),
        ({"copies": [{**saved["copies"][0], "frozen": ["no"]}]}, r"copies\[0\].frozen must be names"),
    ):
        with pytest.raises(ValueError, match=told):
            compressor.load_state_dict({**saved, "step": 7, **wrong})
        assert compressor.step == 0


def test_a_trained_model_is_cut_once() -> None:
    model = own()
    records = compressm.compress(model, {"method": "hankel", "target_order": [5, 3]}, calibration=calibration)
    assert [(r.title, r.before, r.after) for r in records] == [
        ("inside.first", 16, 5),
        ("inside.second", 8, 3),
    ]
    assert model(batch(0)[0]).shape == (4, 3)


def test_a_wrapper_for_several_processes_is_renewed(tmp_path: Path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(own())
        optimizer = AdamW(wrapped.parameters(), lr=1e-2)
        compressor = compressm.Compressor(
            wrapped, optimizer, HANKEL, total_steps=STEPS, calibration=calibration
        )
        train(compressor, optimizer, range(3))
        assert compressor.model is wrapped
        train(compressor, optimizer, range(3, STEPS))
        assert isinstance(compressor.model, DistributedDataParallel)
        assert compressor.model is not wrapped
        assert compressor.plain is wrapped.module
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "hankle"}, "method: 'hankle' is no method; did you mean 'hankel'"),
        ({"method": 5}, "method: 5 is no method; there are none, hankel, random"),
        ({}, "method: is missing; write one of none, hankel, random"),
        ({"method": "hankel", "keep_fraction": 2.0}, "keep_fraction: 2.0 should be less than 1"),
        (
            {"method": "hankel", "keep_fraction": 0.5, "colour": 1},
            "colour: 'colour' is no setting; there are",
        ),
        (
            {"method": "hankel", "energy": 0.9},
            "energy: 'energy' is no setting; did you mean 'energy_threshold'",
        ),
        ({"method": "hankel"}, "^hankel: give exactly one of energy_threshold, .*; found none"),
        ({**HANKEL, "schedule": {"kind": "listed", "at": 1}}, "schedule.listed.at: 'at' is no setting$"),
        (
            {**HANKEL, "schedule": {"kind": "odd"}},
            "has no kind that there is; write equidistant, listed, adap",
        ),
        ({**HANKEL, "safety": {}}, "a loop of one's own has no way back"),
    ],
)
def test_settings_that_are_none_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compressm.Compressor(own(), None, settings, total_steps=10)


def test_who_needs_data_asks_for_them() -> None:
    with pytest.raises(ValueError, match=r"give Compressor\(\.\.\., calibration"):
        compressm.compress(own(), {"method": "hankel", "keep_fraction": 0.5})


def cut_once(**how: Any) -> Any:
    model = own()
    del model.inside["second"]
    return compressm.compress(model, {"method": "hankel", "energy_threshold": 0.99}, **how)[0]


def test_the_horizon_is_the_longest_sequence_of_the_calibration() -> None:
    """A wrong one makes orders and errors that look right."""
    found = cut_once(calibration=lambda: [batch(0)[0][:, :7], batch(1)[0], batch(2)[0][:, :9]])
    told = cut_once(calibration=lambda: [batch(0)[0][:, :7], batch(1)[0], batch(2)[0][:, :9]], length=20)
    assert found.details["horizon"] == told.details["horizon"] == 20
    assert {**found.details, "seconds": 0} == {**told.details, "seconds": 0}
    assert found.after == told.after < 16
    assert cut_once(calibration=calibration, length=30).details["horizon"] == 30


@pytest.mark.parametrize("gramian", ["analytic", "empirical"])
def test_a_horizon_that_nothing_tells_is_asked_for(gramian: str) -> None:
    settings = {"method": "hankel", "keep_fraction": 0.5, "gramian": gramian}
    model = nn.Sequential(LRU(LRUConfig(), 6, 16))
    with pytest.raises(
        ValueError, match=r"length of the sequences is not known: .* or length=\.\.\., the steps"
    ):
        compressm.compress(model, settings)
    with pytest.raises(ValueError, match="length: 0 is not the steps"):
        compressm.compress(model, settings, length=0)
    analytic = {**settings, "gramian": "analytic"}
    assert compressm.compress(copy.deepcopy(model), analytic, length=12)[0].details["horizon"] == 12
    assert compressm.compress(model, {**analytic, "horizon": "infinite"})[0].details["horizon"] is None


def test_calibration_is_any_iterable_of_batches() -> None:
    batches = [batch(0)[0], (batch(1)[0], 2.0)]
    by_function = compressm.compress(
        own(), {"method": "hankel", "keep_fraction": 0.5}, calibration=lambda: batches
    )
    by_list = compressm.compress(own(), {"method": "hankel", "keep_fraction": 0.5}, calibration=batches)
    assert [(r.after, r.details["hsv"]) for r in by_list] == [
        (r.after, r.details["hsv"]) for r in by_function
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.ones(2, 3, 6), r"calibration: Tensor is no iterable of batches; write \[batch\]"),
        (lambda: torch.ones(2, 3, 6), r"calibration: Tensor is no iterable of batches; write \[batch\]"),
        (5, "calibration: int is no iterable of batches"),
        (
            iter([]),
            "calibration: each check asks for batches, and this can be gone through once; give a list",
        ),
        ([], "calibration: there was no batch"),
        (list, "calibration: there was no batch"),
    ],
)
def test_calibration_that_gives_no_batches_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compressm.compress(own(), {"method": "hankel", "keep_fraction": 0.5}, calibration=given)


def test_a_model_without_units_of_the_method_is_told() -> None:
    settings = {"method": "hankel", "keep_fraction": 0.5}
    with pytest.warns(
        UserWarning, match="nothing to cut: Hankel finds none .*; no module of it declares axes"
    ):
        assert compressm.compress(nn.Linear(3, 3), settings) == []
    with pytest.warns(UserWarning, match=r"nothing to cut: .*; its axes are 0:neurons$"):
        assert compressm.compress(nn.Sequential(layers.FeedForward(3, 4)), settings) == []


def test_the_example_of_the_documentation() -> None:
    page = (Path(__file__).parent.parent / "docs" / "own-loop.md").read_text(encoding="utf-8")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "example"}
    exec(page.partition("```python\n")[2].partition("```")[0], names)
    assert names["compressor"].step == 20
    sizes = compressm.StructureMap.of(names["model"]).sizes()
    assert sizes["recurrent:states"] < 24
    table = str(compressm.StructureMap.of(names["model"])).splitlines()
    assert table[0].split() == ["axis", "kind", "size", "tied", "to"]
    assert table[1].split() == ["recurrent:states", "state", str(sizes["recurrent:states"])]
    assert ["neurons.inner:neurons", "neuron", "64"] in [line.split() for line in table]


def test_the_example_of_a_network_that_declares_no_axes(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).parent.parent / "docs" / "own-loop.md").read_text(encoding="utf-8")
    _, _, page = page.partition("## Networks that declare no axes")
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "example", "torch": torch, "nn": nn, "compressm": compressm}
    example, _, told = page.partition("```python\n")[2].partition("```")
    exec(example, names)
    printed = capsys.readouterr().out.splitlines()
    for line in told.partition("```\n")[2].partition("```")[0].splitlines():
        assert line in printed or line == "...", line
    network = names["network"]
    assert (network[0].out_channels, network[3].in_channels, network[7].in_features) == (6, 6, 12)
    assert compressm.StructureMap.of(network).sizes() == {"0:channels": 6, "3:channels": 12}


def test_a_cut_state_of_a_network_that_declares_no_axes_is_loaded() -> None:
    def built() -> nn.Module:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
        compressm.discover(network, (torch.randn(2, 4),))
        return network

    cut, again = built(), built()
    compressm.apply_edits(cut, None, [compressm.Keep(next(iter(compressm.StructureMap.of(cut))), [1, 2, 5])])
    state = cut.state_dict()
    compressm.resize(again, None, state)
    again.load_state_dict(state)
    inputs = torch.randn(3, 4)
    assert torch.equal(again(inputs), cut(inputs))
    assert compressm.StructureMap.of(again).sizes() == compressm.StructureMap.of(cut).sizes()


def test_layers_are_exported_with_their_settings() -> None:
    for name in layers.__all__:
        assert getattr(layers, name).__module__.startswith("compressm_cli."), name
    assert layers.LRU is LRU
    assert {f"{kind.__name__}Config" for kind in layers.LAYERS.values()} <= set(layers.__all__)


def test_the_interface_is_imported_when_it_is_used() -> None:
    code = (
        "import sys, compressm, compressm_cli; heavy = ('torch', 'numba', 'scipy', 'pydantic');"
        "assert not [m for m in heavy if m in sys.modules];"
        "configs = [n for n in compressm.__all__ if n.endswith('Config')];"
        "assert all(getattr(compressm, n) is getattr(compressm_cli, n) for n in compressm.__all__ if n not in configs);"
        "assert not [m for m in heavy[1:] if m in sys.modules];"
        "assert all(getattr(compressm, n) is getattr(compressm_cli, n) for n in configs);"
        "assert not [m for m in heavy[1:3] if m in sys.modules];"
        "print(len(compressm.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == len(compressm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        compressm.nothing  # noqa: B018
