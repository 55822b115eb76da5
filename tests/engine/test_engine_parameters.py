"""Parameters of a method's own are trained, saved, clipped, judged and put back with the model's."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from gated import STATES, Gated, Still
from tiny_runs import killed, with_method
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

import compressm
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine import experiment
from compressm_cli.engine.divergence import DivergedError
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.view import SilentView
from compressm_cli.layers.lru import LRU, LRUConfig
from compressm_cli.methods.method import StepContext
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure.store import parked

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]


def gated(tiny: Maker, **train: Any) -> Recipe:
    compression = {"method": "none", "safety": {"trial_steps": 5, "tolerance": 0.0}}
    model = {"norm": "layer", "dropout": 0.1}
    return tiny(steps=20, compression=compression, model=model, train={"checkpoint_every": 4, **train})


def saved(run: Run) -> list[Tensor]:
    """The method's parameters at the end of a run, and what the optimizer keeps of them."""
    training = Checkpoint.load(run.last_checkpoints()[-1]).training
    assert training is not None
    optimizer = training["optimizer"]
    numbers = [n for g in optimizer["param_groups"] if "of" in g for n in g["params"]]
    return [*training["parameters"], *(v for n in numbers for v in optimizer["state"][n].values())]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("kept", [True, False])
def test_they_go_on_after_a_kill_in_a_trial_as_without(
    tiny: Maker,
    train: Trainer,
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
    rough_flops: None,
    accumulate: int,
    kept: bool,
) -> None:
    with_method(monkeypatch, Gated)
    monkeypatch.setattr(Trial, "verdict", lambda *_: (kept, "as the test wants"))
    made = gated(tiny, accumulate=accumulate)
    whole = train(made)
    assert same_weights(whole, train(made))  # hooks of one run are not those of another
    gates, per_state, *moments = saved(whole)
    assert (gates.shape, per_state.shape) == ((8,), (8,))
    assert float((gates - 1).abs().max()) > 0.1
    assert float(per_state.max()) < 0.5
    assert all(bool(m.isfinite().all()) and float(m.abs().max()) > 0 for m in moments)
    part = killed(made, 14)
    assert parked(Checkpoint.load(part.last_checkpoints()[-1]).build_model()) == {STATES: (1, 5)}
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert same_weights(whole, part)
    assert same(saved(whole), saved(part))
    if not kept:  # and nothing of the trial is left
        with_method(monkeypatch, Still)
        uncut = train(made)
        assert same_weights(whole, uncut)
        assert same(saved(whole), saved(uncut))


def test_they_are_counted_as_little_as_seen_and_never_touched_by_counting(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """FLOPs are counted on a copy without values, whose hooks multiply by the real gates."""
    plain = train(gated(tiny)).read_summary()["flops"]["training"]
    with_method(monkeypatch, Still)
    assert train(gated(tiny)).read_summary()["flops"]["training"] == plain
    assert not [w for w in recwarn if "measured on a copy" in str(w.message)]


@pytest.mark.usefixtures("rough_flops")
def test_they_count_in_the_norm_that_is_clipped(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    original = nn.utils.clip_grad_norm_

    def clip(parameters: list[nn.Parameter], most: float) -> Tensor:
        norm = original(parameters, most)
        norms.append(
            float(norm) - float(original([p for p in parameters if p.ndim != 1 or len(p) != 8], 1e9))
        )
        return norm

    class Steep(Still):
        def penalty(self, step: StepContext) -> Tensor | None:
            return 100.0 * self.per_state.sum()

    with_method(monkeypatch, Steep)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", clip)
    train(gated(tiny, clip_norm=1.0))
    assert min(norms) > 100


@pytest.mark.usefixtures("rough_flops")
def test_one_that_is_not_finite_ends_the_run_by_its_name(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wild(Still):
        def penalty(self, step: StepContext) -> Tensor | None:
            return self.per_state.sum() * (float("inf") if step.step == 7 else 1.0)

    with_method(monkeypatch, Wild)
    with pytest.raises(DivergedError, match=r"parameter 1 of the method is not finite after step 7"):
        train(gated(tiny))


@pytest.mark.usefixtures("rough_flops")
def test_parameters_that_cannot_be_optimized_are_refused(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong: list[tuple[Callable[[Gated], Any], str]] = [
        (lambda m: [{"params": [m.gates], "lr": 1.0}], "a group has params, and perhaps factor .* not so lr"),
        (lambda m: [{"factor": 2.0}], "not so params"),
        (lambda m: [{"params": [m.gates, m.gates]}], "is there twice"),
        (lambda m: [{"params": [nn.Parameter(torch.ones(2).double())]}], "of the type float32 on cpu"),
        (lambda m: [{"params": [torch.ones(2)]}], "of the type float32 on cpu"),
        (lambda m: [{"params": m.gates}], "params is a tensor .* a list of parameters"),
        (lambda m: [{"params": iter([m.gates])}], "params is a value .* a list of parameters"),
        (lambda m: {"params": [m.gates]}, "a mapping; it must be a list of mappings"),
        (lambda m: [[m.gates]], "a list; it must be a list of mappings"),
        (lambda m: [{"params": [m.gates], "factor": float("nan")}], "factor is the number nan; .* finite"),
        (lambda m: [{"params": [m.gates], "factor": -1.0}], "factor is the number -1.0; .* at least 0"),
        (lambda m: [{"params": [m.gates], "factor": "2"}], "factor is the text '2'; .* number"),
        (lambda m: [{"params": [m.gates], "weight_decay": float("inf")}], "weight_decay is the number inf"),
        (lambda m: {}["k"], "KeyError: 'k'"),
    ]
    for groups, why in wrong:
        with_method(monkeypatch, type("Wrong", (Still,), {"parameter_groups": groups}))
        with pytest.raises(RunFailedError, match=f"compression.method: none: parameter_groups: .*{why}"):
            train(gated(tiny))


@pytest.mark.usefixtures("rough_flops")
def test_others_than_the_checkpoint_has_are_not_gone_on_with(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_method(monkeypatch, Still)
    run = train(gated(tiny))

    class Fewer(Still):
        def parameter_groups(self) -> list[dict[str, Any]]:
            return [{"params": [self.gates]}]

    with_method(monkeypatch, Fewer)
    with pytest.raises(
        BadInputError, match=r"have the shapes \[\(8,\), \(8,\)\] in the checkpoint, and \[\(8,\)\]"
    ):
        experiment.resume(run, load_recipe(run.recipe_path, ["train.steps=30"]), SilentView(), "test")


@pytest.mark.usefixtures("rough_flops")
def test_a_state_that_a_method_cannot_read_is_told_in_a_line(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_method(monkeypatch, Still)
    run = train(gated(tiny))

    class Newer(Still):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.speed = state["speed"]

    with_method(monkeypatch, Newer)
    with pytest.raises(
        BadInputError, match=r"none: cannot go on from what the checkpoint says of it: KeyError: 's"
    ):
        experiment.resume(run, load_recipe(run.recipe_path, ["train.steps=30"]), SilentView(), "test")


class Faded(Gated):
    """The same for a layer of somebody else's model."""

    def setup(self, model: nn.Module, *_: Any) -> None:
        self.gates = nn.Parameter(torch.ones(6))
        self.per_state = nn.Parameter(torch.full((4,), 0.5))
        self.gradients = []

    def attach(self, model: nn.Module) -> list[RemovableHandle]:
        layer = model.get_submodule("0")
        return [layer.register_forward_hook(lambda _, inputs, output: output * self.gates)]

    def check_steps(self, total: int) -> list[int]:
        return []


def own_loop(compressor: compressm.Compressor, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(4, 9, 6, generator=torch.Generator().manual_seed(step))
        (compressor.model(inputs).square().mean() + compressor.penalty()).backward()
        compressor.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        compressor.after_step()


@pytest.mark.parametrize("optimizer", [torch.optim.AdamW, torch.optim.SGD])
def test_in_a_loop_of_ones_own(optimizer: Any) -> None:
    def begun() -> tuple[nn.Module, torch.optim.Optimizer, compressm.Compressor]:
        torch.manual_seed(0)
        model = nn.Sequential(LRU(LRUConfig(), 6, 4), nn.Linear(6, 6))
        made = optimizer(model.parameters(), lr=1e-2)
        method = Faded(Faded.Config())
        return model, made, compressm.Compressor(model, made, method, total_steps=8)

    model, made, compressor = begun()
    own_loop(compressor, made, range(4))
    kept = copy.deepcopy([model.state_dict(), made.state_dict(), compressor.state_dict()])
    own_loop(compressor, made, range(4, 8))
    again, other, resumed = begun()
    for part, state in zip((again, other, resumed), kept, strict=True):
        part.load_state_dict(state)
    own_loop(resumed, other, range(4, 8))
    assert [g["lr"] for g in made.param_groups] == pytest.approx([1e-2, 3e-2, 1e-2])
    assert same([*model.parameters()], [*again.parameters()])
    one, two = compressor.state_dict()["parameters"], resumed.state_dict()["parameters"]
    assert same(one, two)
    assert float((one[0] - 1).abs().max()) > 1e-3
    with pytest.raises(RuntimeError, match=r"call after_backward\(\) before the optimizer's step"):
        resumed.after_step()
