"""One look for all figures: colours that the colour-blind can tell apart, thin axes, units on every label.

matplotlib is imported where a figure is drawn, and no sooner: no number needs it. Neither the display nor the settings
of whoever started this process change a figure.
"""

import io
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

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
    # Names of recipes and layers are no formulas.
    "text.parse_math": False,
    # Said, so that a dark page can have another one.
    "text.color": BLACK,
    # Text as text, and the same names each time.
    "svg.fonttype": "none",
    "svg.hashsalt": "compressm",
    "pdf.fonttype": 42,
}
RESOLUTION = 150


def library() -> Any:
    """matplotlib; ImportError, or whatever comes of its import, where it cannot be had."""
    # A notebook's shell hands down the name of its own backend, which is looked for when matplotlib is imported.
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend
    return matplotlib


@contextmanager
def style() -> Iterator[None]:
    """The house style on matplotlib's own defaults, whatever the user's are; wrap the making of a figure in it."""
    matplotlib = library()
    with matplotlib.rc_context():
        with warnings.catch_warnings():
            # The defaults have settings that are on their way out.
            warnings.simplefilter("ignore", matplotlib.MatplotlibDeprecationWarning)
            matplotlib.rcParams.update(
                {name: value for name, value in matplotlib.rcParamsDefault.items() if name != "backend"}
            )
        matplotlib.rcParams.update({**_STYLE, "axes.prop_cycle": matplotlib.cycler(color=SERIES)})
        yield


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> "tuple[Figure, list[Axes]]":
    """An empty figure (inches) with its axes, row by row; independent of pyplot and of any display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    return figure, list(axes.flat)


def as_file(figure: "Figure", form: str) -> bytes:
    """The figure as a file of this format: png, svg, or pdf; the same bytes each time."""
    # Others say when they were made.
    dated = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    with style(), io.BytesIO() as buffer:
        figure.savefig(buffer, format=form, dpi=RESOLUTION, metadata=dated)
        return buffer.getvalue()


def colours(count: int) -> list[Any]:
    """Distinct colours for ``count`` lines; ordered ones where the palette is too short."""
    if count <= len(SERIES):
        return list(SERIES[:count])
    scale = sequence()
    return [scale(i / (count - 1)) for i in range(count)]


def sequence() -> "Colormap":
    """Light to dark, for ordered lines; without the end that is too light on paper."""
    dark = library().colormaps["viridis"].reversed()
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("sequence", [dark(0.1 + 0.9 * i / 63) for i in range(64)])


def thousands(axis: Any) -> None:
    """Ticks such as 10,000 at whole numbers only."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, integer=True, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def percent(axis: Any) -> None:
    """Ticks of shares in percent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))


def logarithmic(axes: "Axes") -> None:
    """A logarithmic ordinate with plain numbers as ticks: no formulas, which names would be taken for, too."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 1000 * low else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def logarithmic_if_wide(axes: "Axes", values: Sequence[float]) -> None:
    """The same where the greatest of positive values is more than five times the least."""
    if values and min(values) > 0 and max(values) > 5 * min(values):
        logarithmic(axes)
