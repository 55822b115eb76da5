"""Figures of runs and the chart for terminals."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_runs import MakeRun

from compressm_cli.render.chart import BLOCKS, log_chart
from compressm_cli.render.comparison_plots import total_order_history
from compressm_cli.render.drawing import save
from compressm_cli.render.plots import order_histories, orders_figure, run_plots, training_figure
from compressm_cli.structure.plan import line_of_today

PNG = b"\x89PNG\r\n\x1a\n"


def check(step: int, layer: str, before: int, after: int, accepted: bool | None) -> dict[str, object]:
    cut = {"layer": layer, "order_before": before, "order_after": after, "accepted": accepted}
    return line_of_today({"step": step, **cut})


def test_a_compressed_run_has_all_figures(make_run: MakeRun) -> None:
    run = make_run("small", orders=(3, 1))
    paths = run_plots(run, pytest.fail)
    assert [p.name for p in paths] == ["training.png", "orders.png", "spectra-at-checks.png"]
    assert all(p.parent == run.plots and p.read_bytes().startswith(PNG) for p in paths)


def test_a_baseline_has_no_figure_of_orders(make_run: MakeRun, tmp_path: Path) -> None:
    paths = run_plots(make_run(), pytest.fail, tmp_path / "elsewhere")
    assert paths == [tmp_path / "elsewhere" / "training.png"]
    assert training_figure([], []) is None
    assert orders_figure([], []) is None


def test_figures_show_what_was_recorded(make_run: MakeRun) -> None:
    run = make_run("small", orders=(3, 1))
    figure = training_figure(run.read_metrics(), run.read_compression())
    assert figure is not None
    curve = figure.axes[1].get_lines()[0]
    expected = [m["validation_accuracy"] for m in run.read_metrics() if "validation_accuracy" in m]
    assert np.asarray(curve.get_ydata()).tolist() == expected
    assert {"training", "validation", "cut"} <= set(figure.axes[0].get_legend_handles_labels()[1])


def test_order_histories_leave_rejected_cuts_out() -> None:
    checks = [check(10, "a", 8, 4, False), check(20, "a", 8, 6, True), check(30, "a", 6, 6, None)]
    assert order_histories(checks, 50) == {"a": ([0, 10, 20, 30, 50], [8, 8, 6, 6, 6])}


def test_total_order_is_the_sum_over_the_layers() -> None:
    checks = [check(10, "a", 8, 4, True), check(20, "b", 6, 2, True)]
    metrics = [{"step": 40}]
    steps, totals = total_order_history({"a": 8, "b": 6, "c": 5}, metrics, checks)
    assert dict(zip(steps, totals, strict=True)) == {0: 19, 10: 15, 20: 11, 40: 11}


def test_a_place_that_cannot_be_written(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        save(tmp_path / "file", {}, pytest.fail)


@given(st.lists(st.floats(1e-12, 1e3), min_size=1, max_size=300))
def test_chart_falls_with_the_values(values: list[float]) -> None:
    lines = log_chart(sorted(values, reverse=True))
    rows = [line.partition("|")[2] for line in lines[:-1]]
    heights = [sum(BLOCKS.index(row[i]) for row in rows) for i in range(len(rows[0]))]
    assert heights == sorted(heights, reverse=True)
    assert heights[0] == 8 * len(rows)
    assert heights[-1] >= 1
    assert len(heights) == min(len(values), 64)


def test_chart_of_nothing() -> None:
    assert log_chart([0.0, 0.0]) == ["(all zero)"]
    assert BLOCKS[8] in log_chart([1.0, 0.0])[0]
