"""Experiment trackers: what is logged is told to them as well; one that fails is dropped, and training goes on."""

import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from compressm_cli.core.errors import BadInputError
from compressm_cli.recipe import Recipe, recipe_to_mapping
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import UnitRecord

CLOSE_SECONDS = 60.0
"""How long a tracker may take to end: one that uploads may wait for a network that is gone."""


class Tracker(ABC):
    """One tracker of one run, which begins, or goes on after ``step``. It may raise anything."""

    package: ClassVar[str]
    """What must be installed."""

    @abstractmethod
    def __init__(self, run: Run, recipe: Recipe, seed: int, step: int) -> None: ...

    @abstractmethod
    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers by name, as they are after a step."""

    @abstractmethod
    def text(self, step: int, name: str, text: str) -> None:
        """A line about something that happened at a step."""

    @abstractmethod
    def rewind(self, step: int) -> None:
        """Training went back to ``step``: what was told of later steps did not count."""

    @abstractmethod
    def finish(self, step: int, summary: dict[str, Any]) -> None:
        """The run is done, with this summary.json."""

    @abstractmethod
    def close(self, done: bool) -> None:
        """Write what is left; ``done`` is false where the run failed or was interrupted."""


class TensorBoard(Tracker):
    """Event files in the run folder: ``tensorboard --logdir RUN``."""

    package = "tensorboard"

    def __init__(self, run: Run, recipe: Recipe, seed: int, step: int) -> None:
        self._folder = run.tensorboard
        self._open(step)

    def _open(self, step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What earlier files tell of later steps is not shown any more.
        purge = step + 1 if self._folder.is_dir() else None
        self._writer = SummaryWriter(str(self._folder), purge_step=purge)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, text: str) -> None:
        self._writer.add_text(name, text, step)

    def rewind(self, step: int) -> None:
        self._writer.close()
        self._open(step)

    def finish(self, step: int, summary: dict[str, Any]) -> None:
        self.text(step, "summary", f"```\n{json.dumps(summary, indent=2)}\n```")

    def close(self, done: bool) -> None:
        self._writer.close()


class WeightsAndBiases(Tracker):
    """A run of wandb, whose own environment variables say where: WANDB_MODE, WANDB_PROJECT, WANDB_API_KEY, ..."""

    package = "wandb"

    def __init__(self, run: Run, recipe: Recipe, seed: int, step: int) -> None:
        import wandb

        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "compressm"),
            name=f"{recipe.name}/{run.folder.name}",
            id=wandb_id(run, seed),
            resume="allow",
            dir=str(run.folder),
            config=recipe_to_mapping(recipe),
            # The terminal is the view's.
            settings=wandb.Settings(console="off", silent=True),
        )
        # wandb takes no step below the last one that it was told, also by the process before this one.
        self._last_step = int(self._run.step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if step >= self._last_step:
            self._last_step = step
            self._run.log(values, step=step)

    def text(self, step: int, name: str, text: str) -> None:
        self._run.log({name: text}, step=max(step, self._last_step))

    def rewind(self, step: int) -> None:
        """What was told of later steps stays, until training is beyond them."""

    def finish(self, step: int, summary: dict[str, Any]) -> None:
        self._run.summary.update(flat(summary))

    def close(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


TRACKERS: dict[str, type[Tracker]] = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}
"""By the name that a recipe gives them."""


def require_trackers(names: Sequence[str]) -> None:
    """BadInputError where one is not installed."""
    missing = [name for name in names if find_spec(TRACKERS[name].package) is None]
    if missing:
        raise BadInputError(
            f"output.trackers: {' and '.join(missing)} cannot be imported; install with: "
            "pip install 'compressm[tracking]', or leave it out of output.trackers"
        )


class Trackers:
    """The trackers of a run that answer. Its methods raise nothing: a tracker that fails costs one warning."""

    def __init__(self, names: Sequence[str], warn: Callable[[str], None]) -> None:
        self._names, self._warn = names, warn
        self._open: dict[str, Tracker] = {}
        self._done = False

    def start(self, run: Run, recipe: Recipe, seed: int, step: int) -> None:
        """The run begins, or goes on after ``step``."""
        for name in self._names:
            try:
                self._open[name] = TRACKERS[name](run, recipe, seed, step)
            except Exception as error:
                self._drop(name, error)

    def metrics(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        values = scalars_of(line)
        self._tell(lambda tracker: tracker.scalars(line["step"], values))

    def compression(self, step: int, records: list[UnitRecord], verdict: str) -> None:
        """A check of the method, or the end of a trial."""
        undone = verdict == "rejected"
        now = {f"orders/{r.title}": float(r.before if undone else r.after) for r in records}
        self._tell(lambda tracker: tracker.scalars(step, now))
        for r in records:
            told = f"{verdict}: {r.before} -> {r.after}: {r.reason}"
            self._tell(lambda tracker, r=r, told=told: tracker.text(step, f"compression/{r.title}", told))  # type: ignore[misc]

    def rewind(self, step: int) -> None:
        """Training went back to ``step``."""
        self._tell(lambda tracker: tracker.rewind(step))

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is done."""
        self._done = True
        self._tell(lambda tracker: tracker.finish(summary["steps"], summary))

    def close(self) -> None:
        """However the run ended; more than once does no harm."""
        while self._open:
            name, tracker = self._open.popitem()
            error = _within(CLOSE_SECONDS, lambda tracker=tracker: tracker.close(self._done))  # type: ignore[misc]
            if error is not None:
                self._drop(name, error)

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._open.items()):
            try:
                what(tracker)
            except Exception as error:
                self._drop(name, error)

    def _drop(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        self._warn(
            f"warning: the tracker {name} failed and is told no more: {reason}; the run is not affected"
        )


def scalars_of(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl, by the names that trackers show."""
    after = "_after_cut" if line.get("after_cut") else ""
    numbers = {
        key: value
        for key, value in line.items()
        if key != "step" and isinstance(value, int | float) and not isinstance(value, bool)
    }
    orders = {f"orders/{layer}": float(order) for layer, order in line.get("orders", {}).items()}
    found = {
        f"{key}{after if key.startswith('validation_') else ''}": float(value)
        for key, value in numbers.items()
    }
    return found | orders


def flat(summary: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Numbers and texts of nested mappings, their keys joined by ``/``; what is null is left out."""
    found: dict[str, Any] = {}
    for key, value in summary.items():
        if isinstance(value, dict):
            found |= flat(value, f"{prefix}{key}/")
        elif isinstance(value, int | float | str):
            found[f"{prefix}{key}"] = value
    return found


def wandb_id(run: Run, seed: int) -> str:
    """The same each time that a run goes on, and that of no other run."""
    info = run.read_info()
    parts = [str(Path(run.folder).resolve()), str(info.get("started")), str(info.get("machine")), str(seed)]
    return hashlib.blake2b("\n".join(parts).encode(), digest_size=8).hexdigest()


def _within(seconds: float, work: Callable[[], None]) -> Exception | None:
    """Do something that may take long; what it raised, or TimeoutError where it is left to itself."""
    failure: list[Exception] = []

    def guarded() -> None:
        try:
            work()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, name="tracker-close", daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        return TimeoutError(f"it did not end within {seconds:.0f} s")
    return failure[0] if failure else None
