"""What the commands share to talk to a terminal: results on stdout, all else on stderr."""

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPE_WIDTH = 120
"""Columns of a table that is not written to a terminal."""


def stdout() -> "Console":
    """The console for results. Text from recipes and files must go through ``escape`` first."""
    return _console(stderr=False)


def stderr() -> "Console":
    """The console for progress and notes."""
    return _console(stderr=True)


def escape(text: object) -> str:
    """Any text, with rich's markup in it made harmless."""
    from rich.markup import escape as escape_markup

    return escape_markup(str(text))


def table(*columns: str, title: str | None = None) -> "Table":
    """An empty table in the house style."""
    from rich import box
    from rich.table import Table

    return Table(*columns, title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def report_error(message: str, hint: str | None = None) -> None:
    """``error: message`` on stderr, without colours or markup, and a hint in a line of its own."""
    click.echo(f"error: {message}", err=True)
    if hint:
        click.echo(hint, err=True)


def _console(stderr: bool) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr, highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = PIPE_WIDTH
    return console
