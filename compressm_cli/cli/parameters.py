"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from compressm_cli.cli import candidates
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import try_to_write, unwritable
from compressm_cli.core.invocation import INVOCATION

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A YAML file, or the name of a shipped recipe (see: compressm recipes list).",
        autocompletion=candidates.recipes,
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings instead of the recipe's, such as train.steps=500. They are YAML.",
        autocompletion=candidates.keys,
    ),
]


def _load(ctx: typer.Context, modules: list[str] | None) -> list[str]:
    if modules and not ctx.resilient_parsing:
        from compressm_cli import plugins

        for module in modules:
            INVOCATION.plugins.append(module)
            plugins.load(module)
    return modules or []


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin",
        metavar="MODULE",
        help="Import this module, whose layers, models, methods, objectives and tasks recipes may then name. May be "
        "given several times.",
        callback=_load,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Literal["auto", "cpu", "cuda"]
Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A checkpoint (.pt), a run folder (its final checkpoint, or its newest one where the run has not "
        "finished), a folder of runs (the newest of them), or a folder of transformers or mamba-ssm.",
        autocompletion=candidates.models,
    ),
]


def share(value: float | None) -> float | None:
    """Callback of an option that is a share above 0 and at most 1, or not given."""
    if value is not None and not 0 < value <= 1:
        raise typer.BadParameter(f"{value} is not in the range 0<x<=1")
    return value


OUTPUT = "Output"
CSV = Annotated[
    bool, typer.Option("--csv", help="Print CSV: numbers that are not rounded.", rich_help_panel=OUTPUT)
]
MARKDOWN = Annotated[bool, typer.Option("--markdown", help="Print Markdown.", rich_help_panel=OUTPUT)]
LATEX = Annotated[
    bool, typer.Option("--latex", help="Print a table for LaTeX (booktabs).", rich_help_panel=OUTPUT)
]


def one_format(**asked: bool) -> str | None:
    """The name of the one format that was asked for; BadInputError where there are several."""
    given = [name for name, wanted in asked.items() if wanted]
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise BadInputError(f"{names} exclude each other; give one of them")
    return given[0] if given else None


def require_writable_page(html: Path) -> None:
    """Before any work is done: BadInputError where the page of ``--html`` could not be written."""
    try:
        if not html.parent.is_dir():
            raise BadInputError(f"--html {html}: no such folder: {html.parent}")
        try_to_write(html)
    except OSError as error:
        raise BadInputError(unwritable(f"--html {html}", error, "choose another file")) from error
