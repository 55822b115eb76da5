"""One look for all figures: colours that the colour-blind can tell apart, thin axes, units on every label."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

# Okabe and Ito's palette, without its yellow, which is too light for lines.
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, BLACK = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#222222",
)
SERIES = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, BLACK)
GREY = "#6b7280"

_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10,
    "axes.labelcolor": BLACK,
    "axes.edgecolor": "#9ca3af",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(color=SERIES),
    "grid.color": "#e5e7eb",
    "grid.linewidth": 0.7,
    "xtick.color": "#4b5563",
    "ytick.color": "#4b5563",
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}
RESOLUTION = 150


@contextmanager
def style() -> Iterator[None]:
    """The house style; wrap the making of a figure in it."""
    with matplotlib.rc_context(_STYLE):
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """An empty figure (inches) with its axes, row by row; independent of pyplot and of any display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def as_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    with style(), io.BytesIO() as buffer:
        figure.savefig(buffer, format="png", dpi=RESOLUTION)
        return buffer.getvalue()


def colours(count: int) -> list[Any]:
    """Distinct colours for ``count`` lines; ordered ones where the palette is too short."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    scale = sequence()
    return [scale(i / (count - 1)) for i in range(count)]


def sequence() -> Colormap:
    """Light to dark, for ordered lines; without the end that is too light on paper."""
    dark = matplotlib.colormaps["viridis"].reversed()
    return LinearSegmentedColormap.from_list("sequence", [dark(0.1 + 0.9 * i / 63) for i in range(64)])


def thousands(axis: Any) -> None:
    """Ticks such as 10,000 at whole numbers only."""
    axis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def percent(axis: Any) -> None:
    """Ticks of shares in percent."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
