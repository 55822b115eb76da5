"""Where a model is: in a file, in a run, or in a folder of another library."""

import re
from pathlib import Path

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.text import shorten
from compressm_cli.exchange.names import CONFIG, SAFETENSORS, WEIGHTS
from compressm_cli.runs.folder import Run

NUMBERED = re.compile(r"checkpoint-(\d+)")
"""Folders that transformers' Trainer writes into its own."""
ADAPTER = "adapter_config.json"


def is_model_folder(path: Path) -> bool:
    """Whether a path is a folder that ``load`` is for: no run of ours, which has no such files."""
    try:
        return path.is_dir() and any((path / name).is_file() for name in (CONFIG, SAFETENSORS))
    except OSError as error:  # such as a name that is too long
        raise BadInputError(f"{shorten(str(path))}: cannot be looked at: {error.strerror}") from error


def weight_bytes(folder: Path) -> int:
    """Bytes of the files of weights in a folder; of those of several kinds, of the ones that are read."""
    files = [entry for entry in folder.iterdir() if entry.is_file()]
    found = (sum(f.stat().st_size for f in files if f.name.endswith(kind)) for kind in WEIGHTS)
    return next((size for size in found if size), 0)


def find_checkpoint(path: Path) -> tuple[Path, str, Run | None]:
    """The checkpoint that a path means, why that one, and its run; BadInputError where there is none."""
    if path.is_file():
        return path, "the given checkpoint", None
    runs = _runs(path)
    run = runs[-1]
    which = "" if len(runs) == 1 else f" of the newest of {len(runs)} runs, {run.folder.name}"
    if run.final_checkpoint.is_file():
        return run.final_checkpoint, f"the final checkpoint{which}", run
    status = run.read_info().get("status", "unknown")
    is_done = status == "done" or run.is_done
    why = (
        f"is done, but its {run.final_checkpoint.name} is gone"
        if is_done
        else f"has not finished (status: {status})"
    )
    told = f"{which or ' of the run'}, which {why}"
    if found := run.last_checkpoints():
        return found[-1], f"the newest checkpoint{told}", run
    if run.best_checkpoint.is_file():
        return run.best_checkpoint, f"the best checkpoint{told}", run
    if is_done:
        raise BadInputError(
            f"{run.folder}: the run is done, and all its checkpoints are gone; put "
            f"{run.final_checkpoint.relative_to(run.folder)} back, or train it again"
        )
    raise BadInputError(
        f"{run.folder}: the run has no checkpoint yet (status: {status}); wait for its first one"
    )


def _runs(path: Path) -> list[Run]:
    """The runs that a path means; BadInputError saying what is there instead."""
    try:
        return Run.find(path)
    except BadInputError as error:
        told = found_in_folder(path) if path.is_dir() else None
        raise BadInputError(f"{path}: {told}" if told else str(error)) from error


def found_in_folder(folder: Path) -> str | None:
    """What a folder that is neither a run nor a model is, and what to give instead; None where nothing is known."""
    names = sorted(entry.name for entry in folder.iterdir())
    if ADAPTER in names:
        return f"an adapter ({ADAPTER}), which is no model alone; merge it into its model, and save that"
    if told := training_folder(folder):
        return told
    weights = [name for name in names if name.endswith(WEIGHTS)]
    if weights:
        return f"no {CONFIG} beside {', '.join(weights[:3])}; it tells what model these weights are of: put it there"
    return None


def training_folder(folder: Path) -> str | None:
    """That a folder is one of transformers' Trainer, and where its models are; None where it is not."""
    numbers = sorted(int(found[1]) for entry in folder.iterdir() if (found := NUMBERED.fullmatch(entry.name)))
    if not numbers:
        return None
    shown = ", ".join(str(folder / f"checkpoint-{number}") for number in numbers[-3:])
    return f"the folder of a training by transformers, without a model of its own; give one in it: {shown}"
