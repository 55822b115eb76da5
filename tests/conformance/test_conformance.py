"""What every method promises with every layer, for all that ``METHODS`` and ``LAYERS`` name.

A new layer is tested here without a line added; a new method needs an example of its settings in ``EXAMPLES``. Those of
a plug-in come with ``--plugin MODULE``, and examples of their settings from ``EXAMPLES`` of that module.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from fresh_process import outputs_in_a_fresh_process
from layer_kinds import SMALL
from plugin_package import examples
from pydantic import ValidationError
from tiny_runs import count_roughly, rough_flops
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.engine import experiment, validation
from compressm_cli.engine.evaluation import calibrate
from compressm_cli.engine.view import SilentView
from compressm_cli.layers import LAYERS
from compressm_cli.methods import METHODS
from compressm_cli.methods.method import CheckContext
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery
from compressm_cli.structure.masks import masks_of

__all__ = ["rough_flops"]

EXAMPLES: dict[str, dict[str, Any]] = {
    "hankel": {"keep_fraction": 0.6},
    "random": {"keep_fraction": 0.6},
    "magnitude": {"keep_fraction": 0.6},
    **examples("method"),
}
"""Settings with which a method changes a model of six states within a few steps."""

STEPS, CHECKS = 12, [3, 8]
SOME = {"random": {"lru", "mamba2", "gla"}, "magnitude": {"s5", "mamba"}}
"""Methods to which layers are no more than axes: one layer of each kind is enough."""
PAIRS = [(layer, method) for layer in LAYERS for method in METHODS if layer in SOME.get(method, LAYERS)]

pytestmark = pytest.mark.parametrize(("layer", "method"), PAIRS)


def compression(method: str, **changes: Any) -> dict[str, Any]:
    mapping = {
        "method": method,
        "schedule": {"kind": "listed", "at_steps": CHECKS},
        **EXAMPLES.get(method, {}),
        **changes,
    }
    try:
        METHODS[method].Config.model_validate(mapping)
    except ValidationError as error:
        pytest.fail(
            f"no working settings for the method '{method}': add an example of them to EXAMPLES\n{error}"
        )
    return mapping


def recipe_for(root: Path, layer: str, method: str, **changes: Any) -> Recipe:
    return recipe_from_mapping(
        {
            "name": f"{layer}-{method}",
            "device": "cpu",
            "data": {"task": "digits"},
            "model": {
                "layer": {"kind": layer, "state_dim": 6, **SMALL.get(layer, {})},
                "model_dim": 6,
                "depth": 2,
                "norm": "batch",
                "dropout": 0.1,
            },
            "train": {
                "steps": STEPS,
                "batch_size": 8,
                "learning_rate": 1e-2,
                "log_every": 1,
                "eval_every": 6,
                "checkpoint_every": 5,
            },
            "compression": compression(method, **changes),
            "output": {"root": str(root)},
        },
        "test",
    )


def train(recipe: Recipe, view: SilentView | None = None) -> Run:
    return experiment.start(recipe, 0, experiment.load_data(recipe), view or SilentView(), "test")


def weights(run: Run) -> dict[str, Tensor]:
    return Checkpoint.load(run.final_checkpoint).weights


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@dataclass(frozen=True)
class Trained:
    """A finished run."""

    recipe: Recipe
    run: Run


Runs = Callable[[str, str], Trained]


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(4, 64, 1, generator=torch.Generator().manual_seed(0))


def _counted_roughly(recipe: Recipe) -> Run:
    with pytest.MonkeyPatch.context() as patch:
        count_roughly(patch)
        return train(recipe)


@pytest.fixture(scope="module")
def trained(shared_folder: Path) -> Runs:
    """Every pair is trained once, by the process of the tests that first asks for it."""
    root = shared_folder / "conformance"
    root.mkdir(exist_ok=True)

    @cache
    def find(layer: str, method: str) -> Trained:
        recipe = recipe_for(root, layer, method)
        folder = root / recipe.name
        with FileLock(root / f"{recipe.name}.lock"):
            run = Run.find(folder)[-1] if folder.exists() else _counted_roughly(recipe)
        return Trained(recipe, run)

    return find


@pytest.fixture(scope="module")
def reloaded(shared_folder: Path, trained: Runs, inputs: Tensor) -> dict[tuple[str, str], Tensor]:
    """What one other process computes with all final checkpoints, by layer and method."""
    checkpoints = [trained(*pair).run.final_checkpoint for pair in PAIRS]
    folder = shared_folder / "conformance"
    with FileLock(folder / "reloaded.lock"):
        if not (folder / "reloaded.pt").exists():
            torch.save(outputs_in_a_fresh_process(folder, inputs, checkpoints), folder / "reloaded.pt")
    return dict(zip(PAIRS, torch.load(folder / "reloaded.pt"), strict=True))


def test_trains_to_the_end(trained: Runs, layer: str, method: str) -> None:
    run = trained(layer, method).run
    assert run.read_info()["status"] == "done"
    assert [m["step"] for m in run.read_metrics() if "train_loss" in m] == list(range(1, STEPS + 1))
    assert all(bool(w.isfinite().all()) for w in weights(run).values())


def test_the_finished_model_has_finite_gradients(
    trained: Runs, inputs: Tensor, layer: str, method: str
) -> None:
    model = Checkpoint.load(trained(layer, method).run.final_checkpoint).build_model()
    outputs = model(inputs)
    assert outputs.shape == (4, 10)
    outputs.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.shape == parameter.shape
            assert bool(parameter.grad.isfinite().all()), name


def test_shapes_change_only_on_the_schedule(trained: Runs, layer: str, method: str) -> None:
    run, recipe = trained(layer, method).run, trained(layer, method).recipe
    checks = METHODS[method](recipe.compression).check_steps(STEPS)
    assert checks == sorted(set(checks))
    assert all(1 <= step <= STEPS for step in checks)
    orders = [m["orders"] for m in run.read_metrics() if "orders" in m]
    changed = {step for step in range(1, STEPS) if orders[step] != orders[step - 1]}
    assert changed <= set(checks)
    told = {r["step"] for r in run.read_compression() if r["after"] != r["before"]}
    assert changed <= told


def test_the_settings_of_these_tests_really_change_the_model(trained: Runs, layer: str, method: str) -> None:
    run = trained(layer, method).run
    cut = run.read_summary()["checks"]["cut"] > 0
    assert cut == (method in EXAMPLES), (
        "these settings do nothing: add an example of ones that do to EXAMPLES"
    )
    uncut = trained(layer, "none").run
    assert same(weights(run), weights(uncut)) != cut


def test_every_check_says_why_for_every_layer(trained: Runs, layer: str, method: str) -> None:
    run, recipe = trained(layer, method).run, trained(layer, method).recipe
    checks = METHODS[method](recipe.compression).check_steps(STEPS)
    lines = run.read_compression()
    names = list(run.read_summary()["orders"]["start"])
    states = [(line["step"], line["layer"]) for line in lines if line["kind"] == "state"]
    assert states == [(s, n) for s in checks for n in names]
    units = {step: [line["unit"] for line in lines if line["step"] == step] for step in checks}
    assert all(told == units[checks[0]] and len(set(told)) == len(told) for told in units.values())
    assert all(line["reason"].strip() for line in lines)


def test_reloads_with_identical_outputs_in_a_fresh_process(
    trained: Runs, reloaded: dict[tuple[str, str], Tensor], inputs: Tensor, layer: str, method: str
) -> None:
    run = trained(layer, method).run
    model = Checkpoint.load(run.final_checkpoint).build_model().eval()
    with torch.no_grad():
        assert torch.equal(model(inputs), reloaded[layer, method])
    assert surgery.orders(model) == run.read_summary()["orders"]["final"]


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("step", [7, 12])
def test_saves_and_resumes_bit_equal(
    trained: Runs, tmp_path: Path, layer: str, method: str, step: int
) -> None:
    class Interrupting(SilentView):
        def step(self, number: int, *_: Any) -> None:
            if number == step:
                raise KeyboardInterrupt

    recipe = recipe_for(tmp_path, layer, method)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, Interrupting())
    (run,) = Run.find(tmp_path / recipe.name)
    torch.manual_seed(1234)
    experiment.resume(run, recipe, SilentView(), "test")
    assert same(weights(run), weights(trained(layer, method).run))
    other = ("step_seconds", "seconds", "flops")

    def told(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k not in other} for line in lines]

    whole = trained(layer, method).run
    assert told(run.read_metrics()) == told(whole.read_metrics())
    assert told(run.read_compression()) == told(whole.read_compression())


@pytest.mark.usefixtures("rough_flops")
def test_what_is_undone_leaves_no_trace(
    trained: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layer: str, method: str
) -> None:
    """A trial that is rejected, with a method that is told to stop, ends like a run without compression."""
    uncut = trained(layer, "none").run
    original = validation.evaluate
    calls: list[int] = []

    def evaluate(*args: Any) -> Any:
        """Each evaluation is worse than the last."""
        calls.append(1)
        return replace(original(*args), metrics={"accuracy": 1.0 / len(calls)})

    monkeypatch.setattr(validation, "evaluate", evaluate)
    safety = {"trial_steps": 3, "tolerance": 0.0, "on_rejection": "stop"}
    tried = train(recipe_for(tmp_path, layer, method, safety=safety))
    assert tried.read_summary()["checks"]["rejected"] == tried.read_summary()["checks"]["cut"]
    assert same(weights(tried), weights(uncut))


def test_planning_only_reads(trained: Runs, layer: str, method: str) -> None:
    recipe = recipe_for(Path("unused"), layer, method)
    model = Checkpoint.load(trained(layer, "none").run.final_checkpoint).build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random, batch = torch.get_rng_state(), recipe.data.load().train.rows(torch.arange(8))
    context = CheckContext(
        step=CHECKS[0],
        total_steps=STEPS,
        length=64,
        generator=torch.Generator(),
        calibrate=lambda wanted, count: calibrate(model, wanted, [batch] * count, 3),
    )
    plan = METHODS[method](recipe.compression).plan(model, context)
    assert same(dict(model.state_dict()), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert model.training
    assert [p.requires_grad for p in model.parameters()] == [True] * len(list(model.parameters()))
    assert masks_of(model) == {}
    assert len([record for record in plan.records if record.kind == "state"]) in (0, 2)
