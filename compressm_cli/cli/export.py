"""``compressm export``: a trained model as a folder for transformers, mamba-ssm or safetensors."""

from pathlib import Path

import click

from compressm_cli.cli import console


@click.command()
@click.argument("path", metavar="CHECKPOINT_OR_RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["hf", "hf-ragged", "mamba-ssm", "safetensors"]),
    required=True,
    help="Who is to read it.",
)
@click.option(
    "--output",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to write, new or empty.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Type of the weights; only float32 changes nothing.",
)
def export(path: Path, target: str, folder: Path, dtype: str) -> None:
    """Write a model for others to load.

    CHECKPOINT_OR_RUN is a checkpoint (.pt), a run folder, a folder of runs, or a folder of another library, which is
    then translated.

    \b
    hf           transformers' Mamba and Mamba-2; layers of different order are padded, which is exact
    hf-ragged    transformers with code of its own beside the weights; every layer keeps its order and its maps
    mamba-ssm    mamba-ssm's MambaLMHeadModel, padded too
    safetensors  any model of compressm, with our own names
    """
    import torch

    from compressm_cli import exchange
    from compressm_cli.checkpoint import Checkpoint
    from compressm_cli.reports.spectrum import find_checkpoint

    if exchange.is_model_folder(path) or path.suffix == ".safetensors":
        checkpoint = exchange.load(path)
    else:
        file, chosen, _ = find_checkpoint(path)
        click.echo(f"{chosen}: {file}", err=True)
        checkpoint = Checkpoint.load(file)
    written = exchange.export(checkpoint, target, folder, getattr(torch, dtype))  # type: ignore[arg-type]
    out = console.stdout()
    orders = ", ".join(map(str, checkpoint.orders.values()))
    out.print(f"{checkpoint.recipe.name}: layers of order {orders}", markup=False, soft_wrap=True)
    for file in written:
        out.print(str(file), markup=False, soft_wrap=True)
