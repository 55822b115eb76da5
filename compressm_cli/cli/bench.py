"""``compressm bench``: what a training step and inference take on this machine, at several orders."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Device, Json, Overrides, Plugins
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.recipe import Recipe as RecipeSettings
    from compressm_cli.reports.bench import BenchReport

LARGEST_ORDER = 65536
"""As in a recipe."""

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm bench quickstart/baseline --orders 64,32,16",
        "compressm bench my.yaml train.batch_size=256 --device cuda --json",
        "compressm bench models/small-llama train.batch_size=4 data.length=128",
    ),
)
def bench(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A YAML file, the name of a shipped recipe (see: compressm recipes list), or a folder of transformers "
            "or mamba-ssm with a language model.",
            autocompletion=candidates.recipes,
        ),
    ],
    overrides: Overrides = None,
    orders: Annotated[
        str | None,
        typer.Option(
            metavar="ORDERS",
            help="States of every layer, separated by commas: one row each.",
            show_default="the recipe's",
        ),
    ] = None,
    repeats: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Rounds in which every order is timed.",
            show_default="what some ten seconds allow, 3 to 15",
        ),
    ] = None,
    device: Annotated[
        Device | None, typer.Option(help="Instead of the recipe's; the same as device=...")
    ] = None,
    as_json: Json = False,
    plugin: Plugins = None,
) -> None:
    """Time training steps and inference of the model of RECIPE on this machine.

    Every step is one of training - same model, optimizer, precision, clipping and loss - on random data of the
    recipe's shape. The orders are timed in alternation, and compared with the machine's roof: the FLOP/s of a
    large matrix product.
    """
    wanted = None if orders is None else _parsed(orders)
    from compressm_cli.reports.bench import bench as measure

    extra = [] if device is None else [f"device={device}"]
    resolved = _resolved(recipe, [*(overrides or []), *extra])
    report = measure(resolved, wanted, repeats, lambda text: typer.echo(text, err=True))
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps([asdict(row) for row in report.rows], indent=2, allow_nan=False))
    else:
        _show(report)


def _resolved(source: str, overrides: list[str]) -> "RecipeSettings":
    """A recipe; of a folder of another library the one that is made up for its model."""
    from compressm_cli import exchange
    from compressm_cli.recipe import load_recipe, recipe_from_mapping, recipe_to_mapping

    if not exchange.is_model_folder(Path(source)):
        return load_recipe(source, overrides)
    return recipe_from_mapping(recipe_to_mapping(exchange.load(source).recipe), source, overrides)


def _parsed(text: str) -> list[int]:
    """``"384, 93"`` -> ``[384, 93]``; BadInputError for anything but orders."""
    found = []
    for part in text.split(","):
        number = part.strip()
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= LARGEST_ORDER):
            raise BadInputError(
                f"--orders {text}: {number or 'nothing'} is no order; "
                f"write whole numbers from 1 to {LARGEST_ORDER}, such as 384,93,57"
            )
        found.append(int(number))
    return found


def _show(report: "BenchReport") -> None:
    from compressm_cli.render.tables import bench_decoding_table, bench_table

    out = console.stdout()
    for table in (bench_table(report), bench_decoding_table(report)):
        if table is None:
            out.print(f"Decoding not measured: {report.rows[0].decoding_reason}", markup=False, style="dim")
            continue
        out.print(table.rich())
        for note in table.notes:
            out.print(note, markup=False, style="dim")
