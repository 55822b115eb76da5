"""The figures of analyses and runs."""

import math
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.objectives import Metric, objective_type, primary_of
from compressm_cli.objectives.classification import ACCURACY, CROSS_ENTROPY
from compressm_cli.recipe import load_recipe
from compressm_cli.render.drawing import Painter, Tell, save
from compressm_cli.render.style import (
    GREY,
    RED,
    SERIES,
    colours,
    logarithmic,
    logarithmic_if_wide,
    new_figure,
    percent,
    sequence,
    style,
    thousands,
)
from compressm_cli.reports.curves import Line, curve
from compressm_cli.reports.formats import gramians
from compressm_cli.reports.spectrum import SpectrumReport
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import line_of_today

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vPX*"
FLOOR = 1e-8
"""Values below this share of the largest are not drawn: they are round-off."""


def run_plots(run: Run, tell: Tell, folder: Path | None = None) -> list[Path]:
    """Draw a run's records, by default into its ``plots`` folder: training, orders and spectra over time.

    ``tell`` is told what could not be drawn. OSError where nothing can be written there.
    """
    return save(folder or run.plots, run_figures(run), tell)


def run_figures(run: Run) -> dict[str, Painter]:
    """The figures of a run, by file. What has no records (a baseline's orders, say) gives none."""

    @cache
    def records() -> tuple[list[Line], list[Line]]:
        return run.read_metrics(), checks_of(run)

    def judged() -> tuple[Metric, Metric]:
        recipe = load_recipe(run.recipe_path)
        return primary_of(recipe), objective_type(recipe).LOSS

    return {
        "training.png": lambda: training_figure(*records(), *judged()),
        "orders.png": lambda: orders_figure(*records()),
        "spectra-at-checks.png": lambda: check_spectra_figure(records()[1]),
    }


def spectrum_figure(report: SpectrumReport) -> "Figure":
    """The Hankel singular values of all layers, logarithmic, with the cut of each threshold marked."""
    with style():
        from matplotlib.lines import Line2D

        figure, (axes,) = new_figure(8.0, 4.6)
        for layer, colour in zip(report.layers, colours(len(report.layers)), strict=True):
            values = drawable(layer.hsv)
            axes.plot(
                range(1, len(values) + 1), values, color=colour, label=f"{layer.layer}  (order {layer.order})"
            )
            for at, marker in zip(layer.thresholds, _markers(len(layer.thresholds)), strict=True):
                if at.values_needed <= len(values):
                    axes.plot(
                        at.values_needed,
                        values[at.values_needed - 1],
                        marker,
                        color=colour,
                        ms=6,
                        mec="white",
                        mew=0.8,
                    )
        kind = gramians(report.layers[0].gramian, report.unjudged is None)
        axes.set_title(f"Hankel spectrum of {report.recipe}, step {report.step:,} ({kind})")
        selective = report.layers[0].variant is not None
        axes.set_xlabel(index_label(None if selective else report.realization))
        axes.set_ylabel("Hankel singular value")
        logarithmic(axes)
        thousands(axes.xaxis)
        axes.set_xlim(left=0)
        thresholds = [at.energy_threshold for at in report.layers[0].thresholds]
        marks = [
            Line2D([], [], ls="", marker=m, color=GREY, ms=6, label=f"keeps {100 * t:g} % of the energy")
            for t, m in zip(thresholds, _markers(len(thresholds)), strict=True)
        ]
        handles = [*axes.get_legend_handles_labels()[0], *marks]
        # Beside the axes, below the title, which may be long.
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1.0), borderaxespad=0.0)
    return figure


def training_figure(
    metrics: list[Line], checks: list[Line], primary: Metric = ACCURACY, loss: Metric = CROSS_ENTROPY
) -> "Figure | None":
    """Losses and the primary metric on the validation split over the steps, with the moments of cuts.

    None without records.
    """
    trained = [m for m in metrics if "train_loss" in m]
    evaluated = [m for m in metrics if "validation_loss" in m]
    if not trained and not evaluated:
        return None
    with style():
        figure, (losses, score) = new_figure(8.0, 5.6, rows=2)
        training = curve(trained, "train_loss")
        validation = curve(evaluated, "validation_loss", after_cuts=True)
        judged = curve(evaluated, f"validation_{primary.name}", after_cuts=True)
        losses.plot(training.x, training.y, color=SERIES[0], alpha=0.85, lw=1.2, label="training")
        losses.plot(validation.x, validation.y, color=SERIES[1], label="validation")
        score.plot(judged.x, judged.y, color=SERIES[1], label="validation")
        for axes in (losses, score):
            for i, step in enumerate(cut_steps(checks)):
                axes.axvline(step, color=GREY, lw=0.9, ls=":", label="cut" if i == 0 else None)
            axes.set_xlim(left=0)
            axes.legend(loc="best")
            thousands(axes.xaxis)
        losses.set_title("Loss")
        losses.set_ylabel(loss.title + (" (nats)" if loss.unit == "nats" else ""))
        logarithmic_if_wide(losses, [*training.y, *validation.y])
        score.set_title(primary.title[0].upper() + primary.title[1:])
        score.set_ylabel(
            "rows classified correctly" if primary == ACCURACY else f"validation {primary.title}"
        )
        score.set_xlabel("training step")
        if primary.unit == "share":
            percent(score.yaxis)
    return figure


def orders_figure(metrics: list[Line], checks: list[Line]) -> "Figure | None":
    """The order of each layer over the steps; None where no check was made."""
    if not checks:
        return None
    last = max([m["step"] for m in metrics] + [c["step"] for c in checks])
    histories = order_histories(checks, last)
    with style():
        figure, (axes,) = new_figure(8.0, 4.2)
        for (layer, (steps, orders)), colour in zip(histories.items(), colours(len(histories)), strict=True):
            axes.step(
                steps, orders, where="post", color=colour, label=f"{layer}  ({orders[0]} to {orders[-1]})"
            )
        rejected = [c for c in checks if c["accepted"] is False]
        if rejected:
            steps, wanted = [c["step"] for c in rejected], [c["after"] for c in rejected]
            axes.plot(steps, wanted, "x", color=RED, ms=7, mew=1.8, label="rejected cut")
        states = all(check["kind"] == "state" for check in checks)
        axes.set_title("Order of each layer" if states else "Units of each axis")
        axes.set_xlabel("training step")
        axes.set_ylabel("order (states)" if states else "units")
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, last)
        thousands(axes.xaxis)
        thousands(axes.yaxis)
        figure.legend(loc="outside right upper")
    return figure


def order_histories(checks: list[Line], last: int) -> dict[str, tuple[list[int], list[int]]]:
    """By layer, or another axis: steps and the orders from then on, from step 0 to ``last``."""
    histories: dict[str, tuple[list[int], list[int]]] = {}
    for check in sorted(checks, key=lambda c: c["step"]):
        steps, orders = histories.setdefault(_title(check), ([0], [check["before"]]))
        steps.append(check["step"])
        orders.append(check["after"] if check["accepted"] else check["before"])
    for steps, orders in histories.values():
        steps.append(last)
        orders.append(orders[-1])
    return histories


def check_spectra_figure(checks: list[Line]) -> "Figure | None":
    """The spectrum of each layer at each check, before the cut; None where no check recorded one."""
    found = [c for c in checks if c.get("hsv")]
    if not found:
        return None
    layers = list(dict.fromkeys(map(_title, found)))
    steps = [c["step"] for c in found]
    columns = min(len(layers), 3)
    rows = math.ceil(len(layers) / columns)
    with style():
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        figure, panels = new_figure(
            1.2 + 3.2 * columns if columns > 1 else 6.4, 0.8 + 2.8 * rows, rows, columns
        )
        # One check alone is dark.
        norm = Normalize(min(steps[0], max(steps) - 1), max(steps))
        scale = sequence()
        for axes, layer in zip(panels, layers, strict=False):
            for check in (c for c in found if _title(c) == layer):
                values = drawable(check["hsv"])
                axes.plot(range(1, len(values) + 1), values, color=scale(norm(check["step"])), lw=1.4)
            axes.set_title(layer)
            logarithmic(axes)
            axes.set_xlim(left=0)
            thousands(axes.xaxis)
        for axes in panels[len(layers) :]:
            axes.remove()
        figure.supxlabel(index_label(found[0]["realization"]), fontsize=10)
        figure.supylabel("Hankel singular value", fontsize=10)
        if len(set(steps)) > 1:
            mappable = ScalarMappable(norm, scale)
            bar = figure.colorbar(
                mappable, ax=panels[: len(layers)], label="training step of the check", aspect=30
            )
            bar.outline.set_visible(False)
            thousands(bar.ax.yaxis)
    return figure


def checks_of(run: Run) -> list[Line]:
    """What a run's method found at its checks, also where an earlier version wrote it."""
    return [line_of_today(line) for line in run.read_compression()]


def _title(check: Line) -> str:
    return str(check.get("layer", check["unit"]))


def drawable(values: list[float]) -> list[float]:
    """The leading values that are not round-off."""
    floor = FLOOR * values[0]
    return [v for v in values if v > floor]


def cut_steps(checks: list[Line]) -> list[int]:
    """The steps after which a cut stayed."""
    return sorted({c["step"] for c in checks if c["accepted"]})


def _markers(count: int) -> list[str]:
    return [MARKERS[i % len(MARKERS)] for i in range(count)]


def index_label(realization: str | None) -> str:
    """What an axis of a spectrum counts; ``realization`` None for selective layers."""
    labels = {"real": "two make one complex state", "complex": "one a complex state", None: "one a state"}
    each = labels[realization]
    return f"index of the Hankel singular value ({each})"
