"""The listing of ``runs``: as many of its columns as a line has room for."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

from compressm_cli.core.quantities import Unit, quantity
from compressm_cli.core.text import one_line
from compressm_cli.render.table import Footnotes, Table, total_width
from compressm_cli.reports.conditions import shown
from compressm_cli.reports.listing import COLUMNS, MISSING, Entry, is_number

SHOWN = ("folder", "seed", "status", "test", "validation", "steps", "flops", "seconds", "orders", "when")
FIRST = ("folder", "status", "test", "seed", "steps", "seconds", "orders", "flops", "when", "validation")
"""The same by how soon they are shown where not all have room."""
MOST_ORDERS = 4
"""With more layers than this, their orders are told together."""
LONGEST = 40
"""Characters of an entry that a table was asked for."""
HEADINGS = {"flops": "FLOPs"}


def runs_table(runs: Sequence[Entry], width: int | None, columns: Sequence[str] = ()) -> Table:
    """A row a run; with ``columns`` those, else what has room in ``width`` characters, or all."""
    notes = Footnotes()
    cells = _Cells(runs, notes)
    whole = {column: [cells(run, column) for run in runs] for column in columns or SHOWN}
    headings = {column: cells.heading(column) for column in whole}
    chosen = list(whole) if columns or width is None else _fitting(headings, whole, width)
    rows = [list(row) for row in zip(*(whole[column] for column in chosen), strict=True)]
    return Table(cells.title, [headings[column] for column in chosen], rows, notes.lines())


def _fitting(headings: dict[str, str], cells: dict[str, list[str]], width: int) -> list[str]:
    widths = {
        column: Table("", [headings[column]], [[cell] for cell in cells[column]]).widths()[0]
        for column in cells
    }
    chosen: list[str] = []
    for column in FIRST:
        if len(chosen) < 2 or total_width([widths[c] for c in (*chosen, column)]) <= width:
            chosen.append(column)
    return [column for column in SHOWN if column in chosen]


class _Cells:
    """What the table says of a run; reasons stand below it."""

    def __init__(self, runs: Sequence[Entry], notes: Footnotes) -> None:
        self._notes = notes
        self._metrics = {(run.metric, _title(run)) for run in runs if run.primary}
        folders = {os.path.dirname(run.folder.parent) for run in runs}
        common = os.path.commonpath(folders) if folders and _comparable(folders) else ""
        self._top = Path(common)

    def heading(self, column: str) -> str:
        if column in ("test", "validation") and len(self._metrics) == 1:
            return f"{column}\n{next(iter(self._metrics))[1]}"
        return HEADINGS.get(column, column)

    @property
    def title(self) -> str:
        """With the folder that all runs are below, which is not told of each."""
        return "Runs" if self._top == Path() else f"Runs in {one_line(str(self._top))}"

    def __call__(self, run: Entry, column: str) -> str:
        value = run.value(column)
        if value is MISSING or value is None:
            return ""
        if column == "folder":
            return str(run.folder.relative_to(self._top))
        if column == "status" and run.reason is not None:
            return f"{value} {self._notes.mark(run.reason)}"
        if column in ("test", "validation"):
            name = f" {_title(run)}" if len(self._metrics) > 1 else ""
            return quantity(value, _unit(run)) + name
        if column in FORMATS:
            return FORMATS[column](value)
        text = f"{value:.6g}" if isinstance(value, float) else shown(value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _comparable(folders: set[str]) -> bool:
    return len({os.path.isabs(folder) for folder in folders}) == 1


def _title(run: Entry) -> str:
    title = (run.primary or {}).get("title", run.metric)
    return title if type(title) is str else str(run.metric)


def _unit(run: Entry) -> Unit:
    unit = (run.primary or {}).get("unit")
    return next((known for known in get_args(Unit) if known == unit), "number")


def _units(counts: dict[str, int]) -> str:
    """``9``, ``9, 11``, ``6 layers of 10``, or ``6 layers: 60``."""
    sizes = list(counts.values())
    if len(sizes) > 1 and len(set(sizes)) == 1:
        return f"{len(sizes)} layers of {sizes[0]:,}"
    if len(sizes) <= MOST_ORDERS:
        return ", ".join(f"{size:,}" for size in sizes)
    return f"{len(sizes)} layers: {sum(sizes):,}"


def _axes(counts: dict[str, int]) -> str:
    return ", ".join(
        f"{size:,} {kind}" for kind, size in counts.items() if kind not in ("states", "sublayer")
    )


FORMATS: dict[str, Callable[[Any], str]] = {
    "steps": lambda steps: f"{steps:,}",
    "flops": lambda flops: quantity(flops, "flops"),
    "seconds": lambda seconds: quantity(seconds, "seconds"),
    "orders": _units,
    "axes": _axes,
    "when": lambda when: when[:16].replace("T", " "),
}


def records(runs: Sequence[Entry], columns: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The same for programs: not rounded, null where it is not known."""
    return [{column: _plain(run.value(column)) for column in columns or COLUMNS} for run in runs]


def _plain(value: Any) -> Any:
    if value is MISSING or (isinstance(value, float) and not is_number(value)):
        return None
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
