"""Numbers with their units as people read them: three significant digits, one unit, powers of 1000."""

from typing import Literal

Unit = Literal["share", "count", "order", "bytes", "flops", "seconds", "joules", "nats", "number"]


_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SYMBOLS = {"bytes": "B", "flops": "FLOP", "joules": "J"}
_TIMES = ((7200.0, 3600.0, "h"), (120.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms"), (0.0, 1e-6, "µs"))


def quantity(value: float, unit: Unit, margin: float | None = None) -> str:
    """``0.953`` as a share -> ``95.3 %``; with half the width of an interval -> ``95.3 ± 0.8 %``."""
    if unit == "number":
        return f"{value:.4g}" + (f" ± {margin:.2g}" if margin else "")
    size, symbol = scale(abs(value), unit)
    digits = _digits(abs(value) / size, unit, value)
    spread = f" ± {margin / size:,.{digits}f}" if margin else ""
    return f"{value / size:,.{digits}f}{spread}{' ' + symbol if symbol else ''}"


def scale(size: float, unit: Unit) -> tuple[float, str]:
    """What to divide an amount of this size by, and the symbol that goes with it."""
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
