"""From a recipe to a run folder: what happens before the loop begins and after it has ended."""

import os
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.errors import BadInputError, CompressmError, ElsewhereError, GroupEndedError
from compressm_cli.data.interface import Dataset
from compressm_cli.engine import inheriting, teaching
from compressm_cli.engine.budget import require_measurable
from compressm_cli.engine.changes import changed_recipe, identity
from compressm_cli.engine.course import Course
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.failures import explained
from compressm_cli.engine.loop import DivergedError, Trainer
from compressm_cli.engine.oneshot import require_same_shape
from compressm_cli.engine.origins import beginnings, now
from compressm_cli.engine.precision import require_compiler, resolve_device
from compressm_cli.engine.resuming import Departure, departure, is_over, record, require_open, set_out
from compressm_cli.engine.same_data import as_before, require_same, require_shared
from compressm_cli.engine.settling import settled
from compressm_cli.engine.signals import EXIT_CODES, Stop, StoppedError, listening
from compressm_cli.engine.silent_run import SilentRun
from compressm_cli.engine.threads import threads_to_begin, threads_to_go_on, using
from compressm_cli.engine.trackers import require_trackers
from compressm_cli.engine.view import View
from compressm_cli.methods.hankel.config import HankelConfig
from compressm_cli.objectives import objective_of
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_yaml
from compressm_cli.runs.folder import Run


def check_recipe(recipe: Recipe) -> None:
    """What can be refused before any work is done: BadInputError for what does not fit together."""
    layers = len(recipe.model.state_dims())
    if isinstance(recipe.compression, HankelConfig) and not layers:
        raise BadInputError(
            f"compression.method: a model of kind {recipe.model.kind} has no state space layers, and "
            f"{recipe.compression.method} cuts nothing but their states; cut other axes of it, such as with random"
        )
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
        recipe.model.check_device(device)
    except ValueError as error:
        raise BadInputError(f"model.{error}") from error
    if recipe.train.compile:
        require_compiler(device)
    require_trackers(recipe.output.trackers)
    Course.of(recipe, None)
    require_measurable(recipe, device)


def load_data(recipe: Recipe) -> Dataset:
    """The recipe's data set; BadInputError where a split is empty, has nothing scored, or no such labels."""
    check_recipe(recipe)
    dataset: Dataset = recipe.data.dataset()
    objective_of(recipe, dataset.spec)
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

    recipe = group.from_main(lambda: settled(teaching.placed(recipe), dataset, initial))
    teacher = teaching.shared(recipe, dataset, group)
    inherited = inheriting.shared(recipe, seed, dataset, group) if initial is None else None

    def create() -> Run:
        run = Run.create(Path(recipe.output.root), recipe.name)
        with _writing(run):
            run.write_recipe(recipe_to_yaml(recipe.model_copy(update={"seeds": [seed]})))
        return run

    run = _followed(group.from_main(create), group)
    info = {
        **beginnings(recipe, seed, command, group.size, launcher()),
        "from_checkpoint": initial is not None,
        "fingerprint": asdict(dataset.fingerprint),
        "data": None if dataset.report is None else asdict(dataset.report),
        **({} if teacher is None else {teaching.KEY: teacher.checksum}),
        **({} if inherited is None else {inheriting.KEY: inheriting.weights_of(inherited)}),
    }

    def threads() -> int:
        return threads_to_begin(recipe, dataset.spec, group.size, initial)

    with (
        listening() as stop,
        group.held_by_main(run.lock()),
        _status(run, info, group, view),
        _threads(run, info, threads),
    ):
        _train(
            lambda: Trainer(
                recipe,
                seed,
                dataset,
                run,
                view,
                initial=initial or inherited,
                stop=stop,
                group=group,
                teacher=teacher,
            ),
            run,
            info,
            group,
        )
    return run


def load_shared(recipe: Recipe, group: Group) -> Dataset:
    """``load_data`` in every process; BadInputError where not all have the same data. Collective."""
    dataset = group.main_first(lambda: load_data(recipe))
    require_shared(dataset, group)
    return dataset


def resume(
    run: Run,
    recipe: Recipe,
    view: View,
    command: str,
    group: Group | None = None,
    overrides: Sequence[str] = (),
) -> Run:
    """Go on with a run from its newest readable checkpoint; starts again where it has none yet.

    ``overrides`` are changes such as ``train.steps=6000``, which make a run that is done a longer one. Raises
    RunLockedError where another process is training it, OtherDataError where its data are not those that it was
    trained on, and BadInputError where it is done, where it has checkpoints and none can be used, or where a change
    would make another run of it.
    """
    group = group or Group()
    run = _followed(run, group)

    def changed() -> Recipe:
        wanted = teaching.placed(changed_recipe(run, overrides) if overrides else recipe)
        require_open(run, wanted)
        return wanted

    with listening() as stop, group.held_by_main(run.lock()):
        wanted = group.from_main(changed)
        found = _departure(run, wanted, view, group)
        _go_on(run, wanted, found, lambda: load_shared(wanted, group), view, command, stop, group)
    return run


def _followed(run: Run, group: Group) -> Run:
    """The run folder itself in the main process."""
    return run if group.is_main else SilentRun(run.folder)


def _go_on(
    run: Run,
    recipe: Recipe,
    found: Departure | None,
    dataset: Callable[[], Dataset],
    view: View,
    command: str,
    stop: Stop,
    group: Group,
    keep_recipe: bool = False,
) -> None:
    """Bring a run to its end, from where ``departure`` says; its lock is held."""
    if found is None:
        ended = {"status": "done", "finished": now(), "error": None, "signal": None}
        group.from_main(lambda: run.write_info({**run.read_info(), **ended}))
        return
    data, known = as_before(found.fingerprint, dataset()), found.checkpoint
    recipe = group.from_main(lambda: settled(recipe, data, known))
    teacher = teaching.shared(recipe, data, group)
    # What is resumed has the weights itself.
    inherited = inheriting.shared(recipe, recipe.seeds[0], data, group) if found.checkpoint is None else None

    def begin() -> None:
        teaching.require_same(found.info, teacher, recipe)
        inheriting.require_same(found.info, inherited, recipe)
        if found.fingerprint is not None:
            require_same(run, found.fingerprint, data, recipe.data)
        with _writing(run):
            set_out(run, recipe, found, view, keep_recipe)

    group.from_main(begin)
    resumed = [*(found.info.get("resumed") or []), record(found, command, group.size)]
    info = {**found.info, "resumed": resumed, "launcher": launcher(), "fingerprint": asdict(data.fingerprint)}

    def threads() -> int:
        if found.checkpoint is None:
            return threads_to_begin(recipe, data.spec, group.size)
        return threads_to_go_on(recipe, found.checkpoint, view)

    def take_over() -> Trainer:
        trainer = Trainer(
            recipe,
            recipe.seeds[0],
            data,
            run,
            view,
            resume=found.checkpoint,
            initial=inherited,
            stop=stop,
            group=group,
            teacher=teacher,
        )
        found.checkpoint = None  # it would take its memory for as long as the run goes on
        return trainer

    with _status(run, info, group, view), _threads(run, info, threads):
        _train(take_over, run, info, group)


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
    with ``own_launcher`` only of those that processes of the same launcher began. Raises OtherDataError where its
    data are not those that it was trained on.
    """
    group = group or Group()
    own = group.from_main(lambda: teaching.placed(recipe.model_copy(update={"seeds": [seed]})))

    def earlier() -> list[Run]:
        return [
            r
            for r in _earlier_runs(own, tell)
            if not own_launcher or r.read_info().get("launcher") == launcher()
        ]

    for run in [_followed(found, group) for found in group.from_main(earlier)]:
        if group.from_main(lambda run=run: is_over(run)):  # type: ignore[misc]
            tell(f"seed {seed}: {run.folder} is done")
            return run
        with listening() as stop, ExitStack() as held:
            try:
                held.enter_context(group.held_by_main(run.lock()))
                tell(f"seed {seed}: going on with {run.folder}")
                found = _departure(run, own, view, group)
            except BadInputError as error:
                tell(f"seed {seed}: passed over: {error}")
                continue
            except ElsewhereError as error:
                if error.exit_code != BadInputError.exit_code:
                    raise
                continue
            _go_on(run, own, found, dataset, view, command, stop, group, keep_recipe=True)
            return run
    tell(f"seed {seed}: starting a new run")
    return start(recipe, seed, dataset(), view, command, group=group)


def _departure(run: Run, recipe: Recipe, view: View, group: Group) -> Departure | None:
    """``departure`` of the main process, and what the others need of it."""

    def sent(found: Departure | None) -> Departure | None:
        return None if found is None else found.outline()

    return group.from_main(lambda: departure(run, recipe, view), sent)


def _earlier_runs(recipe: Recipe, tell: Callable[[str], None]) -> Iterator[Run]:
    """Runs of this recipe with its one seed, newest first, also on other devices and with other ``output:``.

    ``tell`` is told of those that do not say any more whose they are.
    """
    folder = Path(recipe.output.root) / recipe.name
    try:
        runs = Run.find(folder)
    except BadInputError:  # none yet
        return
    for run in reversed(runs):
        try:
            known, info = load_recipe(run.recipe_path), run.read_info()
            same = identity(known) == identity(recipe) and not info.get("from_checkpoint")
            if same and is_over(run) and teaching.is_other(info, recipe):
                tell(f"seed {recipe.seeds[0]}: passed over: {run.folder}: its teacher has other weights now")
                continue
        except CompressmError as error:  # damaged, or of another version of this tool
            tell(f"seed {recipe.seeds[0]}: passed over: {run.folder}: {error}")
            continue
        if same:
            yield run


@contextmanager
def _threads(run: Run, info: dict[str, Any], threads: Callable[[], int]) -> Iterator[None]:
    """Within, the CPU threads are those of this run, and ``run.json`` says how many they are."""
    with using(threads()):
        info["device"] = {**(info.get("device") or {}), "threads": torch.get_num_threads()}
        with _writing(run):
            run.write_info({**info, "status": "running"})
        yield


def _train(make: Callable[[], Trainer], run: Run, info: dict[str, Any], group: Group) -> None:
    trainer = make()
    try:
        # Also where it was otherwise before the run was gone on with.
        told = {key: value for key, value in info["device"].items() if key != "data"}
        info["device"] = told | ({} if trainer.data.why_host is None else {"data": "on host"})
        with _writing(run):
            run.write_info({**info, "status": "running"})
        trainer.train()
    except (DivergedError, StoppedError) as error:  # which all of them raise
        if group.is_main:
            raise
        raise ElsewhereError(0, error.exit_code) from error
    finally:
        if trainer.budget.is_set:
            info["budget"] = trainer.budget.summary(trainer.state.step)
        trainer.listeners.close()


@contextmanager
def _writing(run: Run) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise explained(error, run) from error


@contextmanager
def _status(run: Run, info: dict[str, Any], group: Group, view: View) -> Iterator[None]:
    """Keep ``run.json`` telling what became of the run, however it ends; where one process fails, all end."""
    info.update({"status": "running", "finished": None, "error": None, "signal": None})

    def ended(error: BaseException) -> None:
        run.write_info({**info, "finished": now(), **_outcome(error)})

    def ended_there(error: BaseException) -> None:
        try:
            ended(error)
        finally:
            view.close()

    with _writing(run):
        try:
            run.write_info(info)
            with group.watched_run(lambda error: explained(error, run), ended_there):
                yield
            run.write_info({**info, "status": "done", "finished": now()})
        except (KeyboardInterrupt, StoppedError) as stopped:
            ended(stopped)
            raise
        except (Exception, GroupEndedError) as error:
            told = explained(error, run) if isinstance(error, Exception) else error
            # A full disk, or memory, may be what failed.
            with suppress(OSError, MemoryError):
                ended(told)
            if told is error:
                raise
            raise told from error


def _outcome(error: BaseException) -> dict[str, Any]:
    """What ``run.json`` says of a run that an error ended."""
    if isinstance(error, GroupEndedError):
        return _outcome(error.error)
    if isinstance(error, StoppedError):
        return {"status": "interrupted", "signal": error.signal}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted", "signal": "SIGINT"}
    if isinstance(error, ElsewhereError):
        signals = {code: name for name, code in EXIT_CODES.items()}
        name = signals.get(error.exit_code)
        return {"status": "interrupted" if name else "failed", "signal": name, "error": str(error)}
    return {"status": "failed", "error": f"{type(error).__name__}: {error}"}


def launcher() -> dict[str, Any] | None:
    """What tells the torchrun that started this process from every other one; None without one."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return {"run_id": os.environ["TORCHELASTIC_RUN_ID"], "host": platform.node(), "pid": os.getppid()}


def was_restarted() -> bool:
    """Whether torchrun has started this process in place of one that was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0
