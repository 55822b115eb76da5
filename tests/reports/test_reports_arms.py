"""Comparisons of more than two models, and what is said of quantities that were measured."""

import csv
import io
import json
from pathlib import Path

import pytest
from made_runs import MakeRun

from compressm_cli.cli.main import run as command
from compressm_cli.render.arms_table import arms_table, comparison_csv
from compressm_cli.render.comparison_curves import curves_figure, pareto_figure
from compressm_cli.render.drawing import LeftOutError
from compressm_cli.render.tables import comparison_tables
from compressm_cli.reports import ComparisonReport, compare
from compressm_cli.runs.folder import Run


def seconds(total: float) -> dict[str, object]:
    return {"seconds": {"total": total, "training": total - 2, "evaluation": 2.0}}


@pytest.fixture
def report(make_run: MakeRun) -> ComparisonReport:
    """A baseline, an arm that takes half the time with every seed, and one that takes as long by and large."""
    for seed, (base, half, noisy) in enumerate([(10.0, 5.0, 9.0), (12.0, 6.1, 14.0), (11.0, 5.4, 10.0)]):
        make_run(seed=seed, accuracy=0.9 + seed / 100, summary=seconds(base))
        small = make_run("small", seed, (3, 1), 0.92 + seed / 100, summary=seconds(half))
        large = make_run("large", seed, (8, 4), 0.8, summary=seconds(noisy))
    base = small.folder.parent.parent / "baseline"
    return compare(base, [small.folder.parent, large.folder.parent], speed=False)


def test_measured_quantities_are_judged_by_their_interval(report: ComparisonReport) -> None:
    half, noisy = report.row("total_seconds").changes[1:]
    assert half is not None
    assert noisy is not None
    assert half.difference is not None
    assert half.ratio == pytest.approx(16.5 / 33)
    assert half.basis == "paired by seed (3 seeds)"
    assert half.difference.value == pytest.approx(-5.5)
    assert half.ratio_low == pytest.approx(1 + half.difference.low / 11)  # type: ignore[operator]
    assert half.ratio_high == pytest.approx(1 + half.difference.high / 11)  # type: ignore[operator]
    assert (half.is_clear, noisy.is_clear) == (True, False)
    won = next(line for line in report.verdict if line.startswith("Won: "))
    assert "wall time, total 0.50x (0.40x to 0.60x)" in won
    unclear = [line for line in report.verdict if line.startswith("No clear change: ")]
    assert "wall time, total 1.00x" in unclear[-1]
    assert not any("Without an interval" in line for line in report.verdict)


def test_without_an_interval_five_percent_are_noise_and_that_is_said(make_run: MakeRun) -> None:
    base = make_run(summary=seconds(10.0))
    close, far = (
        make_run("close", orders=(3, 1), summary=seconds(10.4)),
        make_run("far", orders=(3, 1), summary=seconds(11)),
    )
    report = compare(base.folder, [close.folder, far.folder], speed=False)
    titles = "test loss, wall time, total, wall time, training, final training step, peak memory"
    said = f"Without an interval, so that up to 5 % is no clear change: {titles}."
    assert report.verdict.count(said) == 2
    change = report.row("total_seconds").changes[1]
    assert change is not None
    assert (change.ratio_low, change.basis) == (None, "one seed: no interval")
    assert "wall time, total 1.04x" in next(v for v in report.verdict if v.startswith("No clear change"))
    lost = [v for v in report.verdict if v.startswith("Lost")]
    assert "wall time, total 1.10x" in lost[-1]


def test_many_arms_have_a_row_each(report: ComparisonReport) -> None:
    table = arms_table(report)
    assert [row[0] for row in table.rows] == ["baseline\n3 seeds", "small\n3 seeds", "large\n3 seeds"]
    small = dict(zip(table.columns, table.rows[1], strict=True))
    assert small["test\naccuracy"] == "93.0 ± 2.5 %"
    assert small["difference"] == "+2.0 points\n(+2.0 to +2.0)"
    assert small["states"] == "4\n0.25x"
    assert small["wall time"].startswith("5.50 ± 1.38 s\n0.50x, 0.40x to 0.60x")
    tables = comparison_tables(report)
    assert [t.title for t in tables[:2]] == ["Comparison", "All that was compared"]
    assert all(len(row) == 4 for row in tables[1].rows)


def test_wide_tables_are_shown_in_parts(report: ComparisonReport) -> None:
    table = arms_table(report)
    parts = table.fitted(60)
    assert len(parts) > 1
    assert all(part.columns[0] == table.columns[0] for part in parts)
    assert [column for part in parts for column in part.columns[1:]] == table.columns[1:]
    assert [part.notes for part in parts[:-1]] == [[]] * (len(parts) - 1)
    assert (parts[0].title, parts[1].title, parts[-1].notes) == (
        "Comparison", "Comparison, continued", table.notes
    )  # fmt: skip
    assert table.fitted(500) == [table]


def test_as_csv_and_latex(report: ComparisonReport) -> None:
    rows = list(csv.DictReader(io.StringIO(comparison_csv(report))))
    assert len(rows) == 3 * len(report.rows)
    (row,) = [r for r in rows if (r["arm"], r["key"]) == ("small", "total_seconds")]
    assert (row["seeds"], row["runs"], row["unit"], float(row["mean"])) == ("0 1 2", "3", "seconds", 5.5)
    assert float(row["ratio_high"]) < 0.61
    (row,) = [r for r in rows if (r["arm"], r["key"]) == ("small", "joules")]
    assert (row["mean"], row["reason"]) == ("", "not measured: no energy counter")
    text = arms_table(report).latex()
    assert "small 3 seeds & 93.0 $\\pm$ 2.5 \\%" in text
    assert text.count("\\\\\n") == 4


def test_figures_leave_out_what_was_not_logged(report: ComparisonReport, make_run: MakeRun) -> None:
    runs = [[Run.open(Path(path)) for path in arm.paths] for arm in report.arms]
    labels = [arm.label for arm in report.arms]
    figure = curves_figure(report.primary, labels, runs, "flops")
    assert figure is not None
    assert {text.get_text() for axes in figure.axes for text in axes.texts} == set(labels)
    runs[1].append(make_run("old", old=True))
    assert curves_figure(report.primary, labels, runs, "step") is not None
    with pytest.raises(LeftOutError, match="old/v0001: its evaluations do not tell what was spent"):
        curves_figure(report.primary, labels, runs, "flops")
    figure = pareto_figure(report, "training_flops")
    assert figure is not None
    assert {text.get_text() for text in figure.axes[0].texts} == set(labels)


def test_the_command_writes_figures_and_prints_what_is_asked_for(
    make_run: MakeRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = [str(make_run(old=True).folder), str(make_run("small_one", orders=(3, 1)).folder), "--no-speed"]
    folder = tmp_path / "figures"
    assert command(["compare", *sides, "--figures", str(folder), "--format", "svg", "--csv"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("arm,seeds,key,")
    assert "warning: no figures: validation-over-flops-of-training.svg" in captured.err
    names = {path.name for path in folder.iterdir()}
    assert {"against-the-baseline.svg", "validation-over-training-steps.svg"} <= names
    assert all((folder / name).read_text(encoding="utf-8").startswith("<?xml") for name in names)
    assert command(["compare", *sides, "--latex"]) == 0
    assert "small\\_one" in capsys.readouterr().out
    assert command(["compare", *sides, "--latex", "--csv"]) == 2
    assert command(["compare", *sides, "--json"]) == 0
    rows = {row["key"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["total_seconds"]["changes"][1]["ratio_low"] is None
