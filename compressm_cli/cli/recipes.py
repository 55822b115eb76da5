"""``compressm recipes``: the recipes that come with the package, and the checking of any."""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer

from compressm_cli.cli import candidates
from compressm_cli.cli.commands import Command, Group
from compressm_cli.cli.console import escape, report_error, stdout, table
from compressm_cli.cli.parameters import Plugins
from compressm_cli.core.errors import BadInputError
from compressm_cli.core.files import unwritable
from compressm_cli.core.text import printable
from compressm_cli.recipe.problems import Place, RecipeError
from compressm_cli.recipe.shipped import find_recipe, read_header, shipped_recipes
from compressm_cli.recipe.yaml_text import parse_yaml

app = typer.Typer(add_completion=False, cls=Group, invoke_without_command=True)


@app.callback()
def recipes(ctx: typer.Context) -> None:
    """List, show, copy and validate recipes.

    A recipe is a YAML file that describes one experiment; those that come with the package are known by
    name, such as quickstart/compressed.
    """
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="A shipped recipe (see: compressm recipes list).",
        autocompletion=candidates.shipped,
    ),
]


@app.command("list", cls=Command)
def list_recipes() -> None:
    """List the shipped recipes, each with the question it asks."""
    overview = table("recipe", "question", "layer", "data", "method")
    overview.columns[0].no_wrap = True
    for name, path in shipped_recipes().items():
        text = path.read_text(encoding="utf-8")
        kinds = _kinds(text, path)
        overview.add_row(*map(escape, (name, read_header(text).question, *kinds)))
    stdout().print(overview)


def _kinds(text: str, path: Path) -> tuple[str, str, str]:
    """Layer, data set and method as the recipe's text names them, without validating it."""
    root, _ = parse_yaml(text, lambda line, column: Place(str(path), line, column))
    keys = (("model", "layer", "kind"), ("data", "task"), ("compression", "method"))
    values = [root.closest(key).value if root else None for key in keys]
    layer, task, method = (value if isinstance(value, str) else "?" for value in values)
    return layer, task, method


@app.command(cls=Command)
def show(name: Name) -> None:
    """Print the recipe NAME as it is written."""
    typer.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@app.command(cls=Command)
def copy(
    name: Name,
    dest: Annotated[
        Path | None,
        typer.Argument(
            metavar="DEST",
            help="A file or a folder.",
            show_default="the current folder",
            autocompletion=candidates.files,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite DEST if it exists.")] = False,
) -> None:
    """Copy the recipe NAME, to change it."""
    source = _shipped(name)
    target = dest or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise BadInputError(f"{target}: exists already; choose another name, or add --force")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BadInputError(unwritable(target, error, "choose another DEST")) from error
    typer.echo(str(target))


@app.command(cls=Command)
def validate(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="RECIPE", help="A YAML file, or a shipped recipe.", autocompletion=candidates.recipes
        ),
    ],
    plugin: Plugins = None,
) -> None:
    """Check recipes, files or shipped ones by name; tells every error and where it is."""
    from compressm_cli.recipe import load_recipe

    bad = 0
    for file in files:
        try:
            recipe = load_recipe(file)
        except RecipeError as error:
            bad += 1
            typer.echo(str(error), err=True)
        else:
            typer.echo(f"ok  {printable(str(file))}: {recipe.name}")
    if bad:
        report_error(f"{bad} of {len(files)} recipes cannot be used")
        raise typer.Exit(2)


@app.command(cls=Command)
def schema(plugin: Plugins = None) -> None:
    """Print the JSON schema of a recipe, for editors."""
    from compressm_cli import plugins
    from compressm_cli.recipe import recipe_schema

    plugins.load_installed()
    typer.echo(json.dumps(recipe_schema(), indent=2))


def _shipped(name: str) -> Path:
    shipped = shipped_recipes()
    known = shipped.get(name.removesuffix(".yaml"))
    return known if known is not None else find_recipe(name)
