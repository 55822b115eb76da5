"""Tables with a row a step: the steps of each series brought together, in order of time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten

THOUSAND = (500.0, 2000.0)
"""What is about that factor, between seconds and milliseconds."""
EPOCH = 1e8
"""Larger numbers are times since 1970 rather than since a beginning."""
LARGEST = 1e300
"""Of larger steps nothing is compared; whole numbers have no end."""
FEW, SHARE = 2, 0.01
"""Of steps that differ so much, at least so many and such a share of all are told of."""


@dataclass(frozen=True)
class Grouping:
    """Which rows of a table are the steps of which series."""

    names: list[str]
    """The ids, in the order in which they first occur."""
    rows: list[list[int]]
    """Of each, its rows in order of time, counted from 0."""

    def one_each(self, values: Sequence[Any] | np.ndarray, column: str, source: str) -> list[Any]:
        """What is the same in all rows of a series, one a series; BadInputError where it is not."""
        for name, rows in zip(self.names, self.rows, strict=True):
            for row in rows:
                if values[row] != values[rows[0]]:
                    one, other = (shorten(_plain(values[place])) for place in (rows[0], row))
                    raise BadInputError(
                        f"{source}, series {name!r}: column {column!r} is {one} in one of its rows and {other} in "
                        "another; write the same in all of them"
                    )
        return [values[rows[0]] for rows in self.rows]


def grouped(ids: Sequence[str], times: Sequence[Any] | None, column: str | None, source: str) -> Grouping:
    """The series of a table.

    ids: of each row. times: of each row, None where the rows are in order as they stand. Raises BadInputError where a
    series has two rows of one time, naming the ``column``.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(ids):
        rows.setdefault(name, []).append(row)
    if times is not None:
        for name, members in rows.items():
            rows[name] = in_order(
                members, times, f"series {name!r}" if name else "the series", column, source
            )
    return Grouping(list(rows), list(rows.values()))


def in_order(
    members: Sequence[int], times: Sequence[Any], what: str, column: str | None, source: str
) -> list[int]:
    """Some rows in order of their times; BadInputError where two have the same."""
    key: Callable[[int], Any] = times.__getitem__
    ordered = sorted(members, key=key)
    for before, after in pairwise(ordered):
        if times[before] == times[after]:
            raise BadInputError(
                f"{source}, {what}: rows {before + 1} and {after + 1} both have {times[after]} as {column!r}; a step "
                "has a time of its own: leave one out, or name the series with data.id_column"
            )
    return ordered


def _plain(value: Any) -> Any:
    """A number of NumPy's as Python writes it."""
    return value.item() if isinstance(value, np.generic) else value


def time_doubts(series: Grouping, times: Sequence[Any], days: int, column: str) -> list[str]:
    """What looks wrong in the times of rows, ``days`` of which are days without a time of day."""
    found = []
    if 0 < days < len(times):
        found.append(
            f"{days:,} of the {len(times):,} times in {column!r} are days alone, and count as their midnight; write "
            "all with the time of day, or none"
        )
    back = [place for place, rows in enumerate(series.rows) if list(rows) not in _straight(rows)]
    if back:
        name, rows = series.names[back[0]], sorted(series.rows[back[0]])
        row = next(after for before, after in pairwise(rows) if times[after] < times[before])
        found.append(
            f"{len(back):,} of the {len(series.rows):,} series go back in time, such as {_called(name)} in row "
            f"{row + 1}: their rows are ordered by {column!r}; where an id has several recordings, give each its own"
        )
    return found + _mixed_units(series, times, column)


def _straight(rows: Sequence[int]) -> tuple[list[int], list[int]]:
    """Rows in the order of the file, and from its end on."""
    forth = sorted(rows)
    return forth, forth[::-1]


def _called(name: str) -> str:
    return f"series {name!r}" if name else "the series"


def _mixed_units(series: Grouping, times: Sequence[Any], column: str) -> list[str]:
    """Whether some times seem to be seconds and others milliseconds."""
    steps, jumps = [], 0
    for rows in series.rows:
        for before, after in pairwise(rows):
            one, two = times[before], times[after]
            steps.append(_size(two - one))
            jumps += (
                isinstance(one, int | float | Decimal)
                and one > EPOCH
                and THOUSAND[0] < two / one < THOUSAND[1]
            )
    ordered = np.sort(np.array(steps))
    if not len(ordered):
        return []
    median = ordered[(len(ordered) - 1) // 2]
    ratios = ordered / median
    odd = ordered[
        (THOUSAND[0] < np.maximum(ratios, 1 / ratios)) & (np.maximum(ratios, 1 / ratios) < THOUSAND[1])
    ]
    if not jumps and len(odd) < max(FEW, SHARE * len(ordered)):
        return []
    sizes = f" ({median:g} and {odd[-1]:g})" if len(odd) else ""
    return [
        f"steps of {column!r} differ by a factor of about 1,000{sizes}: where some times are seconds and others "
        "milliseconds, write all in one unit"
    ]


def _size(step: Any) -> float:
    """A number, or the seconds of a step in time."""
    return step.total_seconds() if isinstance(step, timedelta) else float(min(step, LARGEST))
