"""A table of text, on a terminal, in Markdown or in LaTeX; rows of values as CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rich import box
from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from compressm_cli.core.text import printable

BUSY = "The machine was busy with other work when this was measured: ratios say more than seconds."
"""The note below what was measured then."""

LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    # Brackets after the end of a row would be its option.
    "[": "{[}",
    "]": "{]}",
    "±": r"$\pm$",
    "µ": r"\textmu{}",
}
"""What LaTeX would not show as it is."""


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

    def latex(self) -> str:
        """For a paper: with the rules of the package booktabs."""
        return "\n".join(
            [
                r"% needs \usepackage{booktabs}",
                r"\begin{table}",
                r"\centering",
                rf"\caption{{{latex(self.title)}}}",
                rf"\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
                r"\toprule",
                _latex_row(self.columns),
                r"\midrule",
                *map(_latex_row, self.rows),
                r"\bottomrule",
                r"\end{tabular}",
                *(rf"\par\footnotesize {latex(note)}" for note in self.notes),
                r"\end{table}",
                "",
            ]
        )

    def widths(self) -> list[int]:
        """Of the columns on a terminal, without what is between them."""
        cells = zip(self.columns, *self.rows, strict=True)
        return [max(cell_len(line) for cell in column for line in cell.split("\n")) for column in cells]

    def fitted(self, width: int) -> "list[Table]":
        """The table in parts that a terminal has room for, each with the first column; notes are below the last."""
        widths, parts = self.widths(), [[0]]
        for i in range(1, len(widths)):
            if len(parts[-1]) > 1 and total_width([widths[j] for j in (*parts[-1], i)]) > width:
                parts.append([0])
            parts[-1].append(i)
        tables = [
            Table(
                self.title if part is parts[0] else f"{self.title}, continued",
                [self.columns[i] for i in part],
                [[row[i] for i in part] for row in self.rows],
            )
            for part in parts
        ]
        return [*tables[:-1], replace(tables[-1], notes=self.notes)]


def total_width(widths: Sequence[int]) -> int:
    """Of a table with such columns on a terminal."""
    return sum(widths) + 3 * len(widths) - 1


def as_csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Rows of values, not rounded; what is not known is empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([printable(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return out.getvalue()


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


def latex(text: str) -> str:
    """Text that LaTeX shows as it is, on one line."""
    return " ".join("".join(LATEX.get(sign, sign) for sign in text).split())


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(map(latex, cells)) + r" \\"
