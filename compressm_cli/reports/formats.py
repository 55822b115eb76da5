"""Numbers as people read them: three significant digits, one unit, ratios in words."""

from typing import Literal

Unit = Literal["share", "count", "order", "bytes", "flops", "seconds", "joules", "nats"]


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SYMBOLS = {"bytes": "B", "flops": "FLOP", "joules": "J"}
_TIMES = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "µs"))


def quantity(value: float, unit: Unit, margin: float | None = None) -> str:
    """``0.953`` as a share -> ``95.3 %``; with half the width of an interval -> ``95.3 ± 0.8 %``."""
    size, symbol = _scale(abs(value), unit)
    digits = _digits(abs(value) / size, unit, value)
    spread = f" ± {margin / size:,.{digits}f}" if margin else ""
    return f"{value / size:,.{digits}f}{spread}{' ' + symbol if symbol else ''}"


def percent(share: float | None) -> str:
    """An error of any size: ``0.0018`` -> ``0.18 %``; a dash where there is none."""
    return "-" if share is None else f"{100 * share:.2g} %"


def gramians(gramian: str, real_data: bool) -> str:
    """Which Gramians they are, in a few words; ``gramian`` is the word of a recipe."""
    if gramian == "analytic":
        return "analytic Gramians"
    return "Gramians from data" if real_data else "Gramians from random tokens"


def summed_gramians(
    gramian: str, real_data: bool, batches: int | None, horizon: int | None, selective: bool = False
) -> str:
    """The same with what they sum over; ``horizon`` None is for ever, and is none of a selective layer's."""
    over = "over all time" if horizon is None else f"over {horizon:,} steps"
    source = f"{batches} {'training batches' if real_data else 'batches of random tokens'}"
    if gramian == "analytic":
        inputs = f"white inputs, {over}"
    else:
        inputs = source if selective else f"P of the states on {source}, Q {over}"
    return f"{gramians(gramian, real_data)} ({inputs})"


def points(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of shares: ``0.012`` -> ``+1.2 points``, with its interval where there is one."""
    text = f"{_signed(value)} points"
    return text if low is None or high is None else f"{text} ({_signed(low)} to {_signed(high)})"


def times(value: float) -> str:
    """``0.3125`` -> ``0.31x``."""
    return f"{value:.2f}x" if value >= 0.095 else f"{value:.2g}x"


def ratio(value: float) -> str:
    """``0.3125`` -> ``0.31x (3.2 times less)``; near one in percent: ``0.97x (3 % less)``."""
    if value == 1:
        return "1x (the same)"
    number = times(value)
    word = "less" if value < 1 else "more"
    factor = 1 / value if 0 < value < 1 else value
    if value <= 0:
        return number
    if factor >= 1.495:
        return (
            f"{number} ({factor:.1f} times {word})"
            if factor < 99.5
            else f"{number} ({factor:,.0f} times {word})"
        )
    percent = abs(1 - value) * 100
    return f"{number} ({percent:.0f} % {word})" if percent >= 0.5 else f"{number} (under 1 % {word})"


def interval(low: float, high: float) -> str:
    """The 95 % interval of a ratio: ``0.29x to 0.33x``."""
    return f"{low:.2f}x to {high:.2f}x"


def _signed(share: float) -> str:
    """In percent points; zero has no sign."""
    text = f"{100 * share:+.1f}"
    return text[1:] if float(text) == 0 else text


def _scale(size: float, unit: Unit) -> tuple[float, str]:
    """What to divide by, and the symbol that goes with it."""
    if unit == "share":
        return 0.01, "%"
    if unit == "seconds":
        return next((factor, symbol) for least, factor, symbol in _TIMES if size >= least)
    if unit in _SYMBOLS:
        factor, prefix = next(((f, p) for f, p in _PREFIXES if size >= f), (1.0, ""))
        return factor, prefix + _SYMBOLS[unit]
    return 1.0, "nats" if unit == "nats" else ""


def _digits(scaled: float, unit: Unit, value: float) -> int:
    """Digits after the point."""
    if unit == "share":
        return 1
    if unit == "nats":
        return 4
    if unit in ("count", "order"):
        return 0 if float(value).is_integer() else 1
    return 0 if scaled >= 100 else 1 if scaled >= 10 else 2
