"""What a search may try: ranges of numbers and lists of choices, from the words of a command line."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.recipe.yaml_text import FLOAT, INTEGER
from compressm_cli.sweeps.grid import Axis, Change, Point, points_of, read_words, require_sweepable

RANGE = re.compile(r"(?P<low>[-+.0-9eE]+)\.\.(?P<high>[-+.0-9eE]+?)(?P<log>:log)?")


@dataclass(frozen=True)
class Range:
    """Numbers from ``low`` to ``high``, both among them: whole ones where both are."""

    key: str
    low: str
    high: str
    log: bool
    """Whether their logarithms are drawn evenly."""

    @property
    def is_whole(self) -> bool:
        return bool(INTEGER.fullmatch(self.low) and INTEGER.fullmatch(self.high))


Parameter = Range | Axis


def read_space(words: Sequence[str]) -> tuple[list[Parameter], list[str]]:
    """``key=low..high``, ``key=low..high:log`` and ``key=a,b,c``; the other words as they are. BadInputError."""
    ranges: list[Parameter] = []
    others = []
    for word in words:
        key, _, text = word.partition("=")
        found = RANGE.fullmatch(text.strip())
        if found is None:
            others.append(word)
            continue
        require_sweepable(key, shorten(word))
        ranges.append(_range(key, found["low"], found["high"], bool(found["log"]), word))
    axes, fixed = read_words(others)
    space = [*ranges, *axes]
    if not space:
        raise BadInputError(
            "--optuna: nothing to search; write key=LOW..HIGH, key=LOW..HIGH:log or key=A,B,C"
        )
    for parameter in space:
        known = [*(other.key for other in space), *(word.partition("=")[0] for word in fixed)]
        if known.count(parameter.key) > 1:
            raise BadInputError(f"{parameter.key} is given {known.count(parameter.key)} times; give it once")
    return space, fixed


def require_no_range(words: Sequence[str]) -> None:
    """BadInputError where a word has a range, which a grid cannot have."""
    for word in words:
        if RANGE.fullmatch(word.partition("=")[2].strip()):
            raise BadInputError(
                f"{shorten(word)}: ranges are searched with --optuna N; a grid needs values, such as 1e-3,2e-3"
            )


def ends(space: Sequence[Parameter]) -> list[Point]:
    """Points that together have both ends of each range, and each choice: what can be judged beforehand."""
    first: dict[str, str] = {p.key: p.low if isinstance(p, Range) else p.values[0] for p in space}
    rows: list[tuple[Change, ...]] = [tuple(first.items())]
    for parameter in space:
        others = (parameter.high,) if isinstance(parameter, Range) else parameter.values[1:]
        rows += [tuple({**first, parameter.key: text}.items()) for text in others]
    return points_of([], rows, alone="")


def described(parameter: Parameter) -> str:
    """As the command line had it, without the key."""
    if isinstance(parameter, Range):
        return f"{parameter.low}..{parameter.high}{':log' if parameter.log else ''}"
    return ",".join(parameter.values)


def _range(key: str, low: str, high: str, log: bool, word: str) -> Range:
    for text in (low, high):
        if not (INTEGER.fullmatch(text) or FLOAT.fullmatch(text)):
            raise BadInputError(f"{shorten(word)}: {text} is no number; write {key}=LOW..HIGH")
    if float(low) >= float(high):
        raise BadInputError(f"{shorten(word)}: the first number must be the smaller one")
    if log and float(low) <= 0:
        raise BadInputError(f"{shorten(word)}: logarithms need numbers above 0")
    return Range(key, low, high, log)
