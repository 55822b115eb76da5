"""``compressm recipes``: the recipes that come with the package, and the checking of any."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from compressm_cli.cli.console import escape, report_error, stdout, table
from compressm_cli.errors import BadInputError
from compressm_cli.recipe.problems import Place, RecipeError, printable
from compressm_cli.recipe.shipped import find_recipe, read_header, shipped_recipes
from compressm_cli.recipe.yaml_text import parse_yaml


@click.group(invoke_without_command=True)
@click.pass_context
def recipes(ctx: click.Context) -> None:
    """List, show, copy and validate recipes.

    A recipe is a YAML file that describes one experiment; those that come with the package are known by
    name, such as quickstart/compressed.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def _complete_name(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    return [name for name in shipped_recipes() if name.startswith(incomplete)]


name_argument: Callable[..., Any] = click.argument("name", shell_complete=_complete_name)


@recipes.command("list")
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


@recipes.command()
@name_argument
def show(name: str) -> None:
    """Print the recipe NAME as it is written."""
    click.echo(_shipped(name).read_text(encoding="utf-8"), nl=False)


@recipes.command()
@name_argument
@click.argument("dest", required=False, type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Overwrite DEST if it exists.")
def copy(name: str, dest: Path | None, force: bool) -> None:
    """Copy the recipe NAME to DEST, a file or folder (by default the current one)."""
    source = _shipped(name)
    target = dest or Path()
    if target.is_dir():
        target = target / source.name
    if target.exists() and not force:
        raise BadInputError(f"{target}: exists already; choose another name, or add --force")
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise BadInputError(f"{target}: cannot be written: {error.strerror}; choose another DEST") from error
    click.echo(target)


@recipes.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
def validate(files: tuple[str, ...]) -> None:
    """Check recipes, files or shipped ones by name; tells every error and where it is."""
    from compressm_cli.recipe import load_recipe

    bad = 0
    for file in files:
        try:
            recipe = load_recipe(file)
        except RecipeError as error:
            bad += 1
            click.echo(str(error), err=True)
        else:
            click.echo(f"ok  {printable(str(file))}: {recipe.name}")
    if bad:
        report_error(f"{bad} of {len(files)} recipes cannot be used")
        raise click.exceptions.Exit(2)


@recipes.command()
def schema() -> None:
    """Print the JSON schema of a recipe, for editors."""
    from compressm_cli.recipe import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


def _shipped(name: str) -> Path:
    shipped = shipped_recipes()
    known = shipped.get(name.removesuffix(".yaml"))
    return known if known is not None else find_recipe(name)
