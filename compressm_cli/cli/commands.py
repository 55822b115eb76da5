"""What every command and group of commands is: Typer's, with help in panels on a terminal and as text elsewhere.

In a help text a paragraph with columns (two spaces somewhere) is kept as it is written; others are wrapped anew.
"""

import re
import sys
from shutil import get_terminal_size
from typing import Any

from typer.core import TyperCommand, TyperGroup

ARGUMENTS, OPTIONS, COMMANDS = "Arguments", "Options", "Commands"
"""Panels of what names no other; as in Typer."""
NARROWEST = 70
"""Columns that panels need."""
WHOLE = 1000
"""Characters of a command's first sentence that are shown: all."""
KEPT = "\b\n"
"""Before a paragraph that the formatter of plain text is not to wrap."""

Panels = dict[str, list[tuple[str, str]]]


class Command(TyperCommand):
    """A command."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.help, self.epilog = _joined(self.help), _joined(self.epilog)

    def get_params(self, ctx: Any) -> list[Any]:
        return _lean(super().get_params(ctx))

    def get_short_help_str(self, limit: int = WHOLE) -> str:
        return super().get_short_help_str(limit)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = "rich" if _has_room() else None
        super().format_help(ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.help, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        _write_panels(_parameters(self.get_params(ctx), ctx), formatter)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.epilog, formatter)


class Group(TyperGroup):
    """A group of commands."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.help, self.epilog = _joined(self.help), _joined(self.epilog)

    def get_params(self, ctx: Any) -> list[Any]:
        return _lean(super().get_params(ctx))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        self.rich_markup_mode = "rich" if _has_room() else None
        super().format_help(ctx, formatter)

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        _write_text(self.help, formatter)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: Panels = {COMMANDS: []}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or COMMANDS
            panels.setdefault(panel, []).append((name, command.get_short_help_str()))
        _write_panels(_parameters(self.get_params(ctx), ctx) | panels, formatter)


def examples(*lines: str) -> str:
    """What stands below the options of a command: how it is called, a line each."""
    # Below an empty line the others keep their indentation where Typer cleans the text.
    return "\n".join(["", "Examples:", *(f"  {line}" for line in lines)])


def _has_room() -> bool:
    """Whether there is a terminal that panels fit on; in narrow ones they would cut the names of options."""
    return sys.stdout.isatty() and get_terminal_size().columns >= NARROWEST


def _joined(text: str | None) -> str | None:
    """The lines of each paragraph as one."""
    if text is None:
        return None
    paragraphs = re.split(r"\n\s*\n", text)
    return "\n\n".join(p if _has_columns(p) else " ".join(p.split()) for p in paragraphs)


def _has_columns(paragraph: str) -> bool:
    return "  " in paragraph


def _write_text(text: str | None, formatter: Any) -> None:
    if text:
        formatter.write_paragraph()
        paragraphs = (KEPT + p if _has_columns(p) else p for p in text.strip().split("\n\n"))
        with formatter.indentation():
            formatter.write_text("\n\n".join(paragraphs))


def _lean(parameters: list[Any]) -> list[Any]:
    """Typer shows a type beside flags, too (``--json <bool>``), and beside arguments (``KEY=VALUE <list[str]>``), and
    imports pydantic to learn that ``--help``, whose default is None, is not given."""
    for parameter in parameters:
        is_flag = parameter.param_type_name == "option" and parameter.is_flag
        if is_flag or parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None
        if is_flag and parameter.default is None:
            parameter.default = False
    return parameters


def _parameters(parameters: list[Any], ctx: Any) -> Panels:
    panels: Panels = {ARGUMENTS: [], OPTIONS: []}
    for parameter in parameters:
        if (record := parameter.get_help_record(ctx)) is not None:
            default = ARGUMENTS if parameter.param_type_name == "argument" else OPTIONS
            panels.setdefault(parameter.rich_help_panel or default, []).append(record)
    return panels


def _write_panels(panels: Panels, formatter: Any) -> None:
    for title, records in panels.items():
        if records:
            with formatter.section(title):
                formatter.write_dl(records)
