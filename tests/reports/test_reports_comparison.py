"""What ``compare`` finds between runs."""

import copy
import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from made_runs import MakeRun, tiny_checkpoint, tiny_recipe

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.objectives.classification import ACCURACY
from compressm_cli.objectives.objective import Metric
from compressm_cli.recipe import recipe_from_mapping, recipe_to_mapping, recipe_to_yaml
from compressm_cli.render.comparison_plots import _bars
from compressm_cli.render.tables import comparison_tables
from compressm_cli.reports import ComparisonReport, Tolerances, compare, comparison, metrics
from compressm_cli.reports.arms import read_arms


def quick(baseline: Path, *others: Path, tolerances: Tolerances | None = None) -> ComparisonReport:
    """Without measuring speed."""
    return compare(baseline, list(others), speed=False, tolerances=tolerances)


def test_one_seed_has_differences_but_no_interval(make_run: MakeRun) -> None:
    base, small = make_run(accuracy=0.95), make_run("small", orders=(3, 1), accuracy=0.94)
    report = quick(base.folder, small.folder)
    change = report.row("test_accuracy").changes[1]
    assert change is not None
    assert change.difference is not None
    assert change.difference.value == pytest.approx(-0.01)
    assert change.difference.low is None
    assert change.basis == "one seed: no interval"
    assert report.row("total_order").changes[1].ratio == pytest.approx(4 / 16)  # type: ignore[union-attr]
    assert [(x.layer, x.start, x.final) for x in report.orders] == [
        ("blocks.0.layer", [8, 8], [8, 3]),
        ("blocks.1.layer", [8, 8], [8, 1]),
    ]
    assert report.warnings == []
    assert "one seed: no interval" in report.verdict[0]
    assert any(line.startswith("Won: states, all layers 0.25x; ") for line in report.verdict)


def test_what_was_not_measured_stays_unknown(make_run: MakeRun) -> None:
    report = quick(make_run().folder, make_run("small", orders=(3, 1)).folder)
    joules = report.row("joules")
    assert [v.mean for v in joules.values] == [None, None]
    assert joules.values[0].reason == "not measured: no energy counter"
    assert joules.changes == [None, None]
    assert "Not known: joules." in report.verdict
    assert (report.speed, report.speed_reason) == (None, "switched off with --no-speed")


def test_budgets_are_told_where_there_is_one(make_run: MakeRun) -> None:
    plain, cut = make_run(), make_run("cut", orders=(3, 1), summary={"budget": BUDGET})
    report = quick(plain.folder, cut.folder)
    table = next(table for table in comparison_tables(report) if table.title == "Budgets")
    assert table.rows == [
        ["baseline, seed 0", "none", "", "", ""],
        ["cut, seed 0", "0.65x: 1.30 TFLOP, 100.8 % spent", "2,811", "1,950", "yes"],
    ]
    assert "Budgets" not in [table.title for table in comparison_tables(quick(plain.folder, plain.folder))]
    damaged = make_run("damaged", summary={"budget": {**BUDGET, "unit": "miles"}})
    with pytest.raises(BadInputError, match=r"budget.unit is 'miles'; the run's record is damaged"):
        quick(plain.folder, damaged.folder)


DAMAGED = [
    ("test.accuracy", "x", "test.accuracy must be null or a finite number up to 1e+100, found the text 'x'"),
    ("test.accuracy", float("nan"), "test.accuracy must be null or a finite number up to 1e+100"),
    ("test", 3, "test must be a mapping, found the number 3"),
    ("primary", "accuracy", "primary must be a mapping"),
    ("primary.name", "loss", "primary.name must be 'accuracy', as its recipe says, found the text 'loss'"),
    ("primary.higher_is_better", False, "primary.higher_is_better must be True"),
    ("test.accuracy", 1.5, "test.accuracy must be null or a number from 0 to 1, found the number 1.5"),
    ("validation.accuracy", -0.1, "validation.accuracy must be null or a number from 0 to 1"),
    ("validation.best_accuracy", 2, "validation.best_accuracy must be null or a number from 0 to 1"),
    ("validation.best_step", -1, "validation.best_step must be a whole number, found the number -1"),
    ("test.loss", -2.0, "test.loss must be null or a number of at least 0"),
    ("steps", 1.5, "steps must be a whole number, found the number 1.5"),
    ("checks.cut", None, "checks.cut must be a whole number, found nothing (null)"),
    (
        "flops.training_start_per_step",
        -1,
        "flops.training_start_per_step must be null or a number of at least 0",
    ),
    ("seconds.evaluation", "x", "seconds.evaluation must be null or a finite number"),
    ("orders.final", {"blocks.0.layer": "8"}, "orders.final.blocks.0.layer must be a whole number"),
    (
        "orders.final",
        {"blocks.0.layer": 3},
        "orders.final.blocks.1.layer must be 1, as in final.pt, found nothing",
    ),
    (
        "orders.final",
        {"blocks.0.layer": 3, "blocks.1.layer": 1, "blocks.2.layer": 4},
        "orders.final.blocks.2.layer must be that of a layer of the model, found",
    ),
    (
        "orders.final",
        {"blocks.0.layer": 4, "blocks.1.layer": 1},
        "orders.final.blocks.0.layer must be 3, as in",
    ),
    ("parameters.final", None, "parameters.final must be a number, found nothing"),
    ("parameters.final", -3, "parameters.final must be null or a number of at least 0, found the number -3"),
    ("flops.training", -1e9, "flops.training must be null or a number of at least 0"),
    ("seconds.training", -1.5, "seconds.training must be null or a number of at least 0"),
    ("axes", None, "has no entry 'axes.start'"),
    ("axes.final", 3, "axes.final must be a mapping, found the number 3"),
    ("axes.start", {"heads": None}, "axes.start.heads must be a whole number, found nothing (null)"),
    ("seed", [0], "seed must be 0, as its recipe says, found a list"),
    ("seed", 1, "seed must be 0, as its recipe says, found the number 1"),
    ("seed", None, "seed must be 0, as its recipe says, found nothing (null)"),
    ("seconds", [1], "seconds must be a mapping"),
    ("budget.limit", "much", "budget.limit must be null or a finite number"),
    ("budget.steps.done", 1.5, "budget.steps.done must be a whole number"),
]
BUDGET = {
    "unit": "flops", "asked": "0.65x", "reinvest": True, "limit": 1.3e12, "uncut_per_step": 1, "spent": 1.31e12,
    "share": 1.01, "steps": {"planned": 1950, "done": 2811},
}  # fmt: skip
RECORD = {
    "budget": BUDGET,
    "primary": {"name": "accuracy", "title": "accuracy", "higher_is_better": True, "unit": "share"},
    "axes": {"start": {"heads": 4}, "final": {"heads": 2}},
}


def holder(record: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The mapping that has an entry, and its last key."""
    *parts, last = key.split(".")
    for part in parts:
        record = record[part]
    return record, last


@pytest.mark.parametrize(("key", "value", "message"), DAMAGED)
def test_a_damaged_record_is_told_with_its_file_and_entry(
    make_run: MakeRun, key: str, value: Any, message: str
) -> None:
    base, damaged = make_run(), make_run("damaged", orders=(3, 1), summary=copy.deepcopy(RECORD))
    quick(base.folder, damaged.folder)
    summary = damaged.read_summary()
    mapping, last = holder(summary, key)
    mapping[last] = value
    (damaged.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    for paths in ((base.folder, damaged.folder), (damaged.folder, base.folder)):
        with pytest.raises(BadInputError) as caught:
            quick(*paths)
        assert str(caught.value).startswith(f"{damaged.folder / 'summary.json'}: {message}")


def keys_of(record: dict[str, Any], start: str = "") -> Iterator[str]:
    for key, value in record.items():
        if "." not in key:
            yield f"{start}{key}"
            if isinstance(value, dict):
                yield from keys_of(value, f"{start}{key}.")


@pytest.mark.parametrize("file", ["summary.json", "run.json"])
def test_any_entry_of_a_record_may_be_damaged(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.setattr(comparison, "prediction_agreement", lambda arms, device: [None] * len(arms))
    base, damaged = make_run(), make_run("damaged", orders=(3, 1), summary=copy.deepcopy(RECORD))
    path = damaged.folder / file
    whole = json.loads(path.read_text(encoding="utf-8"))
    values = ["x", "\x1b[31m\n", -1, 1.5, 10**400, float("nan"), 1e308, True, None, [1], {"a": 1}, [], {}]
    draw = random.Random(0)
    told = []
    for key in [key for key in keys_of(whole) for _ in range(2)]:
        record = copy.deepcopy(whole)
        mapping, last = holder(record, key)
        if draw.random() < 0.1:
            del mapping[last]
        else:
            mapping[last] = draw.choice(values)
        path.write_text(json.dumps(record), encoding="utf-8")
        try:
            report = quick(base.folder, damaged.folder)
        except BadInputError as error:
            told.append(str(error))
        else:
            json.dumps(asdict(report), allow_nan=False)
            comparison_tables(report)
    assert len(told) > 5
    assert all(line.startswith(str(damaged.folder)) and len(line) < 400 for line in told)


def test_a_line_of_a_log_without_a_step_is_told(make_run: MakeRun) -> None:
    run = make_run()
    for line in ("3", "[]", '{"loss": 1}', '{"step": "x"}'):
        (run.folder / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n', encoding="utf-8")
        with pytest.raises(BadInputError, match=r"metrics.jsonl:2: has no step; the run's record is damaged"):
            run.read_metrics()


def test_metrics_of_one_name_are_not_taken_for_each_other(make_run: MakeRun) -> None:
    member = read_arms([make_run().folder])[0].members[0]
    assert metrics._score("test", ACCURACY).read(member) == (0.9, None)
    other = Metric("accuracy", "accuracy in millimetres")
    value, reason = metrics._score("test", other).read(member)
    assert value is None
    assert reason == "what the run tells by this name is another metric, of the objective Classification"


def test_seeds_are_paired(make_run: MakeRun) -> None:
    # Seeds differ by ten points, the two sides by one point each: only pairing shows that.
    for seed, accuracy in enumerate((0.7, 0.8, 0.9)):
        base = make_run(seed=seed, accuracy=accuracy)
        small = make_run("small", seed=seed, orders=(3, 1 + seed), accuracy=accuracy + 0.01)
    report = quick(base.folder.parent, small.folder.parent)
    assert [arm.seeds for arm in report.arms] == [[0, 1, 2], [0, 1, 2]]
    change = report.row("test_accuracy").changes[1]
    assert change is not None
    assert change.difference is not None
    assert change.basis == "paired by seed (3 seeds)"
    assert change.difference.value == pytest.approx(0.01)
    assert change.difference.low == pytest.approx(0.01)
    mean = report.row("test_accuracy").values[0].mean
    assert mean is not None
    assert mean.margin == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert report.orders[1].final == [8, 2]
    assert "better beyond the spread of the seeds" in report.verdict[0]


def test_other_seeds_are_not_paired(make_run: MakeRun) -> None:
    for seed in (0, 1):
        base = make_run(seed=seed, accuracy=0.9 + seed / 100)
        small = make_run("small", seed=seed + 5, orders=(3, 1), accuracy=0.9 + seed / 100)
    report = quick(base.folder.parent, small.folder.parent)
    change = report.row("test_accuracy").changes[1]
    assert change is not None
    assert change.difference is not None
    assert change.basis == "unpaired (2 and 2 seeds)"
    assert change.difference.low is not None
    assert "compared unpaired" in report.warnings[0]
    assert report.agreement[1] is not None
    assert report.agreement[1].reason == "no seed in common"


def test_the_newest_finished_run_of_each_seed_counts(make_run: MakeRun) -> None:
    make_run(accuracy=0.1)
    newest = make_run(accuracy=0.9)
    make_run(status="failed")
    report = quick(newest.folder.parent, make_run("small", orders=(3, 1)).folder)
    assert report.arms[0].paths == [str(newest.folder)]
    assert any("1 run left out, not finished" in w for w in report.warnings)
    assert any("1 run left out, since a newer one has the same seed" in w for w in report.warnings)


def test_a_checkpoint_tells_only_what_it_can(make_run: MakeRun) -> None:
    base, small = make_run(), make_run("small", orders=(3, 1))
    report = quick(base.final_checkpoint, small.final_checkpoint)
    whole = quick(base.folder, small.folder)
    for key in ("total_order", "parameters", "checkpoint_bytes"):
        assert report.row(key).values[1].mean == whole.row(key).values[1].mean
    assert report.row("inference_flops").changes[1].ratio < 1  # type: ignore[union-attr, operator]
    for key in ("test_accuracy", "training_flops", "total_seconds", "joules"):
        assert report.row(key).values[0].mean is None
        assert "a checkpoint alone does not record it" in (report.row(key).values[0].reason or "")
    assert [x.start for x in report.orders] == [[8, 8], [8, 8]]
    assert "test accuracy not known" in report.verdict[0]


def test_agreement_of_predictions(make_run: MakeRun) -> None:
    base, same, other = make_run(), make_run("same"), make_run("other", orders=(3, 1))
    # "same" has the baseline's weights but for a head that prefers class 3 always.
    saved = Checkpoint.load(same.final_checkpoint)
    saved.weights["head.bias"] = 1e6 * torch.eye(10)[3]
    saved.save(same.final_checkpoint)
    report = quick(base.folder, base.folder, same.folder, other.folder)
    assert report.agreement[0] is None
    itself, constant, different = (a.share.value for a in report.agreement[1:] if a and a.share)
    assert itself == 1.0
    model = Checkpoint.load(base.final_checkpoint).build_model().eval()
    test = tiny_recipe("baseline", 0).data.load().test
    expected = (model(test.inputs).argmax(1) == 3).double().mean()
    assert constant == pytest.approx(float(expected))
    assert 0 <= different <= 1


def test_agreement_without_the_finished_model(make_run: MakeRun) -> None:
    base, small = make_run(), make_run("small", orders=(3, 1))
    small.final_checkpoint.unlink()
    report = compare(base.folder, [small.folder])
    assert report.agreement[1] is not None
    assert "no such checkpoint" in (report.agreement[1].reason or "")
    assert report.speed is None
    assert "no such checkpoint" in (report.speed_reason or "")


def test_warnings_about_unlike_runs(make_run: MakeRun) -> None:
    base = make_run()
    other = make_run(
        "other",
        seed=1,
        model={"dropout": 0.25},
        info={"git": {"commit": "b" * 40, "dirty": True}, "machine": {"node": "elsewhere"}},
    )
    warnings = " | ".join(quick(base.folder, other.folder).warnings)
    assert "other and baseline differ in more than compression: model.dropout: 0.25 against 0.0" in warnings
    assert "different seeds: 1 and 0" in warnings
    assert "differ in code: commit bbbbbbbbbb with uncommitted changes against commit aaaaaaaaaa" in warnings
    assert "differ in machine" in warnings
    assert "elsewhere" in warnings


def test_other_data_are_not_compared(make_run: MakeRun, tmp_path: Path) -> None:
    recipe = tiny_recipe("upsampled", 0)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"upsample": 2})})
    tiny_checkpoint(recipe).save(tmp_path / "upsampled.pt")
    report = compare(make_run().folder, [tmp_path / "upsampled.pt"])
    assert any("different data" in w and "data.upsample: 2 against 1" in w for w in report.warnings)
    assert report.agreement[1] is not None
    assert report.agreement[1].reason == "the two were trained on different data"
    assert report.speed_reason == "the models take inputs of different shapes"


def test_same_names_get_distinct_labels(make_run: MakeRun) -> None:
    one, two = make_run(seed=0), make_run(seed=1)
    labels = [arm.label for arm in quick(one.folder, two.folder).arms]
    assert labels == ["baseline v0001", "baseline v0002"]
    labels = [arm.label for arm in quick(one.folder, one.folder).arms]
    assert len(set(labels)) == 2


@pytest.mark.parametrize(("points", "holds"), [(1.0, True), (0.9, False)])
def test_tolerance_in_points(make_run: MakeRun, points: float, holds: bool) -> None:
    base, small = make_run(accuracy=0.95), make_run("small", orders=(3, 1), accuracy=0.94)
    report = quick(base.folder, small.folder, tolerances=Tolerances(points=points))
    assert report.broken is not holds
    assert ("BROKEN" in report.verdict[-1]) is not holds


def test_tolerances_on_ratios(make_run: MakeRun) -> None:
    base, small = make_run(), make_run("small", orders=(3, 1))
    limits = {"total_order": 0.25, "parameters": 0.1, "joules": 5.0, "inference_seconds_single": 5.0}
    results = quick(base.folder, small.folder, tolerances=Tolerances(at_most=limits)).tolerances
    assert [t.holds for t in results] == [True, False, False, False]
    assert results[2].found == "not known"


def test_unknown_metric_lists_the_allowed(make_run: MakeRun) -> None:
    folder = make_run().folder
    with pytest.raises(BadInputError, match=r"unknown metric; one of test_loss, total_order, parameters"):
        quick(folder, folder, tolerances=Tolerances(at_most={"size": 0.5}))
    with pytest.raises(BadInputError, match="use --tolerance-points"):
        quick(folder, folder, tolerances=Tolerances(at_most={"test_accuracy": 0.5}))
    with pytest.raises(BadInputError, match="positive number"):
        quick(folder, folder, tolerances=Tolerances(at_most={"parameters": -1.0}))
    with pytest.raises(BadInputError, match="between 0 and 100"):
        quick(folder, folder, tolerances=Tolerances(points=-1.0))


def test_bad_input(make_run: MakeRun, tmp_path: Path) -> None:
    base = make_run()
    with pytest.raises(BadInputError, match="no such file or folder"):
        quick(base.folder, tmp_path / "missing")
    running = make_run("running", status="running")
    with pytest.raises(BadInputError, match=r"not finished \(status: running\).*compressm train --resume"):
        quick(base.folder, running.folder)
    with pytest.raises(BadInputError, match="none of its 1 runs has finished"):
        quick(base.folder, running.folder.parent)
    torch.save({"format": 99}, tmp_path / "other.pt")
    with pytest.raises(BadInputError, match="checkpoint format 99"):
        quick(base.folder, tmp_path / "other.pt")
    incomplete = make_run("incomplete", summary={"seconds": {}})
    with pytest.raises(BadInputError, match=r"has no entry 'seconds\.total'"):
        quick(base.folder, incomplete.folder)
    foreign = make_run("foreign", summary={"format": 3})
    with pytest.raises(BadInputError, match="format 3; this version reads 1 and 2"):
        quick(base.folder, foreign.folder)


def test_times_taken_on_a_busy_machine_are_marked(make_run: MakeRun) -> None:
    seconds = {"total": 12.0, "training": 10.0, "evaluation": 2.0}
    calm = make_run(summary={"seconds": {**seconds, "training_cpu": 9.5}})
    busy = make_run("small", orders=(3, 1), summary={"seconds": {**seconds, "training_cpu": 4.0}})
    report = quick(calm.folder, busy.folder)
    for key in ("total_seconds", "training_seconds", "step_seconds"):
        before, after = report.row(key).values
        assert before.note is None
        assert after.note is not None
        assert "seed 0: 2.5 s" in after.note
    assert report.row("parameters").values[1].note is None
    (table, *_) = comparison_tables(report)
    marked = [row[0] for row in table.rows if row[2].endswith("]") and "not known" not in row[2]]
    assert marked == ["wall time, total", "wall time, training", "final training step"]
    (line,) = [line for line in report.verdict if line.startswith("Not known: ")]
    assert "wall time, training" in line
    assert "wall time" not in "".join(line for line in report.verdict if line.startswith(("Won", "Lost")))


def test_what_differs_is_told_as_a_recipe_says_it(make_run: MakeRun) -> None:
    base, other = make_run(), make_run("other")
    mapping = recipe_to_mapping(tiny_recipe("other", 0))
    mapping["train"] |= {"clip_norm": 1.0, "compile": True}
    mapping |= {"budget": {"flops": "0.65x"}, "objective": {"kind": "classification", "metrics": ["auc"]}}
    other.recipe_path.write_text(recipe_to_yaml(recipe_from_mapping(mapping, "test")), encoding="utf-8")
    told = next(text for text in quick(base.folder, other.folder).warnings if "more than compression" in text)
    for clause in ("train.clip_norm: 1.0 against null", "train.compile: true against false"):
        assert clause in told
    assert "objective.metrics: [auc] against []" in told
    assert told.endswith("; budget: 0.65x flops against none")
    assert told.count("budget") == 1


def test_units_of_other_axes_are_told_where_some_were_cut(make_run: MakeRun) -> None:
    axes = {
        "start": {"states": 16, "heads": 4, "neurons": 24},
        "final": {"states": 16, "heads": 4, "neurons": 12},
    }
    base, cut = make_run(), make_run("cut", summary={"axes": axes})
    report = quick(base.folder, cut.folder)
    assert [(axis.kind, axis.start, axis.final) for axis in report.axes] == [("neurons", [0, 24], [0, 12])]
    table = next(table for table in comparison_tables(report) if table.title == "Orders, from start to end")
    assert table.rows[-1] == ["neurons, all", "0 -> 0", "24 -> 12"]


def test_a_model_without_states_has_no_row_of_them(make_run: MakeRun) -> None:
    none = {"orders": {"start": {}, "final": {}}}
    runs = make_run(summary=none), make_run("cut", summary=none)
    for run in runs:  # whose models have states
        run.final_checkpoint.unlink()
    report = quick(*(run.folder for run in runs))
    assert "total_order" not in [row.key for row in report.rows]
    assert not any("states" in line for line in report.verdict)
    limit = Tolerances(at_most={"total_order": 0.5})
    assert quick(*(Path(arm.paths[0]) for arm in report.arms), tolerances=limit).broken


def test_a_number_of_seconds_plans_no_steps(make_run: MakeRun) -> None:
    budget = {
        "unit": "seconds", "asked": 10.0, "reinvest": True, "limit": 10.0, "uncut_per_step": None, "spent": 10.0,
        "share": 1.0, "steps": {"planned": 400, "done": 300},
    }  # fmt: skip
    report = quick(make_run().folder, make_run("timed", summary={"budget": budget}).folder)
    table = next(table for table in comparison_tables(report) if table.title == "Budgets")
    assert table.rows[1][2:4] == ["300", "-"]


def test_times_of_a_busy_machine_are_no_bars(make_run: MakeRun) -> None:
    busy = {"seconds": {"total": 24.0, "training": 20.0, "evaluation": 2.0, "training_cpu": 4.0}}
    report = quick(make_run().folder, make_run("busy", orders=(3, 1), summary=busy).folder)
    titles = [title for title, *_ in _bars(report)]
    assert "parameters" in titles
    assert not any("wall time" in title for title in titles)
