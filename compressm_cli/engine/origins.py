"""Where a run comes from: what ``run.json`` says of its code, machine and time."""

import os
import platform
import subprocess
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from compressm_cli import __version__, plugins
from compressm_cli.checkpoint.validation import DamagedError, read_plugins
from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.precision import resolve_device
from compressm_cli.ops.machine import load_average, processor_name
from compressm_cli.recipe import Recipe, load_recipe
from compressm_cli.runs.folder import Run


def beginnings(
    recipe: Recipe, seed: int, command: str, processes: int, launcher: dict[str, Any] | None
) -> dict[str, Any]:
    """The command, code, versions and machine that a run begins with."""
    device = resolve_device(recipe.device)
    return {
        "recipe": recipe.name,
        "seed": seed,
        "command": command,
        "started": now(),
        "versions": {
            "compressm": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "threads": torch.get_num_threads(),
        },
        "plugins": [asdict(origin) for origin in plugins.needed(recipe)],
        "processes": processes,
        "launcher": launcher,
        "machine": {"system": platform.system(), "node": platform.node()},
        "load": load(),
        "git": _git(),
    }


def recipe_of(run: Run) -> Recipe:
    """The recipe of a run, whose plug-ins must be loaded or installed; BadInputError where one is not."""
    try:
        plugins.require(read_plugins(run.read_info()), run.folder)
    except DamagedError as error:
        raise BadInputError(f"{run.folder / 'run.json'}: damaged: {error}") from error
    return load_recipe(run.recipe_path)


def load() -> dict[str, Any]:
    """How much the machine has to do before the run begins; the means are null where the system has none."""
    return {"cores": os.cpu_count(), "average": load_average()}


def _git() -> dict[str, Any] | None:
    """Commit of this package's checkout, and whether files differ from it; None outside a checkout."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(here), *arguments], capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) not in here.parents:
            return None
        # An installed copy may lie inside another project's checkout: only tracked files count.
        git("ls-files", "--error-unmatch", str(Path(__file__)))
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
