"""Runs that learn real numbers, or are judged by something else than accuracy, from the recipe to the comparison."""

import io
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from compressm_cli import exchange
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.cli.main import run as command
from compressm_cli.core.errors import BadInputError
from compressm_cli.data.digits import Digits
from compressm_cli.data.interface import IGNORE, Dataset, DataSpec, Split
from compressm_cli.engine import experiment, validation
from compressm_cli.engine.batches import share_of
from compressm_cli.engine.forecast import forecast
from compressm_cli.engine.step import training_step
from compressm_cli.engine.trainee import random_batch
from compressm_cli.engine.view import SilentView
from compressm_cli.measure.probe import example_batch
from compressm_cli.objectives.language import Language
from compressm_cli.objectives.regression import Forecasting
from compressm_cli.recipe import Recipe, RecipeError, load_recipe
from compressm_cli.recipe.schema import TrainConfig
from compressm_cli.render.html import write_html
from compressm_cli.render.plain_view import PlainView
from compressm_cli.render.plots import run_plots
from compressm_cli.reports import Tolerances, compare
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery

Maker = Callable[..., Recipe]
Trainer = Callable[..., Run]
Same = Callable[[Run, Run], bool]

LAYER = "blocks.0.layer"
ROWS = (48, 16, 16)
PLAIN = {"norm": "layer", "dropout": 0.0}
EVERY = {"eval_every": 4, "checkpoint_every": 4, "log_every": 4, "batch_size": 16}


def cuts(**safety: Any) -> dict[str, Any]:
    schedule = {"kind": "listed", "at_steps": [6]}
    return {
        "method": "hankel",
        "target_order": 4,
        "schedule": schedule,
        "safety": {"trial_steps": 6, **safety},
    }


def numbers(spec: DataSpec, rows: int, seed: int) -> Split:
    """Sums over the steps so far; some are missing, and rows are of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(rows, spec.length, 1, generator=generator)
    sums = inputs.cumsum(1)
    labels = torch.cat([sums, -2.0 * sums], dim=-1)
    lengths = torch.randint(3, spec.length + 1, (rows,), generator=generator)
    if not spec.per_step:
        labels = labels[torch.arange(rows), lengths - 1]
    else:
        labels[torch.arange(spec.length) >= lengths[:, None]] = torch.nan
        labels[:, 0] = torch.nan
    return Split(inputs, labels, lengths)


@pytest.fixture(params=["regression", "forecasting"])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The digits are a task of real numbers here, two for each sequence or each step."""
    per_step = request.param == "forecasting"
    spec = DataSpec(classes=0, length=9, features=1, rows=ROWS, per_step=per_step, targets=2)

    def load(task: Digits) -> Dataset:
        return Dataset(spec, *(numbers(spec, rows, seed) for seed, rows in enumerate(ROWS)))

    monkeypatch.setattr(Digits, "load", load)
    monkeypatch.setattr(Digits, "spec", lambda task: spec)
    monkeypatch.setattr(Digits, "own_objective", request.param)
    return str(request.param)


def best_of(run: Run, name: str, choose: Callable[..., Any] = min) -> dict[str, Any]:
    """The evaluation with the best value, of those after no cut that is on trial."""
    lines = [m for m in run.read_metrics() if "validation_loss" in m and not m.get("after_cut")]
    return choose(lines, key=lambda m: m[f"validation_{name}"])  # type: ignore[no-any-return]


# ---- real numbers -----------------------------------------------------------------------------------------


def test_a_run_of_real_numbers(tiny: Maker, train: Trainer, kind: str, tmp_path: Path) -> None:
    run = train(tiny(steps=16, model=PLAIN, train=EVERY))
    summary, best = run.read_summary(), best_of(run, "mse")
    assert (summary["format"], summary["objective"]) == (2, kind)
    assert summary["primary"] == {
        "name": "mse", "title": "mean squared error", "higher_is_better": False, "unit": "number"
    }  # fmt: skip
    assert summary["validation"]["best_mse"] == best["validation_mse"]
    assert summary["validation"]["best_step"] == best["step"] == Checkpoint.load(run.best_checkpoint).step
    losses = [m["validation_loss"] for m in run.read_metrics() if "validation_loss" in m]
    assert losses[-1] < losses[0]
    test = experiment.load_data(load_recipe(run.recipe_path)).test
    model = Checkpoint.load(run.final_checkpoint).build_model().eval()
    with torch.no_grad():
        wrong = (model(test.inputs, test.lengths).double() - test.labels)[test.scored]
    assert summary["test"]["mse"] == pytest.approx(float(wrong.square().mean()), rel=1e-5)
    assert summary["test"]["mae"] == pytest.approx(float(wrong.abs().mean()), rel=1e-5)
    assert summary["test"]["labels"] == len(wrong)
    assert summary["test"]["r2"] < 1
    assert len(run_plots(run, pytest.fail, tmp_path)) == 1


@pytest.mark.parametrize("tolerance", [1e6, 0.0])
def test_a_cut_goes_by_the_error_and_a_resumed_run_ends_bit_equal(
    tiny: Maker,
    train: Trainer,
    same_weights: Same,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    tolerance: float,
) -> None:
    worsened(monkeypatch, "mse", 1.5)
    recipe = tiny(steps=20, compression=cuts(tolerance=tolerance), model=PLAIN, train=EVERY)
    whole, kept = train(recipe), tolerance > 0
    line = whole.read_compression()[0]
    assert line["accepted"] is kept
    assert "validation mean squared error" in line["reason"]
    assert whole.read_summary()["orders"]["final"] == {LAYER: 4 if kept else 8}

    class Interrupting(SilentView):
        def evaluation(self, step: int, loss: float, value: float | None) -> None:
            if step == 12:  # the end of the trial
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, view=Interrupting())
    part = Run.find(Path(recipe.output.root) / recipe.name)[-1]
    experiment.resume(part, load_recipe(part.recipe_path), SilentView(), "test")
    assert same_weights(whole, part)
    assert part.read_summary()["validation"] == whole.read_summary()["validation"]
    assert part.read_summary()["test"] == whole.read_summary()["test"]


def worsened(monkeypatch: pytest.MonkeyPatch, name: str, factor: float | None) -> None:
    """A metric is 1 before a cut and ``factor`` after it, None where it cannot be known then."""
    original = validation.evaluate

    def evaluate(model: Any, *args: Any) -> Any:
        result = original(model, *args)
        value = factor if surgery.orders(model)[LAYER] < 8 else 1.0
        return replace(result, metrics={**result.metrics, name: value})

    monkeypatch.setattr(validation, "evaluate", evaluate)


@pytest.mark.usefixtures("rough_flops")
@pytest.mark.parametrize("factor", [1.019, 1.021, None])
def test_a_tolerance_may_be_relative(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch, factor: float | None
) -> None:
    worsened(monkeypatch, "perplexity", factor)
    recipe = tiny(steps=14, compression=cuts(relative=True), model=PLAIN, train=EVERY, **text("perplexity"))
    run = train(recipe)
    assert run.read_compression()[0]["accepted"] is (factor == 1.019)
    best = run.read_summary()["validation"]
    assert best["best_perplexity"] == 1.0
    told = "not known" if factor is None else f"{factor}"
    assert f"validation perplexity 1 before, {told} after 6" in run.read_compression()[0]["reason"]


def text(primary: str) -> dict[str, Any]:
    data = {"task": "text_lm", "max_bytes": 4000, "length": 16}
    return {"data": data, "objective": {"kind": "language", "primary": primary}}


# ---- other metrics of classes --------------------------------------------------------------------------------


@pytest.mark.usefixtures("rough_flops")
def test_a_language_model_may_be_judged_by_perplexity(tiny: Maker, train: Trainer) -> None:
    run = train(tiny(steps=12, model=PLAIN, train=EVERY, **text("perplexity")))
    evaluated = [m for m in run.read_metrics() if "validation_loss" in m]
    for line in evaluated:
        assert line["validation_perplexity"] == pytest.approx(math.exp(line["validation_loss"]), rel=1e-12)
        assert line["validation_bits_per_byte"] == pytest.approx(
            line["validation_loss"] / math.log(2), rel=1e-12
        )
    assert evaluated[-1]["validation_perplexity"] < evaluated[0]["validation_perplexity"]
    assert (
        run.read_summary()["validation"]["best_perplexity"]
        == best_of(run, "perplexity")["validation_perplexity"]
    )
    assert Checkpoint.load(run.best_checkpoint).step == best_of(run, "perplexity")["step"]


@pytest.mark.usefixtures("rough_flops")
def test_the_objective_of_a_task_is_the_one_that_is_named_anyway(
    tiny: Maker, train: Trainer, same_weights: Same
) -> None:
    more = {"kind": "classification", "primary": "macro_f1", "metrics": ["auc"]}
    own, named = (train(tiny(steps=8, train=EVERY, **parts)) for parts in ({}, {"objective": more}))
    assert same_weights(own, named)
    one, other = own.read_summary(), named.read_summary()
    assert one["test"].keys() == {"accuracy", "loss", "rows", "labels"}
    assert other["test"].items() >= one["test"].items()
    assert 0 < other["test"]["macro_f1"] < 1
    assert 0 < other["test"]["auc"] < 1
    stream = io.StringIO()
    PlainView(stream).finish(other)
    for title, name in (("AUC", "auc"), ("accuracy", "accuracy")):
        assert re.search(rf"test {title} +{other['test'][name]:.1%}", stream.getvalue())
    assert other["axes"]["start"]["states"] == sum(other["orders"]["start"].values())
    assert other["validation"]["best_macro_f1"] == best_of(named, "macro_f1", max)["validation_macro_f1"]


# ---- what others make of such runs ---------------------------------------------------------------------------


def test_runs_of_real_numbers_are_compared_by_their_error(
    tiny: Maker, train: Trainer, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make = {"steps": 14, "model": PLAIN, "train": EVERY}
    base = train(tiny(**make))
    small = train(tiny(**make, compression=cuts(tolerance=1e6)), view=PlainView(sys.stderr))
    told = capsys.readouterr().err
    mse = small.read_summary()["test"]["mse"]
    assert re.search(r"step 4/14  validation loss [\d.]+, mean squared error [\d.]+\n", told)
    assert re.search(rf"test mean squared error +{mse:.4g} ", told)
    sides = (base.folder, [small.folder])
    report = compare(*sides, speed=False, tolerances=Tolerances(at_most={"test_mse": 1e3, "test_mae": 1e-3}))
    row, found = report.rows[0], [run.read_summary()["test"]["mse"] for run in (base, small)]
    assert (row.key, row.higher_is_better) == ("test_mse", False)
    assert row.changes[1] is not None
    assert row.changes[1].ratio == pytest.approx(found[1] / found[0])
    assert [t.holds for t in report.tolerances] == [True, False]
    assert f"test mean squared error {found[1]:.4g} against {found[0]:.4g}" in report.verdict[0]
    assert report.agreement[1] is not None
    assert report.agreement[1].reason == "the models say real numbers, not classes"
    assert not any("judged by different" in warning for warning in report.warnings)
    write_html(report, tmp_path / "page.html", pytest.fail)
    assert "Validation over training steps" in (tmp_path / "page.html").read_text()
    with pytest.raises(BadInputError, match=r"judged by mean squared error.*--at-most test_mse=1\.02"):
        compare(*sides, speed=False, tolerances=Tolerances(points=1.0))


def test_a_model_of_real_numbers_is_cut_exported_and_read(
    tiny: Maker, train: Trainer, kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(tiny(steps=4, model=PLAIN, train=EVERY))
    small, folder = tmp_path / "small.pt", tmp_path / "exported"
    assert command(["compress", str(run.folder), "--order", "3", "--output", str(small)]) == 0
    assert re.search(r"validation loss .*, mean squared error [\d.]+ -> [\d.]+", capsys.readouterr().out)
    assert command(["export", str(small), "--to", "safetensors", "--output", str(folder)]) == 0
    read = exchange.load(folder)
    assert read.data == Checkpoint.load(small).data
    assert read.data.targets == 2
    assert read.orders == {LAYER: 3}
    recipe = Path(run.recipe_path)
    assert command(["train", str(recipe), "--dry-run"]) == 0
    assert "2 real numbers to say" in capsys.readouterr().out


@pytest.mark.usefixtures("rough_flops")
def test_runs_with_other_metrics_are_compared_by_the_baselines_and_that_is_told(
    tiny: Maker, train: Trainer
) -> None:
    own, other = (
        train(tiny(steps=4, model=PLAIN, train=EVERY, **{**text(p), **parts}))
        for p, parts in (("accuracy", {}), ("perplexity", {}))
    )
    report = compare(own.folder, [other.folder], speed=False)
    assert (
        "judged by different metrics, perplexity and accuracy; compared here is accuracy"
        in report.warnings[0]
    )
    assert report.rows[0].changes[1] is not None
    assert [row.key for row in report.rows][2:4] == ["test_perplexity", "test_bits_per_byte"]
    report = compare(other.folder, [own.folder], speed=False)
    assert report.rows[0].key == "test_perplexity"
    assert report.rows[0].changes[1] is not None


@pytest.mark.usefixtures("rough_flops")
def test_losses_of_objectives_that_compute_them_otherwise_are_not_compared(
    tiny: Maker, train: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = (
        train(tiny(steps=2, model=PLAIN, train=EVERY, **parts))
        for parts in (text("accuracy"), {**text("accuracy"), "objective": {"kind": "classification"}})
    )
    known = compare(own.folder, [other.folder], speed=False).row("test_loss")
    assert known.changes[1] is not None
    assert known.changes[1].ratio == 1.0
    monkeypatch.setattr(Language, "loss", lambda *_: None)
    row = compare(own.folder, [other.folder], speed=False).row("test_loss")
    assert row.changes[1] is None
    assert row.values[1].reason == "its loss is that of another objective, classification"


def test_what_a_run_will_cost_is_known_of_real_numbers(tiny: Maker, kind: str) -> None:
    recipe = tiny(model=PLAIN, train={"batch_size": 16})
    known = forecast(recipe)
    assert known.training_step_flops > known.inference_flops_per_sequence > 0
    batch = example_batch(known.data, 3)
    drawn = random_batch(known.data, 3, torch.device("cpu"))
    rows = (3, 9, 2) if kind == "forecasting" else (3, 2)
    assert batch.labels.shape == drawn.labels.shape == rows
    assert batch.labels.dtype == drawn.labels.dtype == torch.float32
    assert bool(drawn.scored.all())


@pytest.mark.parametrize(("count", "parts"), [(1, 1), (1, 3), (2, 1), (3, 2), (2, 4)])
def test_shares_of_real_labels_make_up_the_batch_and_its_gradient(count: int, parts: int) -> None:
    spec = DataSpec(classes=0, length=9, features=1, per_step=True, targets=2)
    batch, config = numbers(spec, 11, 0), TrainConfig(steps=1, accumulate=parts)
    head = nn.Linear(1, 2)
    wrong = (head(batch.inputs) - batch.labels)[batch.scored]
    expected = wrong.square().mean()
    expected.backward()
    whole, gradient, losses = head.weight.grad.clone(), torch.zeros(2, 1), []  # type: ignore[union-attr]

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, inputs: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
            return self.head(inputs)  # type: ignore[no-any-return]

    model = Model()
    for rank in range(count):
        share = share_of(batch.rows(torch.arange(11)), rank, count, parts)
        step = (model, torch.optim.SGD(model.parameters(), lr=0.0), share, config)
        losses.append(training_step(*step, objective=Forecasting(None, spec)))
        gradient += head.weight.grad / count  # type: ignore[operator]
    torch.testing.assert_close(sum(losses), expected.detach(), rtol=1e-5, atol=0)
    torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-6)


# ---- what is refused -----------------------------------------------------------------------------------------

RECIPE = """name: tiny
data: {task: digits}
model: {layer: {kind: lru, state_dim: 8}, model_dim: 8}
train: {steps: 4}
"""


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (
            "objective: {kind: regression}\n",
            "5:12: objective: regression takes real numbers, and these labels are classes; write kind: classification",
        ),
        (
            "objective: {kind: language}\n",
            "5:12: objective: language takes a token for each step, and these labels are classes; "
            "write kind: classification",
        ),
        (
            "objective: {kind: classification, primary: mse}\n",
            "5:44: objective.primary: .*accuracy, macro_f1",
        ),
        (
            "objective: {kind: classification, metrics: [auc, auc]}\n",
            "5:44: objective.metrics: metrics repeat",
        ),
        (
            "compression: {method: hankel, keep_fraction: 0.5, safety: {tolerance: 1.5}}\n",
            r"5:71: compression.safety.tolerance: 1\.5 is out of range for accuracy; write a number from 0 to 1",
        ),
        (
            "compression: {method: hankel, keep_fraction: 0.5, safety: {tolerance: 1.5, relative: true}}\n",
            r"5:71: compression.safety.tolerance: 1\.5 is out of range for a share of the value before",
        ),
    ],
)
def test_errors_have_their_place(tmp_path: Path, lines: str, problem: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE + lines)
    with pytest.raises(RecipeError, match=problem):
        load_recipe(path)


def test_a_difference_of_numbers_is_not_limited(tiny: Maker) -> None:
    recipe = tiny(compression=cuts(tolerance=25.0), model=PLAIN, **text("perplexity"))
    assert recipe.compression.safety.tolerance == 25.0
    with pytest.raises(RecipeError, match="primary: bits_per_byte takes a task that knows"):
        tiny(
            model=PLAIN,
            data={"task": "tokens", "vocabulary": 9, "length": 8},
            objective={"kind": "language", "primary": "bits_per_byte"},
        )


@pytest.mark.parametrize("targets", [None, 2])
def test_labels_beyond_the_length_of_a_row_are_refused(
    tiny: Maker, monkeypatch: pytest.MonkeyPatch, targets: int | None
) -> None:
    spec = DataSpec(0 if targets else 3, length=5, features=1, rows=(2, 2, 2), per_step=True, targets=targets)
    labels = torch.zeros(2, 5, 2) if targets else torch.zeros(2, 5, dtype=torch.long)
    labels[0, 3:] = torch.nan if targets else IGNORE
    good = Split(torch.zeros(2, 5, 1), labels, torch.tensor([3, 5]))
    monkeypatch.setattr(Digits, "spec", lambda task: spec)
    monkeypatch.setattr(Digits, "own_objective", "forecasting" if targets else "classification")
    monkeypatch.setattr(Digits, "load", lambda task: Dataset(spec, good, good, good))
    experiment.load_data(tiny(model=PLAIN))
    bad = replace(good, lengths=torch.tensor([2, 5]))
    monkeypatch.setattr(Digits, "load", lambda task: Dataset(spec, good, bad, good))
    unscored = "NaN" if targets else IGNORE
    with pytest.raises(BadInputError, match=f"validation split .* beyond the length .* must be {unscored}"):
        experiment.load_data(tiny(model=PLAIN))


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (torch.zeros(4, dtype=torch.long), "labels of torch.int64, and its spec 0 classes and targets=2"),
        (torch.zeros(4, 3), r"labels of the shape \(4, 3\) instead of \(4, 2\)"),
        (torch.full((4, 2), torch.inf), "labels that are infinite"),
        (torch.full((4, 2), torch.nan), "no label is scored: all are nan"),
    ],
)
def test_labels_that_are_none_are_refused(
    tiny: Maker, monkeypatch: pytest.MonkeyPatch, labels: torch.Tensor, problem: str
) -> None:
    spec = DataSpec(classes=0, length=5, features=1, rows=(4, 4, 4), targets=2)
    split = Split(torch.zeros(4, 5, 1), labels)
    monkeypatch.setattr(Digits, "load", lambda task: Dataset(spec, split, split, split))
    monkeypatch.setattr(Digits, "spec", lambda task: spec)
    monkeypatch.setattr(Digits, "own_objective", "regression")
    with pytest.raises(BadInputError, match=f"(?i){problem}"):
        experiment.load_data(tiny(model=PLAIN))
