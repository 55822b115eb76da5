"""``compressm runs``: what was trained, and what came of it."""

import json
from pathlib import Path
from typing import Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import CSV, LATEX, MARKDOWN, OUTPUT, one_format
from compressm_cli.reports.conditions import Condition, chosen, ordered, require_known, shown
from compressm_cli.reports.listing import COLUMNS, Entry, runs_below

WHICH = "Which, and in which order"

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm runs outputs",
        "compressm runs --where status=done --where 'test>=0.95' --sort=-test",
        "compressm runs --columns folder,train.learning_rate,test --csv",
    ),
)
def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FOLDER",
            help="Where to look, at any depth: a run, a folder of runs, of sweeps or of studies.",
            show_default="outputs",
            autocompletion=candidates.runs,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only runs with KEY=VALUE, or != < <= > >= between them, or ~ and a regular expression. KEY is a "
            "column, a setting of the recipe (train.learning_rate) or an entry of summary.json (flops.training); "
            "with recipe., summary. or run. before it, of that file. May be repeated: all must hold.",
            autocompletion=candidates.columns,
            rich_help_panel=WHICH,
        ),
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option(
            metavar="KEY",
            help="Sort by it, ascending; descending with --sort=-KEY.",
            show_default="by time: the newest comes last",
            autocompletion=candidates.columns,
            rich_help_panel=WHICH,
        ),
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Only the newest N of them.", rich_help_panel=WHICH),
    ] = None,
    columns: Annotated[
        str | None,
        typer.Option(
            metavar="KEYS",
            help=f"What is told of each, separated by commas: {', '.join(COLUMNS)}, or any other KEY.",
            show_default="as many as there is room for",
            autocompletion=candidates.columns,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON: all columns, not rounded.", rich_help_panel=OUTPUT)
    ] = False,
    as_csv: CSV = False,
    markdown: MARKDOWN = False,
    latex: LATEX = False,
) -> None:
    """List runs: status, metric, steps, FLOPs, seconds, orders.

    Damaged and half-written runs are rows with their reason. CSV and JSON have all columns and numbers that are not
    rounded.
    """
    form = one_format(json=as_json, csv=as_csv, markdown=markdown, latex=latex)
    conditions = [Condition.parse(text) for text in where or []]
    keys = [key.strip() for key in columns.split(",") if key.strip()] if columns else []
    tops = folders or [Path(candidates.ROOT)]
    found = runs_below(tops)
    for warning in found.warnings:
        console.warn(warning)
    for key in keys:
        require_known("--columns", key, found.runs)
    listed = chosen(found.runs, conditions)
    listed = listed[-last:] if last else listed
    if not listed:
        which = f"none of {len(found.runs):,} runs is meant" if found.runs else "no runs"
        console.tell(f"{which}, below {', '.join(map(str, tops))}")
    _print(ordered(listed, sort) if sort else listed, form, keys)


def _print(listed: list[Entry], form: str | None, keys: list[str]) -> None:
    from compressm_cli.render.runs_table import records, runs_table

    if form == "json":
        typer.echo(json.dumps(records(listed, keys), indent=2, allow_nan=False))
    elif form == "csv":
        from compressm_cli.render.table import as_csv

        names = keys or COLUMNS
        rows = [[_cell(record[name]) for name in names] for record in records(listed, keys)]
        typer.echo(as_csv(names, rows), nl=False)
    elif form is not None:
        table = runs_table(listed, None, keys)
        typer.echo(table.markdown() if form == "markdown" else table.latex(), nl=False)
    elif listed:
        out = console.stdout()
        console.show(out, runs_table(listed, out.width, keys))


def _cell(value: object) -> object:
    return shown(value) if isinstance(value, dict | list | bool) else value
