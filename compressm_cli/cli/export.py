"""``compressm export``: a trained model as a folder for transformers, mamba-ssm or safetensors."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from compressm_cli.cli import candidates, console
from compressm_cli.cli.commands import Command, examples
from compressm_cli.cli.parameters import Plugins

app = typer.Typer(add_completion=False)


@app.command(
    cls=Command,
    epilog=examples(
        "compressm export small.pt --to safetensors --output small",
        "compressm export outputs/my-mamba --to hf --output my-mamba --dtype bfloat16",
    ),
)
def export(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL",
            help="A checkpoint (.pt), a run folder, a folder of runs, or a folder of another library, which is then "
            "translated.",
            autocompletion=candidates.models,
        ),
    ],
    *,
    target: Annotated[
        Literal["hf", "hf-ragged", "mamba-ssm", "safetensors"],
        typer.Option("--to", help="Who is to read it."),
    ],
    folder: Annotated[
        Path,
        typer.Option(
            "--output",
            metavar="DIR",
            file_okay=False,
            help="Folder to write, new or empty.",
            autocompletion=candidates.folders,
        ),
    ],
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"],
        typer.Option(help="Type of the weights; only float32 changes nothing."),
    ] = "float32",
    plugin: Plugins = None,
) -> None:
    """Write a model for others to load.

    hf           transformers' Mamba and Mamba-2; layers of different
                 order are padded, which is exact; networks of other
                 folders as they are now
    hf-ragged    transformers with code of its own beside the weights;
                 every layer keeps its order and its maps
    mamba-ssm    mamba-ssm's MambaLMHeadModel, padded too
    safetensors  any model of compressm, with our own names
    """
    import torch

    from compressm_cli import exchange
    from compressm_cli.exchange.places import find_checkpoint

    if exchange.is_model_folder(path) or path.suffix == ".safetensors":
        checkpoint = exchange.load(path)
    else:
        file, chosen, _ = find_checkpoint(path)
        typer.echo(f"{chosen}: {file}", err=True)
        checkpoint = exchange.load(file)
    written = exchange.export(checkpoint, target, folder, getattr(torch, dtype))
    out = console.stdout()
    orders = ", ".join(map(str, checkpoint.orders.values()))
    layers = f"layers of order {orders}" if orders else f"a model of kind {checkpoint.recipe.model.kind}"
    out.print(f"{checkpoint.recipe.name}: {layers}", markup=False, soft_wrap=True)
    for file in written:
        out.print(str(file), markup=False, soft_wrap=True)
