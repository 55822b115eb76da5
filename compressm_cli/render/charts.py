"""Charts of block characters: they need no colour, and no more than a line or two."""

import math
from collections.abc import Sequence

from rich.text import Text

BLOCKS = " ▁▂▃▄▅▆▇█"
STEPS = len(BLOCKS) - 1
DECADES = 4
"""A spectrum is drawn from its largest value down to 10^-4 of it."""


def sparkline(values: Sequence[float], width: int) -> str:
    """The last ``width`` values, the least as the lowest block and the greatest as the highest."""
    shown = list(values)[-width:] if width > 0 else []
    finite = [v for v in shown if math.isfinite(v)]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    heights = (1 + round((STEPS - 1) * (v - low) / span) if span else 1 for v in finite)
    return "".join(BLOCKS[h] for h in heights)


def spectrum(hsv: Sequence[float], kept: int, width: int, rows: int = 1) -> Text:
    """Hankel singular values, descending, on a log scale; a bar divides the kept ones from the cut ones.

    At most ``width`` columns; where there are more values than columns, a column shows its largest. The cut
    part is dim as well, where the terminal can show that.
    """
    whole = kept >= len(hsv)
    columns = min(len(hsv), width if whole else width - 1)
    if columns < 1 or hsv[0] <= 0:
        return Text()
    heights = [_height(hsv[c * len(hsv) // columns] / hsv[0], rows) for c in range(columns)]
    division = columns if whole else max(1, min(columns - 1, round(kept * columns / len(hsv))))
    chart = Text()
    for row in reversed(range(rows)):
        line = "".join(BLOCKS[max(0, min(STEPS, h - row * STEPS))] for h in heights)
        chart.append(line[:division], style="cyan")
        if not whole:
            chart.append("│", style="bold")
            chart.append(line[division:], style="dim")
        if row:
            chart.append("\n")
    return chart


def _height(relative: float, rows: int) -> int:
    """Eighths of a line, at least one: the length of the spectrum stays visible."""
    if relative <= 0:
        return 1
    return max(1, round((1 + math.log10(relative) / DECADES) * STEPS * rows))
