"""What ``analyze --axes`` shows: all that could leave of a model, and what a unit costs."""

from dataclasses import asdict
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING

from compressm_cli.cli import console
from compressm_cli.cli.pruning import ScoreName, opened
from compressm_cli.core.errors import BadInputError

if TYPE_CHECKING:
    from compressm_cli.pruning import AxesReport


def show_axes(
    path: Path, overrides: list[str], data: Path | None, score: ScoreName | None, as_json: bool
) -> None:
    """Of a model of ours, or of a folder of transformers."""
    with console.stderr().status("analyzing"):
        title, report, told = _reported(path, overrides, data, score)
    if as_json:
        known = {"model": str(path), "chosen": title, "data": told, **asdict(report)}
        console.write(dumps(known, indent=2, allow_nan=False) + "\n")
        return
    from compressm_cli.render.axes_table import axes_table

    out = console.stdout()
    out.print(f"{path}: {title}", markup=False, soft_wrap=True)
    console.show(out, axes_table(report))
    out.print(f"data: {told}", markup=False, soft_wrap=True)


def _reported(
    path: Path, overrides: list[str], data: Path | None, score: ScoreName | None
) -> tuple[str, "AxesReport", str]:
    """What the model is, its axes, and on what it was judged."""
    from compressm_cli import exchange

    if exchange.is_network_of_others(path):
        from compressm_cli.engine.folder_pruning import axes_of_folder

        if overrides:
            raise BadInputError(f"{overrides[0]}: a folder of transformers has no recipe; give --data FILE")
        chosen = score or ("magnitude" if data is None else "taylor")
        told = "none: FLOPs are those of a random example" if data is None else str(data)
        return "a network of transformers", axes_of_folder(path, data, chosen), told
    if data is not None:
        raise BadInputError("--data goes with a folder of transformers; a model of ours takes data.KEY=VALUE")
    from compressm_cli.engine.pruning import axes_of_checkpoint

    title, known, dataset, wanted = opened(path, overrides)
    return title, *axes_of_checkpoint(known, dataset, score or "taylor", wanted)
