"""From a recipe to a run folder: what happens before the loop begins and after it has ended."""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from compressm_cli import __version__
from compressm_cli.accounting.flops import CONVENTION, inference_flops, training_step_flops
from compressm_cli.accounting.memory import estimate_training_bytes
from compressm_cli.accounting.probe import example_batch
from compressm_cli.checkpoint import Checkpoint
from compressm_cli.compression import METHODS, surgery
from compressm_cli.data.interface import Dataset, DataSpec
from compressm_cli.errors import BadInputError, RunFailedError
from compressm_cli.models import build_model
from compressm_cli.recipe import Recipe, recipe_to_yaml
from compressm_cli.run import Run
from compressm_cli.training.loop import Trainer
from compressm_cli.training.oneshot import require_same_shape
from compressm_cli.training.precision import require_compiler, resolve_device
from compressm_cli.training.view import View


@dataclass(frozen=True)
class Forecast:
    """What a recipe will do, known without training."""

    data: DataSpec
    device: str
    orders: dict[str, int]
    parameters: int
    training_step_flops: int
    inference_flops_per_sequence: int
    training_bytes: int
    check_steps: list[int]
    flop_convention: str = CONVENTION


def check_recipe(recipe: Recipe) -> None:
    """What can be refused before any work is done: BadInputError for what does not fit together."""
    layers = recipe.model.depth
    target = getattr(recipe.compression, "target_order", None)
    if isinstance(target, list) and len(target) != layers:
        raise BadInputError(
            f"compression.target_order lists {len(target)} orders for {layers} blocks; "
            f"write one number, or {layers}"
        )
    total = getattr(recipe.compression, "target_order_total", None)
    if total is not None and total < layers:
        raise BadInputError(
            f"compression.target_order_total is {total} for {layers} blocks, and each keeps a state at least; "
            f"write {layers} or more"
        )
    device = resolve_device(recipe.device)
    try:
        recipe.model.layer.check_device(device)
    except ValueError as error:
        raise BadInputError(f"model.{error}") from error
    if recipe.train.compile:
        require_compiler(device)


def forecast(recipe: Recipe) -> Forecast:
    """Shapes, FLOPs, memory and check steps of a recipe; the data are loaded only if their shape is not known."""
    check_recipe(recipe)
    spec = recipe.data.spec()
    model = build_model(recipe.model, spec)
    batch = example_batch(spec, min(recipe.train.batch_size, spec.rows[0] or recipe.train.batch_size))
    method = METHODS[recipe.compression.method](recipe.compression)
    return Forecast(
        data=spec,
        device=str(resolve_device(recipe.device)),
        orders=surgery.orders(model),
        parameters=sum(p.numel() for p in model.parameters()),
        training_step_flops=training_step_flops(model, batch),
        inference_flops_per_sequence=inference_flops(model, example_batch(spec, 1)),
        training_bytes=estimate_training_bytes(model, batch),
        check_steps=method.check_steps(recipe.train.steps),
    )


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data set; BadInputError where a split is empty."""
    check_recipe(recipe)
    dataset: Dataset = recipe.data.load()
    for name in ("train", "validation", "test"):
        if len(getattr(dataset, name)) == 0:
            raise BadInputError(f"data: the {name} split of task '{recipe.data.task}' has no rows")
    return dataset


def start(
    recipe: Recipe, seed: int, dataset: Dataset, view: View, command: str, initial: Checkpoint | None = None
) -> Run:
    """Train one recipe with one seed into a new version of its output folder.

    ``initial`` is a model to begin with instead of fresh weights; its ``model:`` must be that of the recipe.
    """
    if initial is not None:
        require_same_shape(initial, dataset)
    run = Run.create(Path(recipe.output.root), recipe.name)
    with _status(run, _info(recipe, seed, command)):
        text = recipe_to_yaml(recipe.model_copy(update={"seeds": [seed]}))
        run.recipe_path.write_text(text, encoding="utf-8")
        _train(Trainer(recipe, seed, dataset, run, view, initial=initial))
    return run


def resume(run: Run, recipe: Recipe, view: View, command: str) -> Run:
    """Go on with a run from its newest checkpoint; starts again where it has none yet."""
    if (run.folder / "summary.json").is_file():
        raise BadInputError(f"{run.folder}: this run is done; there is nothing to resume")
    saved = run.last_checkpoints()
    checkpoint = Checkpoint.load(saved[-1]) if saved else None
    if checkpoint is None:
        run.forget_after(0)
    elif checkpoint.training is None:
        raise BadInputError(
            f"{saved[-1]}: this checkpoint has no state of training; the run cannot go on from it"
        )
    info = run.read_info()
    seed = recipe.seeds[0]
    dataset = load_data(recipe)
    resumed = {"command": command, "at": _now(), "step": checkpoint.step if checkpoint else 0}
    info["resumed"] = [*info.get("resumed", []), resumed]
    with _status(run, info):
        _train(Trainer(recipe, seed, dataset, run, view, resume=checkpoint))
    return run


def _train(trainer: Trainer) -> None:
    try:
        trainer.train()
    finally:
        trainer.view.close()


@contextmanager
def _status(run: Run, info: dict[str, Any]) -> Iterator[None]:
    """Keep ``run.json`` telling what became of the run, however it ends."""
    info.update({"status": "running", "finished": None, "error": None})
    try:
        run.write_info(info)
        yield
        run.write_info({**info, "status": "done", "finished": _now()})
    except KeyboardInterrupt:
        run.write_info({**info, "status": "interrupted", "finished": _now()})
        raise
    except Exception as error:
        failure = f"{type(error).__name__}: {error}"
        # A full disk may be what failed.
        with suppress(OSError):
            run.write_info({**info, "status": "failed", "finished": _now(), "error": failure})
        if isinstance(error, OSError):
            raise RunFailedError(f"{run.folder}: cannot write: {error.strerror or error}") from error
        raise


def _info(recipe: Recipe, seed: int, command: str) -> dict[str, Any]:
    device = resolve_device(recipe.device)
    return {
        "recipe": recipe.name,
        "seed": seed,
        "command": command,
        "started": _now(),
        "versions": {
            "compressm": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "device": {
            "type": device.type,
            "name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            "threads": torch.get_num_threads(),
        },
        "machine": {"system": platform.system(), "node": platform.node()},
        "git": _git(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


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


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
