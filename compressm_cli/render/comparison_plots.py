"""The figures of a comparison."""

import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import unwritable
from compressm_cli.engine.oneshot import asked
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.render.comparison_curves import curves_figure, pareto_figure
from compressm_cli.render.drawing import Painter, Tell, save
from compressm_cli.render.labels import label_ends
from compressm_cli.render.plots import checks_of, drawable, index_label, order_histories
from compressm_cli.render.style import (
    BLACK,
    BLUE,
    GREY,
    RED,
    colours,
    logarithmic,
    new_figure,
    style,
    thousands,
)
from compressm_cli.reports import formats
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.curves import Line, Spent
from compressm_cli.reports.spectrum import LayerSpectrum, layer_spectra
from compressm_cli.reports.verdict import SPEED_TITLES
from compressm_cli.runs.folder import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNCHANGED = 0.005


def comparison_figures(report: ComparisonReport) -> dict[str, Painter]:
    """Title -> figure; one whose records are not at hand gives none."""

    @cache
    def runs() -> list[list[Run]]:
        return [
            [Run.open(Path(p)) for p in arm.paths if (Path(p) / "run.json").is_file()] for arm in report.arms
        ]

    def curves(over: Spent) -> Painter:
        labels = [arm.label for arm in report.arms]
        return lambda: curves_figure(report.primary, labels, runs(), over)

    return {
        "Against the baseline": lambda: _ratio_figure(report),
        "Test metric over FLOPs of training": lambda: pareto_figure(report, "training_flops"),
        "Test metric over FLOPs of inference": lambda: pareto_figure(report, "inference_flops"),
        "Validation over training steps": curves("step"),
        "Validation over FLOPs of training": curves("flops"),
        "Validation over seconds": curves("seconds"),
        "States while training": lambda: _states_figure(report, runs()),
        "Hankel spectra of the finished models": lambda: _spectra_figure(report),
    }


def save_figures(report: ComparisonReport, folder: Path, form: str, tell: Tell) -> list[Path]:
    """The same as files, named after their titles; BadInputError where they cannot be written."""
    painters = {
        f"{re.sub(r'[^a-z]+', '-', title.lower())}.{form}": painter
        for title, painter in comparison_figures(report).items()
    }
    try:
        return save(folder, painters, tell)
    except OSError as error:
        raise BadInputError(unwritable(f"--figures {folder}", error, "choose another folder")) from error


def _ratio_figure(report: ComparisonReport) -> "Figure | None":
    """Every ratio to the baseline as a bar from 1, on a logarithmic scale."""
    bars = _bars(report)
    if not bars:
        return None
    several = len(report.arms) > 2
    labels = list(dict.fromkeys(title for title, *_ in bars))
    shades = colours(len(report.arms))
    with style():
        figure, (axes,) = new_figure(8.0, 1.1 + 0.26 * len(bars) + 0.1 * len(labels))
        width = 0.8 / (len(report.arms) - 1)
        for title, arm, ratio, interval in bars:
            colour = shades[arm] if several else _judged_colour(ratio)
            place = labels.index(title) + width * (arm - 1 - (len(report.arms) - 2) / 2)
            axes.barh(place, math.log10(ratio), height=0.85 * width, color=colour)
            ends = [math.log10(end) for end in interval]
            axes.plot(ends, [place] * len(ends), color=BLACK, lw=1.2)
            shift = 4 if ratio >= 1 else -4
            outermost = (max if ratio >= 1 else min)([math.log10(ratio), *ends])
            axes.annotate(
                formats.times(ratio),
                (outermost, place),
                xytext=(shift, 0),
                textcoords="offset points",
                ha="left" if ratio >= 1 else "right",
                va="center",
                fontsize=8.5,
            )
        axes.axvline(0, color=GREY, lw=1)
        axes.set_yticks(range(len(labels)), labels)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        _ratio_ticks(axes, [end for _, _, ratio, interval in bars for end in (ratio, *interval)])
        axes.set_xlabel(f"ratio to {report.arms[0].label} (logarithmic; left of 1x is less, so better)")
        if several:
            handles = [
                axes.barh(0, 0, color=shades[i], label=s.label) for i, s in enumerate(report.arms) if i
            ]
            figure.legend(handles=handles, loc="outside upper right", ncols=len(handles))
    return figure


def _bars(report: ComparisonReport) -> list[tuple[str, int, float, tuple[float, ...]]]:
    """Title, index of the arm, ratio and its interval, for everything that has one and is nothing doubtful."""
    found: list[tuple[str, int, float, tuple[float, ...]]] = []
    for row in report.rows:
        for i, change in enumerate(row.changes):
            if row.values[0].note or row.values[i].note:
                continue
            if change is not None and change.ratio and not row.higher_is_better:
                found.append((row.title, i, change.ratio, _interval(change.ratio_low, change.ratio_high)))
    batches = report.speed.batches if report.speed else []
    for title, batch in zip(SPEED_TITLES, batches, strict=False):
        ratios = list(enumerate(batch.ratios))[1:]
        found += [(title, i, ratio.value, _interval(ratio.low, ratio.high)) for i, ratio in ratios]
    return found


def _interval(low: float | None, high: float | None) -> tuple[float, ...]:
    """As far as it can be drawn on a logarithmic scale."""
    return (low, high) if low is not None and high is not None and low > 0 else ()


def _judged_colour(ratio: float) -> str:
    if abs(ratio - 1) < UNCHANGED:
        return GREY
    return BLUE if ratio < 1 else RED


def _ratio_ticks(axes: "Axes", ratios: list[float]) -> None:
    """Ticks at powers of two, and room for the labels beside the bars."""
    low, high = min([*ratios, 0.9]), max([*ratios, 1.12])
    step = 1 if high / low < 64 else 2
    powers = range(math.floor(math.log2(low)), math.ceil(math.log2(high)) + 1, step)
    ticks = [2.0**p for p in powers]
    axes.set_xticks([math.log10(t) for t in ticks], [f"{t:g}x" if t >= 1 else f"1/{1 / t:g}x" for t in ticks])
    room = 0.13 * math.log10(high / low)
    axes.set_xlim(math.log10(low) - room, math.log10(high) + room)


def _states_figure(report: ComparisonReport, runs: list[list[Run]]) -> "Figure | None":
    """The orders of all layers together over the training steps; one line a run, one colour an arm."""
    if not any(runs):
        return None
    with style():
        figure, (axes,) = new_figure(8.0, 3.8)
        ends = []
        for arm, members, colour in zip(report.arms, runs, colours(len(runs)), strict=True):
            for run in members:
                steps, totals = _order_history(run)
                axes.step(steps, totals, where="post", color=colour, lw=1.6, alpha=0.85)
            if members:
                ends.append((float(steps[-1]), float(totals[-1]), arm.label))
        axes.set_xlabel("training step")
        axes.set_ylabel("order, sum over the layers")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        thousands(axes.xaxis)
        thousands(axes.yaxis)
        label_ends(axes, ends)
    return figure


def _order_history(run: Run) -> tuple[list[int], list[int]]:
    return total_order_history(run.read_summary()["orders"]["start"], run.read_metrics(), checks_of(run))


def total_order_history(
    start: dict[str, int], metrics: list[Line], checks: list[Line]
) -> tuple[list[int], list[int]]:
    """Steps, and the sum of all orders from each on."""
    last = max([m["step"] for m in metrics] + [c["step"] for c in checks] + [1])
    steps = sorted({0, last} | {c["step"] for c in checks})
    histories = order_histories(checks, last)
    totals = []
    for step in steps:
        total = 0
        for layer, first in start.items():
            moments, orders = histories.get(layer, ([0], [first]))
            total += [order for moment, order in zip(moments, orders, strict=True) if moment <= step][-1]
        totals.append(total)
    return steps, totals


def _spectra_figure(report: ComparisonReport) -> "Figure | None":
    """One panel a layer, one curve an arm; None where a finished model or its data are missing."""
    files = [Path(arm.checkpoint) for arm in report.arms]
    if not all(file.is_file() for file in files):
        return None
    models = [Checkpoint.load(file) for file in files]
    try:
        measured = [layer_spectra(model, _measures(models)) for model in models]
    except BadInputError:
        return None
    kinds = dict.fromkeys(
        formats.gramians(layer.gramian, model.recipe.data.unjudged() is None)
        for model, layers in zip(models, measured, strict=True)
        for layer in layers
    )
    return _drawn(report, measured, " and ".join(kinds))


def _measures(models: list[Checkpoint]) -> HankelConfig:
    """How all of them are measured, to be compared: as the first one that was compressed says, else by default."""
    compressed = [m for m in models if isinstance(m.recipe.compression, HankelConfig)]
    source = (compressed or models)[0].recipe
    config = asked(source, {"energy_threshold": 1.0}, "recipe", ()).compression
    assert isinstance(config, HankelConfig)
    return config


def _drawn(report: ComparisonReport, measured: list[list[LayerSpectrum]], kinds: str) -> "Figure":
    spectra = [{layer.layer: layer for layer in arm} for arm in measured]
    layers = list(dict.fromkeys(name for arm in spectra for name in arm))
    columns = min(len(layers), 3)
    rows = math.ceil(len(layers) / columns)
    shades = colours(len(spectra))
    with style():
        figure, panels = new_figure(8.0, 1.2 + 2.5 * rows, rows, columns)
        for axes, name in zip(panels, layers, strict=False):
            for arm, spectrum, colour in zip(report.arms, spectra, shades, strict=True):
                if name in spectrum:
                    values = drawable(spectrum[name].hsv)
                    axes.plot(range(1, len(values) + 1), values, color=colour, label=arm.label)
            axes.set_title(name)
            logarithmic(axes)
            axes.set_xlim(left=0)
            thousands(axes.xaxis)
        for axes in panels[len(layers) :]:
            axes.remove()
        figure.supxlabel(index_label(measured[0][0].realization), fontsize=10)
        figure.supylabel(f"Hankel singular value ({kinds})", fontsize=10)
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper right", ncols=len(names))
    return figure
