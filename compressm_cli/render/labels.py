"""Names beside lines and points, and units on axes, so that figures need no legend and no powers of ten."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compressm_cli.core.quantities import Unit, scale
from compressm_cli.core.text import one_line
from compressm_cli.render.style import BLACK, thousands

if TYPE_CHECKING:
    from matplotlib.axes import Axes

APART = 0.065
"""Of the height of a panel, between names."""
ASIDE, ABOVE = 0.03, 0.06
"""Of a panel, between a point and its name."""
LONGEST = 32
"""Characters of a name."""


def label_ends(axes: "Axes", ends: Sequence[tuple[float, float, str]]) -> None:
    """Name lines where they end, at the right, one below the other; call it when the limits of the axes are settled.

    Each of ``ends`` is x, y and the name.
    """
    if not ends:
        return
    right = max(x for x, _, _ in ends)
    heights = [_height(axes, x, y) for x, y, _ in ends]
    for (x, y, name), place in zip(ends, spread(heights, APART), strict=True):
        if not name:
            continue
        axes.annotate(
            _short(name),
            (x, y),
            xytext=(1.02, place),
            textcoords="axes fraction",
            color=BLACK,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": "#9ca3af", "lw": 0.7, "shrinkA": 1, "shrinkB": 1},
        )
    axes.set_xlim(right=right)


def label_points(axes: "Axes", points: Sequence[tuple[float, float, str, Any]]) -> None:
    """Name points beside them, one below the other where they are close, each joined to its point by its colour.

    Each of ``points`` is x, y, the name and the colour; call it when the limits of the axes are settled.
    """
    inverse = axes.transAxes.inverted()
    places = [inverse.transform(axes.transData.transform((x, y))) for x, y, _, _ in points]
    heights = spread([up + ABOVE for _, up in places], APART)
    for (x, y, name, colour), (across, _), height in zip(points, places, heights, strict=True):
        left = across > 0.6
        axes.annotate(
            _short(name),
            (x, y),
            xytext=(across + (-ASIDE if left else ASIDE), height),
            textcoords="axes fraction",
            color=BLACK,
            fontsize=9,
            ha="right" if left else "left",
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 1.0, "shrinkA": 1, "shrinkB": 4},
        )


def spread(places: Sequence[float], apart: float) -> list[float]:
    """The same places from 0 to 1, moved as little as need be to be so far apart, in their order."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = [places[i] for i in order]
    for _ in range(len(moved)):
        for i in range(1, len(moved)):
            if (lack := apart - (moved[i] - moved[i - 1])) > 1e-9:
                moved[i - 1] -= lack / 2
                moved[i] += lack / 2
    shift = max(0.0, -moved[0]) if moved else 0.0
    found = [0.0] * len(moved)
    for i, place in zip(order, moved, strict=True):
        found[i] = place + shift
    return found


def scaled(axis: Any, unit: Unit) -> str:
    """Ticks of amounts in one unit that suits the largest; returns how it is written behind the axis's label."""
    if unit in ("count", "order"):
        thousands(axis)
        return ""
    from matplotlib.ticker import FuncFormatter

    factor, symbol = scale(max(map(abs, axis.get_view_interval())), unit)
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / factor:.4g}"))
    return f" ({symbol})" if symbol else ""


def _height(axes: "Axes", x: float, y: float) -> float:
    """Of a point, as a share of the panel."""
    return float(axes.transAxes.inverted().transform(axes.transData.transform((x, y)))[1])


def _short(name: str) -> str:
    text = one_line(name)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
