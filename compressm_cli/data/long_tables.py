"""Tables with a row a step: the steps of each series brought together, in order of time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten


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
