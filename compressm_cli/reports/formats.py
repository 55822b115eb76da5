"""Numbers in words: shares, ratios and differences."""


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


def difference(value: float, low: float | None = None, high: float | None = None) -> str:
    """A difference of numbers: ``+0.012``, with its interval where there is one."""
    text = f"{value:+.3g}"
    return text if low is None or high is None else f"{text} ({low:+.3g} to {high:+.3g})"


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
