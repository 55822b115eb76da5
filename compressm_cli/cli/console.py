"""What the commands share to talk to a terminal: results on stdout, all else on stderr."""

import os
import sys
from typing import TYPE_CHECKING, Any

import typer

from compressm_cli.cli.streams import shown_in
from compressm_cli.core.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from rich.console import Console
    from rich.segment import Segment
    from rich.table import Table
    from rich.text import Text

    from compressm_cli.render.table import Table as TextTable

PIPE_WIDTH = 120
"""Columns of a table that is not written to a terminal."""
SIZES = {"COLUMNS": range(40, 100_000), "LINES": range(1, 100_000)}
"""Sizes of a terminal that something can be shown in, by the variable that tells them."""
LONGEST_ERROR = 4000
"""Characters of an error, and of each of its lines."""


def settle_size() -> None:
    """Take a size of the terminal that nothing can be shown in, such as COLUMNS=0, for not given.

    Whoever lays out text asks the environment first: rich, in consoles of its own and of Typer's, and Python. Rich
    would show nothing, or blanks, and results would be lost.
    """
    for name, sizes in SIZES.items():
        given = os.environ.get(name, "")
        if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) in sizes):
            os.environ.pop(name, None)


def stdout() -> "Console":
    """The console for results. Text from recipes and files must go through ``escape`` first."""
    return _console(stderr=False)


def stderr() -> "Console":
    """The console for progress and notes."""
    return _console(stderr=True)


def escape(text: object) -> str:
    """Any text, with rich's markup and all that a terminal would obey in it made harmless."""
    from rich.markup import escape as escape_markup

    return escape_markup(printable(str(text)))


def write(text: str) -> None:
    """Results of names and texts of others: on a terminal without what that would obey, elsewhere as they are."""
    if sys.stdout.isatty():
        text = "".join(sign if sign in "\n\t" else printable(sign) for sign in text)
    sys.stdout.write(text)  # Typer would leave out of a pipe what it takes for colours


def table(*columns: str, title: str | None = None) -> "Table":
    """An empty table in the house style."""
    from rich import box
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def show(out: "Console", table: "TextTable") -> None:
    """A table with its notes, in as many parts as the terminal needs, each below an empty line."""
    for part in table.fitted(out.width):
        out.print()
        out.print(part.rich())
        for note in part.notes:
            out.print(note, markup=False, style="dim")


def report_error(message: str, hint: str | None = None) -> None:
    """``error: message`` on stderr, without colours or markup, and a hint in lines of its own.

    What a terminal would obey in them is escaped, and what is too long to be read is cut.
    """
    typer.echo(f"error: {_cut(printable(message))}", err=True)
    if hint:
        typer.echo("\n".join(map(_cut, printable(hint).splitlines())), err=True)


def tell(message: str) -> None:
    """A line on stderr about what is no error, shown as ``report_error`` shows a message."""
    typer.echo(_cut(printable(message)), err=True)


def warn(message: str) -> None:
    """``warning: message`` on stderr, as ``report_error`` shows a message: the command goes on."""
    typer.echo(f"warning: {_cut(printable(message))}", err=True)


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_ERROR else f"{text[: LONGEST_ERROR - 4]} ..."


def _console(stderr: bool) -> "Console":
    from rich.console import Console
    from rich.segment import Segment

    class Printable(Console):
        """Escapes what a terminal would obey in any text, wherever it is from; colours are added later.

        Of a text that is laid out, what the encoding lacks is replaced before its width is measured.
        """

        def render_str(self, text: str, **settings: Any) -> "Text":
            return super().render_str(shown_in(text, self.encoding), **settings)

        def render(self, renderable: Any, options: Any = None) -> "Iterable[Segment]":
            for segment in super().render(renderable, options):
                plain = segment.control or segment.text.isprintable()
                yield segment if plain else Segment(printable(segment.text), segment.style)

    console = Printable(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console
