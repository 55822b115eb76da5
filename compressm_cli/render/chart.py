"""A spectrum as a few lines of block characters."""

import math

BLOCKS = " ▁▂▃▄▅▆▇█"
WIDTH = 64
HEIGHT = 4
DECADES = 6
"""What is smaller than the largest value by more is not told apart."""


def log_chart(values: list[float], width: int = WIDTH, height: int = HEIGHT) -> list[str]:
    """Descending positive values as columns on a logarithmic scale, the axis at the left.

    Where there are more values than columns, each column shows the largest of its share.
    """
    top = values[0]
    if not top > 0:
        return ["(all zero)"]
    floor = max(min(v for v in values if v > 0), top * 10.0**-DECADES)
    # Half a row below the smallest value, so that it is seen.
    low = math.log10(floor) - 0.5 * max(math.log10(top / floor), 0.1) / height
    span = math.log10(top) - low
    columns = [values[i * len(values) // width] for i in range(width)] if len(values) > width else values
    levels = [round(8 * height * max(0.0, math.log10(max(v, floor)) - low) / span) for v in columns]
    lines = []
    for row in reversed(range(height)):
        cells = "".join(BLOCKS[min(8, max(0, level - 8 * row))] for level in levels)
        label = f"{top:8.1e}" if row == height - 1 else f"{floor:8.1e}" if row == 0 else " " * 8
        lines.append(f"{label} |{cells}")
    lines.append(f"{' ' * 8}  1{str(len(values)).rjust(len(columns) - 1)}")
    return lines
