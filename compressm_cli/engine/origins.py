"""Where a run comes from: what ``run.json`` says of its code, machine and time."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from compressm_cli import __version__
from compressm_cli.engine.precision import resolve_device
from compressm_cli.ops.machine import load_average, processor_name
from compressm_cli.recipe import Recipe


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
        "processes": processes,
        "launcher": launcher,
        "machine": {"system": platform.system(), "node": platform.node()},
        "load": load(),
        "git": _git(),
    }


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
