"""What every model promises, for all that ``MODELS`` names, with units of all the kinds that it has being cut.

A new model needs examples of its settings in ``model_examples.EXAMPLES``. Those of a plug-in come with
``--plugin MODULE``, and examples of their settings from ``EXAMPLES`` of that module.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from filelock import FileLock
from fresh_process import outputs_in_a_fresh_process
from model_examples import DATA, EXAMPLES, OBJECTIVE, TEXT
from tiny_runs import count_roughly, rough_flops, weights
from tiny_runs import trained as train
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.engine import experiment
from compressm_cli.engine.view import SilentView
from compressm_cli.exchange.exporting import export
from compressm_cli.exchange.loading import load
from compressm_cli.measure.flops import count_inference
from compressm_cli.methods.baselines.scored import Kind
from compressm_cli.models import MODELS, Model, build_model
from compressm_cli.recipe import Recipe, recipe_from_mapping
from compressm_cli.runs.folder import Run

__all__ = ["rough_flops"]

STEPS, CHECKS = 9, [3, 6]
ROWS = torch.arange(4)

pytestmark = pytest.mark.parametrize("name", EXAMPLES)


def recipe_for(root: Path, name: str, **changes: Any) -> Recipe:
    if name.startswith("external"):
        pytest.importorskip("transformers")
    compression = {
        "method": "magnitude",
        "kinds": list(get_args(Kind)),
        "keep_fraction": 0.6,
        "schedule": {"kind": "listed", "at_steps": CHECKS},
        **changes,
    }
    return recipe_from_mapping(
        {
            "name": name.replace(": ", "-"),
            "device": "cpu",
            "data": DATA.get(name, TEXT),
            "model": {"kind": name.partition(":")[0], **EXAMPLES[name]},
            "objective": OBJECTIVE.get(name),
            "train": {
                "steps": STEPS,
                "batch_size": 8,
                "eval_every": 5,
                "checkpoint_every": 5,
                "log_every": 1,
            },
            "compression": compression if changes.get("method") != "none" else {"method": "none"},
            "output": {"root": str(root)},
        },
        "test",
    )


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def inputs_of(recipe: Recipe) -> Tensor:
    return recipe.data.load().train.rows(ROWS).inputs


Runs = Callable[[str], Run]


@pytest.fixture(scope="module")
def trained(shared_folder: Path) -> Runs:
    """Every model is trained once, by the process of the tests that first asks for it."""
    root = shared_folder / "models"
    root.mkdir(exist_ok=True)

    @cache
    def find(name: str) -> Run:
        recipe = recipe_for(root, name)
        with FileLock(root / f"{recipe.name}.lock"):
            if (root / recipe.name).exists():
                return Run.find(root / recipe.name)[-1]
            with pytest.MonkeyPatch.context() as patch:
                count_roughly(patch)
                return train(recipe)

    return find


def test_every_model_has_an_example(name: str) -> None:
    assert {example.partition(":")[0] for example in EXAMPLES} == set(MODELS)


def test_all_kinds_of_units_leave_and_all_that_stays_has_gradients(
    trained: Runs, name: str, tmp_path: Path
) -> None:
    run = trained(name)
    sizes = run.read_summary()["axes"]
    cut = {kind for kind, size in sizes["final"].items() if size < sizes["start"][kind]}
    assert cut >= {kind for kind, size in sizes["start"].items() if kind != "sublayer" and size > 4}
    model = Checkpoint.load(run.final_checkpoint).build_model().train()
    model(inputs_of(recipe_for(tmp_path, name))).square().mean().backward()
    for place, parameter in model.named_parameters():
        assert parameter.grad is not None, place
        assert bool(parameter.grad.isfinite().all()), place


@pytest.mark.usefixtures("rough_flops")
def test_resumes_bit_equal_between_two_cuts(trained: Runs, tmp_path: Path, name: str) -> None:
    class Interrupting(SilentView):
        def step(self, number: int, *_: Any) -> None:
            if number == 5:
                raise KeyboardInterrupt

    recipe = recipe_for(tmp_path, name)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    (run,) = Run.find(tmp_path / recipe.name)
    torch.manual_seed(1234)
    experiment.resume(run, recipe, SilentView(), "test")
    assert same(weights(run), weights(trained(name)))


@pytest.mark.usefixtures("rough_flops")
def test_a_cut_that_is_undone_leaves_no_trace(tmp_path: Path, name: str) -> None:
    safety = {"trial_steps": 2, "tolerance": 0.0, "on_rejection": "stop"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("compressm_cli.engine.trial.Trial.verdict", lambda *_: (False, "of a test"))
        tried = train(recipe_for(tmp_path, name, safety=safety))
    assert tried.read_summary()["checks"]["rejected"] >= 1
    uncut = train(recipe_for(tmp_path / "uncut", name, method="none"))
    assert same(weights(tried), weights(uncut))


def test_reloads_and_exports_with_identical_outputs(trained: Runs, tmp_path: Path, name: str) -> None:
    checkpoint = Checkpoint.load(trained(name).final_checkpoint)
    inputs = inputs_of(recipe_for(tmp_path, name))
    with torch.no_grad():
        wanted = checkpoint.build_model().eval()(inputs)
        export(checkpoint, "safetensors", tmp_path / "exported")
        assert torch.equal(load(tmp_path / "exported").build_model().eval()(inputs), wanted)
    (found,) = outputs_in_a_fresh_process(tmp_path, inputs, [trained(name).final_checkpoint])
    assert torch.equal(found, wanted)


def test_costs_less_after_the_cuts(trained: Runs, tmp_path: Path, name: str) -> None:
    recipe = recipe_for(tmp_path, name)
    checkpoint = Checkpoint.load(trained(name).final_checkpoint)
    batch = recipe.data.load().train.rows(ROWS)
    small, whole = checkpoint.build_model(), build_model(recipe.model, checkpoint.data)
    assert 0 < count_inference(small, batch).total < count_inference(whole, batch).total


def test_steps_are_the_whole(trained: Runs, tmp_path: Path, name: str) -> None:
    checkpoint = Checkpoint.load(trained(name).final_checkpoint)
    model = checkpoint.build_model().double().eval()
    assert isinstance(model, Model)
    inputs = inputs_of(recipe_for(tmp_path, name))
    if model.step_obstacle is not None:
        with pytest.raises(ValueError, match="step"):
            model.initial_state(4)
        return
    source = checkpoint.data.source
    with torch.no_grad():
        wanted = model(inputs)
        state = model.initial_state(4) if source is None else model.prefill(inputs[:, : source + 1])[1]
    for t in range(0 if source is None else source + 1, inputs.shape[1]):
        scores, state = model.step(inputs[:, t], state)
        torch.testing.assert_close(scores, wanted[:, t], rtol=1e-10, atol=1e-10)


def test_half_precision_is_the_same_but_rounded(trained: Runs, tmp_path: Path, name: str) -> None:
    model = Checkpoint.load(trained(name).final_checkpoint).build_model().eval()
    inputs = inputs_of(recipe_for(tmp_path, name))
    with torch.no_grad():
        wanted = model(inputs)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(inputs).float()
    assert float((found - wanted).norm() / wanted.norm()) < 0.05
