"""Whole runs: what they leave behind, that the seed alone decides them, and how they fail."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import recipe_in, trained
from torch import Tensor

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.engine import experiment, loop, validation
from compressm_cli.engine.forecast import forecast
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.flops import inference_flops, training_step_flops
from compressm_cli.measure.probe import example_batch
from compressm_cli.methods import METHODS
from compressm_cli.models import build_model
from compressm_cli.ops import recurrent
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

LAYER = "blocks.0.layer"
CUTS: dict[str, Any] = {
    "method": "hankel",
    "keep_fraction": 0.6,
    "schedule": {"kind": "listed", "at_steps": [7, 14]},
}
DOCUMENTATION = Path(__file__).parents[2] / "docs" / "run-folder.md"


def without_seconds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in ("seconds", "step_seconds")} for line in lines]


@pytest.fixture(scope="module")
def cut_recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return recipe_in(tmp_path_factory.mktemp("cut"), compression=CUTS)


@pytest.fixture(scope="module")
def cut_run(cut_recipe: Recipe) -> Run:
    """One run for all tests that only look at what it left behind."""
    return trained(cut_recipe)


# ---- determinism --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("gramian", ["analytic", "empirical"])
def test_the_seed_decides_everything(tiny: Maker, train: Trainer, same_weights: Same, gramian: str) -> None:
    recipe = tiny(compression={**CUTS, "gramian": gramian})
    one, other = train(recipe, seed=1), train(recipe, seed=1)
    assert same_weights(one, other)
    assert without_seconds(one.read_metrics()) == without_seconds(other.read_metrics())
    assert without_seconds(one.read_compression()) == without_seconds(other.read_compression())
    assert not same_weights(one, train(recipe, seed=2))


@pytest.mark.usefixtures("rough_flops")
def test_seed_zero_is_a_seed(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    torch.manual_seed(123)
    one = train(tiny(steps=3), seed=0)
    torch.manual_seed(456)
    assert same_weights(one, train(tiny(steps=3), seed=0))


@pytest.mark.usefixtures("rough_flops")
def test_the_rhythm_of_logging_and_saving_changes_nothing(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    often = train(tiny(compression=CUTS, train={"eval_every": 1, "checkpoint_every": 1}))
    rarely = train(tiny(compression=CUTS, train={"eval_every": 30, "log_every": 30}))
    assert same_weights(often, rarely)


@pytest.mark.usefixtures("rough_flops")
def test_the_loss_falls(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=120, model={"dropout": 0.0, "norm": "layer"}, train={"learning_rate": 4e-2}))
    losses = [m["train_loss"] for m in run.read_metrics() if "train_loss" in m]
    assert sum(losses[-10:]) < 0.93 * sum(losses[:10])


# ---- cuts ---------------------------------------------------------------------------------------------


def test_shapes_change_only_at_the_steps_of_the_schedule(cut_run: Run) -> None:
    run = cut_run
    trained_with = [m["orders"][LAYER] for m in run.read_metrics() if "orders" in m]
    records = run.read_compression()
    assert [record["step"] for record in records] == [7, 14]
    assert all(record["accepted"] is True for record in records)
    after = [8, *(record["order_after"] for record in records)]
    assert after[0] > after[1] > after[2]
    assert trained_with == [after[0]] * 7 + [after[1]] * 7 + [after[2]] * 16
    assert run.read_summary()["orders"] == {"start": {LAYER: 8}, "final": {LAYER: after[2]}}
    assert Checkpoint.load(run.final_checkpoint).orders == {LAYER: after[2]}


def test_the_accuracy_right_after_a_cut_is_logged(cut_run: Run) -> None:
    lines = cut_run.read_metrics()
    evaluated = [(m["step"], m.get("after_cut", False)) for m in lines if "validation_loss" in m]
    assert evaluated == [
        (7, False), (7, True), (10, False), (14, False), (14, True), (20, False), (30, False),
    ]  # fmt: skip


@pytest.mark.usefixtures("rough_flops")
def test_checks_without_a_cut_are_recorded(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(compression={**CUTS, "keep_fraction": 0.99}))
    assert [(r["step"], r["accepted"]) for r in run.read_compression()] == [(7, None), (14, None)]
    assert all(r["reason"].startswith("nothing cut: ") for r in run.read_compression())
    assert run.read_summary()["checks"] == {"made": 2, "cut": 0, "rejected": 0}


@pytest.mark.usefixtures("rough_flops")
def test_a_plan_that_surgery_refuses_does_not_end_the_run(
    tiny: Maker, train: Trainer, same_weights: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("not finite")

    uncut = train(tiny())
    monkeypatch.setattr(surgery, "apply_plan", broken)
    run = train(tiny(compression=CUTS))
    assert same_weights(run, uncut)
    assert {r["reason"] for r in run.read_compression()} == {"nothing cut: refused: not finite"}
    assert {(r["order_after"], r["accepted"], r["tail"], r["kept"]) for r in run.read_compression()} == {
        (8, None, None, None)
    }


# ---- what a run leaves behind -------------------------------------------------------------------------


def documented_summary() -> dict[str, Any]:
    """The example of the documentation."""
    text = DOCUMENTATION.read_text(encoding="utf-8")
    example: dict[str, Any] = json.loads(text.split("```json")[1].split("```")[0])
    return example


def documented_keys(file: str) -> set[str]:
    """The words in backticks of a file's line in the documentation's table."""
    (line,) = [
        t for t in DOCUMENTATION.read_text(encoding="utf-8").splitlines() if t.startswith(f"| `{file}`")
    ]
    return {word.partition(":")[0] for word in line.split("`")[3::2]}


def shape(value: Any) -> Any:
    """Keys alone, of mappings whose keys are fixed."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def test_the_files_have_exactly_the_documented_keys(cut_run: Run) -> None:
    run = cut_run
    summary, example = run.read_summary(), documented_summary()
    for side in ("start", "final"):
        assert summary["orders"][side].keys() == example["orders"][side].keys()
    assert shape(summary) == shape(example)
    assert {key for line in run.read_metrics() for key in line} == documented_keys("metrics.jsonl")
    for line in run.read_compression():
        assert set(line) == documented_keys("compression.jsonl")
    statuses = {"running", "done", "failed", "interrupted", "pruned"}
    # Which this has none of: a teacher, and a model that it began with.
    others = {"teacher", "initial", "train.initial"}
    assert set(run.read_info()) >= documented_keys("run.json") - statuses - others
    assert documented_keys("run.json") >= statuses
    assert run.read_info()["status"] == "done"


def test_numbers_of_the_summary(cut_run: Run) -> None:
    run = cut_run
    summary, metrics = run.read_summary(), run.read_metrics()
    evaluations = [m for m in metrics if "validation_accuracy" in m]
    best = max(evaluations, key=lambda m: m["validation_accuracy"])
    assert summary["validation"]["accuracy"] == evaluations[-1]["validation_accuracy"]
    assert summary["validation"]["best_accuracy"] == best["validation_accuracy"]
    assert summary["validation"]["best_step"] == best["step"]
    assert evaluations[-1]["flops"] == summary["flops"]["training"]
    spent = [m["seconds"] for m in evaluations]
    assert spent == sorted(spent)
    assert 0 < spent[0] < spent[-1] <= summary["seconds"]["total"]
    assert summary["test"]["rows"] == 360
    assert summary["checkpoint_bytes"] == run.final_checkpoint.stat().st_size
    final = Checkpoint.load(run.final_checkpoint).build_model()
    assert summary["parameters"]["final"] == sum(p.numel() for p in final.parameters())
    seconds = summary["seconds"]
    parts = [value for name, value in seconds.items() if name not in ("total", "training_cpu")]
    assert all(value >= 0 for value in parts)
    assert sum(parts) == pytest.approx(seconds["total"])
    assert 0 < seconds["training_cpu"] <= 1.1 * seconds["training"]
    assert summary["step_seconds"]["start"] > 0
    assert summary["step_seconds"]["final"] > 0


def test_flops_are_summed_over_the_segments_between_cuts(cut_recipe: Recipe, cut_run: Run) -> None:
    recipe, run = cut_recipe, cut_run
    spec = recipe.data.spec()

    def model(order: int) -> torch.nn.Module:
        return build_model(recipe.model, spec, {LAYER: order})

    trained_with = [m["orders"][LAYER] for m in run.read_metrics() if "orders" in m]
    per_step = {n: training_step_flops(model(n), example_batch(spec, 16)) for n in set(trained_with)}
    flops = run.read_summary()["flops"]
    assert len(per_step) == 3
    assert flops["training"] == sum(per_step[n] for n in trained_with)
    assert flops["training_start_per_step"] == per_step[8]
    assert flops["training_final_per_step"] == per_step[trained_with[-1]]
    assert flops["inference_final_per_sequence"] == inference_flops(
        model(trained_with[-1]), example_batch(spec, 1)
    )


@pytest.mark.usefixtures("rough_flops")
def test_the_test_split_is_evaluated_once_and_last(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    test_labels = tiny().data.load().test.labels
    evaluated: list[bool] = []

    def watched(model: Any, split: Any, *args: Any) -> Any:
        evaluated.append(torch.equal(split.labels, test_labels))
        return original(model, split, *args)

    original = validation.evaluate
    monkeypatch.setattr(validation, "evaluate", watched)
    train(tiny(compression={**CUTS, "safety": {"trial_steps": 3}}))
    assert evaluated[-1]
    assert sum(evaluated) == 1
    assert len(evaluated) > 5


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("keep", [1, 3])
def test_checkpoints_are_kept_as_asked(tiny: Maker, train: Trainer, keep: int) -> None:
    recipe = tiny(train={"checkpoint_every": 4}, output={"keep_last": keep})
    run = train(recipe)
    assert [p.name for p in run.last_checkpoints()] == [f"last-{s:09d}.pt" for s in (24, 28, 30)][-keep:]
    names = {p.name for p in run.checkpoints.iterdir()}
    assert names == {"best.pt", "final.pt", *(p.name for p in run.last_checkpoints())}
    best, last = Checkpoint.load(run.best_checkpoint), Checkpoint.load(run.last_checkpoints()[-1])
    assert best.step == run.read_summary()["validation"]["best_step"]
    assert best.training is None
    assert last.step == 30
    assert last.training is not None
    assert Checkpoint.load(run.final_checkpoint).step == 30


@pytest.mark.usefixtures("rough_flops")
def test_the_written_recipe_trains_the_same_again(tiny: Maker, train: Trainer, same_weights: Same) -> None:
    recipe = tiny(steps=5, compression=CUTS).model_copy(update={"seeds": [3, 4]})
    run = train(recipe, seed=4)
    again = load_recipe(run.recipe_path)
    assert again.seeds == [4]
    assert same_weights(run, train(again, seed=again.seeds[0]))


@pytest.mark.parametrize("form", ["auto", "convolution", "recurrent"])
def test_a_forecast_is_what_the_run_then_finds(tiny: Maker, train: Trainer, form: str) -> None:
    recipe = tiny(compression=CUTS, train={"form": form})
    known, summary = forecast(recipe), train(recipe).read_summary()
    assert known.orders == summary["orders"]["start"]
    assert known.parameters == summary["parameters"]["start"]
    assert known.training_step_flops == summary["flops"]["training_start_per_step"]
    assert known.inference_flops_per_sequence == summary["flops"]["inference_start_per_sequence"]
    assert known.check_steps == [7, 14]


# ---- gradient clipping, precision, compilation --------------------------------------------------------


@pytest.mark.usefixtures("rough_flops")
def test_clipping_bounds_the_norm_of_all_gradients(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []

    def watched(self: loop.Trainer) -> None:
        original(self)
        gradients = [p.grad for p in self.state.model.parameters() if p.grad is not None]
        norms.append(float(torch.stack([g.norm() for g in gradients]).norm()))

    original = loop.Trainer._update
    monkeypatch.setattr(loop.Trainer, "_update", watched)
    train(tiny(steps=5))
    free = list(norms)
    norms.clear()
    train(tiny(steps=5, train={"clip_norm": 0.1}))
    assert max(free) > 0.2
    assert norms == pytest.approx([min(0.1, norm) for norm in norms], rel=1e-3)
    assert max(norms) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.usefixtures("rough_flops")
def test_bf16_keeps_recurrent_parameters_and_states_in_fp32(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.dtype, ...]] = []

    def watched(x: Tensor, matrix: Tensor, out: Tensor) -> None:
        original(x, matrix, out)
        seen.append((x.dtype, matrix.dtype, out.dtype))

    original = recurrent._product
    monkeypatch.setattr(recurrent, "_product", watched)
    run = train(
        tiny(compression={**CUTS, "gramian": "analytic"}, train={"precision": "bf16", "form": "recurrent"})
    )
    assert set(seen) == {(torch.bfloat16, torch.bfloat16, torch.float32)}
    weights = Checkpoint.load(run.final_checkpoint).weights
    assert {w.dtype for w in weights.values() if w.is_floating_point()} == {torch.float32}
    assert run.read_summary()["precision"] == "bf16"
    assert run.read_summary()["checks"]["cut"] == 2


@pytest.mark.slow
@pytest.mark.usefixtures("rough_flops")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_run_survives_a_cut(tiny: Maker, train: Trainer) -> None:
    from torch._inductor import config as inductor  # takes a second

    cut = {**CUTS, "schedule": {"kind": "listed", "at_steps": [3]}}
    plain = train(tiny(steps=6, compression=cut))
    # Processes that compile would have to import PyTorch first.
    with inductor.patch(compile_threads=1):
        compiled = train(tiny(steps=6, compression=cut, train={"compile": True}))
    summary = compiled.read_summary()
    assert summary["orders"] == plain.read_summary()["orders"]
    assert summary["orders"]["final"][LAYER] < 8
    assert summary["seconds"]["compile"] > 1.0
    # Dropout draws other numbers in compiled code: alike, not equal.
    losses = [[m["train_loss"] for m in run.read_metrics() if "train_loss" in m] for run in (plain, compiled)]
    assert losses[1] == pytest.approx(losses[0], rel=0.3)


# ---- failures -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("rough_flops")
def test_a_diverged_run_fails_with_advice(tiny: Maker, train: Trainer) -> None:
    recipe = tiny(train={"learning_rate": 10.0, "recurrent_lr_factor": 100.0, "checkpoint_every": 1})
    with pytest.raises(RunFailedError, match=r"try a lower train\.learning_rate"):
        train(recipe)
    (run,) = Run.find(Path(recipe.output.root) / "tiny")
    info = run.read_info()
    assert info["status"] == "failed"
    assert info["finished"] is not None
    assert "train.learning_rate" in info["error"]
    with pytest.raises(BadInputError, match="has not finished"):
        run.read_summary()
    for path in run.last_checkpoints():
        assert all(bool(w.isfinite().all()) for w in Checkpoint.load(path).weights.values())


@pytest.mark.usefixtures("rough_flops")
def test_an_interrupted_run_says_so(tiny: Maker, train: Trainer) -> None:
    class Interrupting(SilentView):
        closed = False

        def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
            if step == 4:
                raise KeyboardInterrupt

        def close(self) -> None:
            self.closed = True

    recipe, view = tiny(), Interrupting()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=view)
    (run,) = Run.find(Path(recipe.output.root) / "tiny")
    assert run.read_info()["status"] == "interrupted"
    assert view.closed


@pytest.mark.usefixtures("rough_flops")
def test_a_disk_that_refuses_is_a_failed_run(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Checkpoint, "save", full)
    recipe = tiny()
    with pytest.raises(RunFailedError, match="cannot be written: No space left on device"):
        train(recipe)
    (run,) = Run.find(Path(recipe.output.root) / "tiny")
    assert run.read_info()["status"] == "failed"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ({"target_order": [3, 4]}, r"lists 2 orders for 3 blocks; write one number, or 3"),
        ({"target_order_total": 2}, r"target_order_total is 2 for 3 blocks.*write 3 or more"),
    ],
)
def test_targets_that_do_not_fit_the_model_are_bad_input(
    tiny: Maker, target: dict[str, Any], message: str
) -> None:
    recipe = tiny(compression={"method": "hankel", **target}, model={"depth": 3})
    with pytest.raises(BadInputError, match=message):
        experiment.check_recipe(recipe)


def test_methods_without_checks_have_none() -> None:
    assert METHODS["none"](METHODS["none"].Config(method="none")).check_steps(1000) == []
