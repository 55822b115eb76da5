"""What an argument may be while it is being typed: recipes, keys of a recipe, runs and checkpoints, with a note each.

Only files are read for it, and no library that takes long to load; what cannot be read has no candidates.
"""

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import typer

from compressm_cli.core.errors import CompressmError

Candidates = list[tuple[str, str]]

ROOT = "outputs/"
"""Where runs are, unless a recipe says something else."""
ANY_FILE, ANY_FOLDER = "file", "dir"
"""Notes of a candidate that stands for all of them; a shell completes them better."""
METRICS = (
    *("test_loss", "total_order", "parameters", "checkpoint_bytes", "training_flops", "inference_flops"),
    *("total_seconds", "training_seconds", "step_seconds", "joules", "peak_memory", "inference_memory"),
    *("inference_seconds_single", "inference_seconds_batch", "text_bits_per_byte", "text_byte_perplexity"),
    *("test_perplexity", "test_bits_per_byte", "test_bits_per_token", "test_mse", "test_mae"),
)
"""What a comparison may limit: ``Tolerances.metrics()``, whose module takes long to load."""
RECIPES, MODELS = (".yaml", ".yml"), (".pt", ".safetensors")


def shipped(incomplete: str) -> Candidates:
    """Names of shipped recipes, each with the question that it asks."""
    from compressm_cli.recipe.shipped import read_header, shipped_recipes

    return [
        (name, read_header(path.read_text(encoding="utf-8")).question)
        for name, path in shipped_recipes().items()
        if name.startswith(incomplete)
    ]


def recipes(incomplete: str) -> Candidates:
    """Shipped recipes, YAML files and folders."""
    return [*shipped(incomplete), *_paths(incomplete, RECIPES)]


def recipe_or_key(ctx: typer.Context, incomplete: str) -> Candidates:
    """Recipes; or keys, where the recipe is that of a run to go on with."""
    return keys(ctx, incomplete) if ctx.params.get("resume") else recipes(incomplete)


def keys(ctx: typer.Context, incomplete: str) -> Candidates:
    """``key=value`` of the recipe that the command line names, as far as it is known."""
    from compressm_cli.recipe.keys import complete_override

    given = ctx.params
    source = given.get("recipe") or given.get("resume") or given.get("model")
    return list(
        complete_override(
            incomplete, _recipe(source, given.get("overrides") or given.get("settings") or [])
        ).items()
    )


def sweep_keys(ctx: typer.Context, incomplete: str) -> Candidates:
    """The same; of a setting with several values the last is completed."""
    key, equals, values = incomplete.partition("=")
    before, comma, last = values.rpartition(",")
    found = keys(ctx, f"{key}{equals}{last}")
    return [(f"{key}={before},{text.partition('=')[2]}", about) for text, about in found] if comma else found


def runs(incomplete: str) -> Candidates:
    """Run folders, and folders that they may lie in."""
    return [*_runs(incomplete), *_paths(incomplete, ())]


def models(incomplete: str) -> Candidates:
    """Checkpoints, run folders, and folders that they may lie in."""
    return [*_runs(incomplete), *_paths(incomplete, MODELS)]


def variants(incomplete: str) -> Candidates:
    """How selective layers may be reduced, as a recipe's ``compression.variant`` says it."""
    from compressm_cli.recipe.keys import complete_override

    prefix = "compression.variant="
    found = complete_override(f"{prefix}{incomplete}", {"compression": {"method": "hankel"}})
    return [(key.removeprefix(prefix), about) for key, about in found.items() if key != f"{prefix}null"]


def metrics(incomplete: str) -> Candidates:
    """``METRIC=`` of what a comparison may limit; the ratio is typed."""
    return [(f"{name}=", "") for name in METRICS if name.startswith(incomplete)]


def columns(incomplete: str) -> Candidates:
    """What ``runs`` tells of each; keys of recipes and summaries are typed."""
    from compressm_cli.reports.listing import COLUMNS

    return [(name, "") for name in COLUMNS if name.startswith(incomplete)]


def files(incomplete: str) -> Candidates:
    """Any file."""
    return [(incomplete, ANY_FILE)]


def folders(incomplete: str) -> Candidates:
    """Any folder."""
    return [(incomplete, ANY_FOLDER)]


def _recipe(source: object, overrides: list[str]) -> Any:
    """What the settings of a recipe are set to; nothing where that cannot be told."""
    from compressm_cli.recipe.overrides import apply_overrides
    from compressm_cli.recipe.problems import Place
    from compressm_cli.recipe.shipped import find_recipe
    from compressm_cli.recipe.yaml_text import parse_yaml
    from compressm_cli.runs.folder import Run

    with suppress(CompressmError, OSError, ValueError):
        path = Path(str(source))
        file = Run.newest(path).recipe_path if path.is_dir() else find_recipe(str(source))
        root, _ = parse_yaml(file.read_text(encoding="utf-8"), lambda line, column: Place(""))
        if root is not None:
            apply_overrides(root, overrides)
            return root.plain()
    return {}


def _runs(incomplete: str) -> Iterator[tuple[str, str]]:
    """The folders of runs where runs usually are, until a folder is named."""
    if ROOT.startswith(incomplete):
        yield from _paths(ROOT, ())


def _paths(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Folders, with a slash at their end, and files of these kinds."""
    folder, slash, start = incomplete.rpartition("/")
    with suppress(OSError):
        for entry in sorted(os.scandir(f"{folder}{slash}" or "."), key=lambda entry: entry.name):
            hidden = entry.name.startswith(".") and not start.startswith(".")
            if hidden or not entry.name.startswith(start):
                continue
            path = f"{folder}{slash}{entry.name}"
            if entry.is_dir():
                yield f"{path}/", _about_folder(Path(entry.path))
            elif entry.name.endswith(suffixes):
                yield path, ""


def _about_folder(folder: Path) -> str:
    """What a folder is, if it is a run or has runs."""
    with suppress(OSError, ValueError, AttributeError):
        if (info := folder / "run.json").is_file():
            run = json.loads(info.read_text(encoding="utf-8"))
            return f"run of {run.get('recipe')}, seed {run.get('seed')}: {run.get('status')}"
        if count := sum((version / "run.json").is_file() for version in folder.glob("v[0-9]*")):
            return "one run" if count == 1 else f"{count} runs"
    return ""
