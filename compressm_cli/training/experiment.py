"""From a recipe to a run folder: what happens before the loop begins and after it has ended."""

import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.data.interface import Dataset
from compressm_cli.distributed.group import Group
from compressm_cli.errors import BadInputError, CompressmError, ElsewhereError
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_mapping, recipe_to_yaml
from compressm_cli.run import Run
from compressm_cli.training.failures import explained
from compressm_cli.training.follower import Follower
from compressm_cli.training.loop import DivergedError, Trainer
from compressm_cli.training.oneshot import require_same_shape
from compressm_cli.training.origins import beginnings, load, now
from compressm_cli.training.precision import require_compiler, resolve_device
from compressm_cli.training.resuming import newest_checkpoint
from compressm_cli.training.signals import Stop, StoppedError, listening
from compressm_cli.training.threads import threads_to_begin, threads_to_go_on, using
from compressm_cli.training.trackers import require_trackers
from compressm_cli.training.view import View


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
    require_trackers(recipe.output.trackers)


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data set; BadInputError where a split is empty, or has nothing that is scored."""
    check_recipe(recipe)
    dataset: Dataset = recipe.data.dataset()
    return dataset


def start(
    recipe: Recipe,
    seed: int,
    dataset: Dataset,
    view: View,
    command: str,
    initial: Checkpoint | None = None,
    group: Group | None = None,
) -> Run:
    """Train one recipe with one seed into a new version of its output folder; every process of a group calls it.

    ``initial`` is a model to begin with instead of fresh weights; its ``model:`` must be that of the recipe.
    """
    group = group or Group()
    if initial is not None:
        require_same_shape(initial, dataset.spec)

    def create() -> Run:
        run = Run.create(Path(recipe.output.root), recipe.name)
        with _writing(run):
            run.write_recipe(recipe_to_yaml(recipe.model_copy(update={"seeds": [seed]})))
        return run

    run = _followed(group.from_main(create), group)
    info = {
        **beginnings(recipe, seed, command, group.size, launcher()),
        "from_checkpoint": initial is not None,
    }

    def threads() -> int:
        return threads_to_begin(recipe, dataset.spec, group.size, initial)

    with (
        listening() as stop,
        group.held_by_main(run.lock()),
        _status(run, info),
        _threads(run, info, threads),
    ):
        _train(
            lambda: Trainer(recipe, seed, dataset, run, view, initial=initial, stop=stop, group=group), group
        )
    return run


def resume(run: Run, recipe: Recipe, view: View, command: str, group: Group | None = None) -> Run:
    """Go on with a run from its newest readable checkpoint; starts again where it has none yet.

    Raises RunLockedError where another process is training it, and BadInputError where it is done, or where
    it has checkpoints and none can be used.
    """
    group = group or Group()
    run = _followed(run, group)
    with listening() as stop, group.held_by_main(run.lock()):
        group.from_main(lambda: _require_open(run))
        _go_on(run, recipe, lambda: group.main_first(lambda: load_data(recipe)), view, command, stop, group)
    return run


def _followed(run: Run, group: Group) -> Run:
    """The run folder itself in the main process."""
    return run if group.is_main else Follower(run.folder)


def _require_open(run: Run) -> None:
    if is_over(run):
        raise BadInputError(f"{run.folder}: this run is done; there is nothing to resume")


def is_over(run: Run) -> bool:
    """Whether a run is done and says so; one killed between its last two files does not say so."""
    return run.is_done and run.read_info().get("status") == "done"


def _go_on(
    run: Run,
    recipe: Recipe,
    dataset: Callable[[], Dataset],
    view: View,
    command: str,
    stop: Stop,
    group: Group,
) -> None:
    """Bring a run to its end; its lock is held."""

    def prepare() -> tuple[dict[str, Any], bool, Checkpoint | None]:
        info = run.read_info()
        if run.is_done:
            run.write_info({**info, "status": "done", "finished": now(), "error": None, "signal": None})
            return info, True, None
        run.remove_leftovers()
        checkpoint = newest_checkpoint(run, view)
        if checkpoint is None:
            if info.get("from_checkpoint"):
                raise BadInputError(
                    f"{run.folder}: this run began from another model and ended before its first checkpoint; "
                    "give the command that began it once more"
                )
            run.forget_after(0)
        elif _identity(checkpoint.recipe) != _identity(recipe):
            raise BadInputError(
                f"{run.checkpoints}: the newest checkpoint is one of another recipe than {run.recipe_path}; "
                "put the run's own in its place"
            )
        return info, False, checkpoint

    info, done, checkpoint = group.from_main(prepare)
    if done:
        return
    data = dataset()
    resumed = {
        "command": command,
        "at": now(),
        "step": checkpoint.step if checkpoint else 0,
        "processes": group.size,
        "load": load(),
    }
    info.update({"resumed": [*info.get("resumed", []), resumed], "launcher": launcher()})

    def threads() -> int:
        if checkpoint is None:
            return threads_to_begin(recipe, data.spec, group.size)
        return threads_to_go_on(recipe, checkpoint, view)

    with _status(run, info), _threads(run, info, threads):
        _train(
            lambda: Trainer(
                recipe, recipe.seeds[0], data, run, view, resume=checkpoint, stop=stop, group=group
            ),
            group,
        )


def continue_or_start(
    recipe: Recipe,
    seed: int,
    dataset: Callable[[], Dataset],
    view: View,
    command: str,
    tell: Callable[[str], None],
    group: Group | None = None,
    own_launcher: bool = False,
) -> Run:
    """The run of this recipe and seed, done: as it is, or gone on with, or begun; ``tell`` is told which.

    Gone on with is the newest that is not done, that no other process trains, and that can be gone on with;
    with ``own_launcher`` only of those that processes of the same launcher began.
    """
    group = group or Group()
    own = recipe.model_copy(update={"seeds": [seed]})

    def earlier() -> list[Run]:
        return [
            r for r in _earlier_runs(own) if not own_launcher or r.read_info().get("launcher") == launcher()
        ]

    for run in [_followed(found, group) for found in group.from_main(earlier)]:
        if group.from_main(lambda run=run: is_over(run)):  # type: ignore[misc]
            tell(f"seed {seed}: {run.folder} is done")
            return run
        try:
            with listening() as stop, group.held_by_main(run.lock()):
                tell(f"seed {seed}: going on with {run.folder}")
                _go_on(run, own, dataset, view, command, stop, group)
                return run
        except BadInputError as error:
            tell(f"seed {seed}: passed over: {error}")
        except ElsewhereError as error:
            if error.exit_code != BadInputError.exit_code:
                raise
    tell(f"seed {seed}: starting a new run")
    return start(recipe, seed, dataset(), view, command, group=group)


def _earlier_runs(recipe: Recipe) -> Iterator[Run]:
    """Runs of this recipe with its one seed, newest first, also on other devices and with other ``output:``."""
    folder = Path(recipe.output.root) / recipe.name
    try:
        runs = Run.find(folder)
    except BadInputError:  # none yet
        return
    for run in reversed(runs):
        try:
            known = load_recipe(run.recipe_path)
            same = _identity(known) == _identity(recipe) and not run.read_info().get("from_checkpoint")
        except CompressmError:  # of another version of this tool
            continue
        if same:
            yield run


def _identity(recipe: Recipe) -> dict[str, Any]:
    mapping = recipe_to_mapping(recipe)
    return {key: value for key, value in mapping.items() if key not in ("device", "output")}


@contextmanager
def _threads(run: Run, info: dict[str, Any], threads: Callable[[], int]) -> Iterator[None]:
    """Within, the CPU threads are those of this run, and ``run.json`` says how many they are."""
    with using(threads()):
        info["device"] = {**info.get("device", {}), "threads": torch.get_num_threads()}
        with _writing(run):
            run.write_info({**info, "status": "running"})
        yield


def _train(make: Callable[[], Trainer], group: Group) -> None:
    trainer = group.together(make)
    try:
        with group.watched():
            trainer.train()
    except (DivergedError, StoppedError) as error:  # which all of them raise
        if group.is_main:
            raise
        raise ElsewhereError(0, error.exit_code) from error
    finally:
        try:
            trainer.trackers.close()
        finally:
            trainer.view.close()


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explained(error, run) from error


@contextmanager
def _status(run: Run, info: dict[str, Any]) -> Iterator[None]:
    """Keep ``run.json`` telling what became of the run, however it ends."""
    info.update({"status": "running", "finished": None, "error": None, "signal": None})
    with _writing(run):
        try:
            run.write_info(info)
            yield
            run.write_info({**info, "status": "done", "finished": now()})
        except (KeyboardInterrupt, StoppedError) as stopped:
            name = stopped.signal if isinstance(stopped, StoppedError) else "SIGINT"
            run.write_info({**info, "status": "interrupted", "finished": now(), "signal": name})
            raise
        except Exception as error:
            told = explained(error, run)
            failure = f"{type(told).__name__}: {told}"
            # A full disk, or memory, may be what failed.
            with suppress(OSError, MemoryError):
                run.write_info({**info, "status": "failed", "finished": now(), "error": failure})
            if told is error:
                raise
            raise told from error


def launcher() -> dict[str, Any] | None:
    """What tells the torchrun that started this process from every other one; None without one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return {"run_id": os.environ["TORCHELASTIC_RUN_ID"], "host": platform.node(), "pid": os.getppid()}


def was_restarted() -> bool:
    """Whether torchrun has started this process in place of one that was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
