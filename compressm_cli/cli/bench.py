"""``compressm bench``: what a training step and inference take on this machine, at several orders."""

import json
from typing import TYPE_CHECKING

import click

from compressm_cli.cli import console
from compressm_cli.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.reports.bench import BenchReport

LARGEST_ORDER = 65536
"""As in a recipe."""


@click.command()
@click.argument("recipe")
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--orders", help="States of every layer, such as 384,93,57. [default: the recipe's]")
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    help="Rounds in which every order is timed. [default: what some ten seconds allow, 3 to 15]",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="Instead of the recipe's; the same as device=...",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench(
    recipe: str,
    overrides: tuple[str, ...],
    orders: str | None,
    repeats: int | None,
    device: str | None,
    as_json: bool,
) -> None:
    """Time training steps and inference of the model of RECIPE on this machine.

    RECIPE is a YAML file, or the name of a shipped recipe; KEY=VALUE overrides single settings. Every step is one
    of training - same model, optimizer, precision, clipping and loss - on random data of the recipe's shape. The
    orders are timed in alternation, and compared with the machine's roof: the FLOP/s of a large matrix product.
    """
    wanted = None if orders is None else _parsed(orders)
    from compressm_cli.recipe import load_recipe
    from compressm_cli.reports.bench import bench as measure

    extra = [] if device is None else [f"device={device}"]
    resolved = load_recipe(recipe, [*overrides, *extra])
    report = measure(resolved, wanted, repeats, lambda text: click.echo(text, err=True))
    if as_json:
        from dataclasses import asdict

        click.echo(json.dumps([asdict(row) for row in report.rows], indent=2, allow_nan=False))
    else:
        _show(report)


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
    from compressm_cli.reports.tables import bench_table

    out = console.stdout()
    table = bench_table(report)
    out.print(table.rich())
    for note in table.notes:
        out.print(note, markup=False, style="dim")
