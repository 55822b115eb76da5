"""Arguments and options that several commands take."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Recipe = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE", help="A YAML file, or the name of a shipped recipe (see: compressm recipes list)."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Settings instead of the recipe's, such as train.steps=500. They are YAML."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Device = Literal["auto", "cpu", "cuda"]
RunOrCheckpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CHECKPOINT_OR_RUN",
        help="A checkpoint (.pt), a run folder (its final checkpoint, or its newest one where the run has not "
        "finished), or a folder of runs (the newest of them).",
    ),
]
