"""A table of text, on a terminal or in Markdown."""

from dataclasses import dataclass, field

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

BUSY = "The machine was busy with other work when this was measured: ratios say more than seconds."
"""The note below what was measured then."""


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row, the others are aligned to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(
            title=Text(self.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if i else "left", overflow="fold", no_wrap=not i)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For a README or an issue."""
        lines = [
            f"### {plain(self.title)}",
            "",
            _markdown_row(self.columns),
            _markdown_row(["---"] + ["---:"] * (len(self.columns) - 1)),
            *(_markdown_row(row) for row in self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {plain(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


class Footnotes:
    """Numbers for reasons, the same one for the same reason."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def mark(self, reason: str) -> str:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return f"[{self._reasons.index(reason) + 1}]"

    def lines(self) -> list[str]:
        return [f"[{i}] {reason}" for i, reason in enumerate(self._reasons, 1)]


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(plain(cell).replace("|", "\\|") for cell in cells) + " |"


def plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for mark in "\\`*_<":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
