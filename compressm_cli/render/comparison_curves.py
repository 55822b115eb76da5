"""How the arms of a comparison went, and what they won for what they cost."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import Unit
from compressm_cli.objectives import Metric, objective_type
from compressm_cli.recipe import load_recipe
from compressm_cli.render.drawing import LeftOutError
from compressm_cli.render.labels import label_ends, label_points, scaled
from compressm_cli.render.plots import checks_of, cut_steps
from compressm_cli.render.style import GREY, colours, logarithmic_if_wide, new_figure, percent, style
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.curves import (
    Curve,
    Line,
    MeanCurve,
    Spent,
    best_at_least_cost,
    curve,
    mean_curve,
    spent_at,
)
from compressm_cli.reports.rows import Row
from compressm_cli.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {"step": "training step", "flops": "FLOPs of training", "seconds": "wall time"}
UNITS: dict[str, Unit] = {"step": "count", "flops": "flops", "seconds": "seconds"}


def curves_figure(
    metric: Metric, labels: Sequence[str], runs: Sequence[Sequence[Run]], over: Spent
) -> "Figure | None":
    """Loss and a metric on the validation split; a labelled line for each lot of runs: their mean, and their range.

    LeftOutError where a run does not tell what was spent.
    """
    shades = colours(len(runs))
    told = [[_read(run, over) for run in members] for members in runs]
    if not any(told):
        return None
    with style():
        figure, panels = new_figure(8.0, 6.4, rows=2)
        drawn: list[list[tuple[float, float, str]]] = []
        keys = {
            "validation_loss": _loss_title(runs),
            f"validation_{metric.name}": f"validation {metric.title}",
        }
        for axes, (key, label) in zip(panels, keys.items(), strict=True):
            ends = [
                _draw(axes, [curve(lines, key, over) for lines, _ in members], members, colour, name)
                for name, members, colour in zip(labels, told, shades, strict=True)
            ]
            axes.set_ylabel(label)
            axes.set_xlim(left=0)
            drawn.append([end for end in ends if end is not None])
        _scale(panels, metric)
        for axes, named in zip(panels, drawn, strict=True):
            label_ends(axes, named)
            unit = scaled(axes.xaxis, UNITS[over])
        panels[-1].set_xlabel(f"{AXES[over]}{unit}")
        figure.legend(handles=_handles(told), loc="outside upper right", ncols=3)
    return figure


def pareto_figure(report: ComparisonReport, key: str) -> "Figure | None":
    """The primary metric on the test split over a cost, with the intervals of both; what nothing beats is joined."""
    value, cost = report.rows[0], report.row(key)
    known = [
        i
        for i in range(len(report.arms))
        if value.values[i].mean and cost.values[i].mean and not value.apart[i]
    ]
    if len(known) < 2:
        return None
    missing = [arm.label for i, arm in enumerate(report.arms) if i not in known]
    shades = colours(len(report.arms))
    points = [(_mean(cost, i), _mean(value, i)) for i in known]
    best = best_at_least_cost(points, value.higher_is_better)
    with style():
        figure, (axes,) = new_figure(8.0, 4.6)
        axes.plot(*zip(*(points[i] for i in best), strict=True), color=GREY, lw=1.2, ls="--", zorder=1)
        for place, i in enumerate(known):
            axes.errorbar(
                *points[place],
                xerr=_margin(cost, i),
                yerr=_margin(value, i),
                fmt="o",
                ms=8,
                color=shades[i],
                mfc=shades[i] if place in best else "white",
                mew=1.6,
                capsize=3,
            )
        axes.margins(x=0.12, y=0.12)
        if missing:
            told = f"without {', '.join(missing)}: not known, or not comparable"
            axes.set_title(told, fontsize=9, fontweight="normal")
        if value.unit == "share":
            percent(axes.yaxis)
        axes.set_ylabel(value.title)
        axes.set_xlabel(f"{cost.title}{scaled(axes.xaxis, cost.unit)}")
        named = [(x, y, report.arms[i].label, shades[i]) for (x, y), i in zip(points, known, strict=True)]
        label_points(axes, named)
    return figure


def _read(run: Run, over: Spent) -> tuple[list[Line], list[float]]:
    """The lines of a run, and what was spent at its cuts; LeftOutError where it does not tell that."""
    lines = run.read_metrics()
    try:
        curve(lines, "validation_loss", over)
        return lines, spent_at(lines, cut_steps(checks_of(run)), over)
    except BadInputError as error:
        raise LeftOutError(f"{run.folder}: {error}") from error


def _draw(
    axes: "Axes",
    curves: list[Curve],
    members: list[tuple[list[Line], list[float]]],
    colour: Any,
    name: str,
) -> tuple[float, float, str] | None:
    """An arm's mean, range and cuts; returns where its line ends, with its name."""
    found = mean_curve(curves) if curves else None
    if found is None:
        return None
    axes.plot(found.x, found.mean, color=colour, lw=1.8)
    if found.count > 1:
        axes.fill_between(found.x, found.low, found.high, color=colour, alpha=0.18, lw=0)
    cuts = [at for _, cut in members for at in cut]
    if cuts:
        axes.plot(cuts, _at(found, cuts), ls="", marker="v", ms=6, color=colour, mec="white", mew=0.8)
    return found.x[-1], found.mean[-1], name


def _at(found: MeanCurve, places: list[float]) -> list[float]:
    return [float(value) for value in np.interp(places, found.x, found.mean)]


def _handles(told: list[list[tuple[list[Line], list[float]]]]) -> list[Any]:
    """What is to be explained: bands and marks, as far as there are any."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = []
    if any(len(members) > 1 for members in told):
        handles.append(Line2D([], [], color=GREY, label="mean over the seeds"))
        handles.append(Patch(color=GREY, alpha=0.25, label="least to greatest of them"))
    if any(cuts for members in told for _, cuts in members):
        handles.append(Line2D([], [], ls="", marker="v", color=GREY, label="a cut"))
    return handles


def _scale(panels: "Sequence[Axes]", metric: Metric) -> None:
    losses, scores = panels
    drawn = [np.asarray(line.get_ydata(), dtype=float) for line in losses.get_lines()]
    logarithmic_if_wide(losses, [value for values in drawn for value in values.tolist()])
    if metric.unit == "share":
        percent(scores.yaxis)


def _loss_title(runs: Sequence[Sequence[Run]]) -> str:
    """As in the figure of a run, where all arms learn the same."""
    titles = {
        objective_type(load_recipe(run.recipe_path)).LOSS.title for members in runs for run in members[:1]
    }
    return f"validation loss ({titles.pop()})" if len(titles) == 1 else "validation loss"


def _mean(row: Row, arm: int) -> float:
    found = row.values[arm].mean
    assert found is not None
    return found.value


def _margin(row: Row, arm: int) -> float | None:
    found = row.values[arm].mean
    return None if found is None else found.margin
