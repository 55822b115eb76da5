"""Checkpoints of a run: written and read back, gone on from, and gone back to."""

from pathlib import Path
from typing import Any

import torch

from compressm_cli.checkpoint import Checkpoint, verify
from compressm_cli.core.errors import BadInputError, RunFailedError
from compressm_cli.core.validation import DamagedError
from compressm_cli.data.interface import Dataset
from compressm_cli.engine.budget import Budget
from compressm_cli.engine.divergence import ADVICE, DivergedError, Rollbacks
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.placement import Held
from compressm_cli.engine.resuming import newest_checkpoint, outline_of
from compressm_cli.engine.running_loss import RunningLoss
from compressm_cli.engine.state import own_part
from compressm_cli.engine.train_state import TrainState
from compressm_cli.engine.trial import Trial
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure.store import ParkedUnits


class Saving:
    """Puts what the parts of a run have to keep into checkpoints, and gives it back to them; collective."""

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        dataset: Dataset,
        run: Run,
        state: TrainState,
        budget: Budget,
        trial: Trial,
        running_loss: RunningLoss,
        rollbacks: Rollbacks,
        ledger: Ledger,
        listeners: Listeners,
    ) -> None:
        self._recipe, self._seed, self._run = recipe.model_copy(update={"seeds": [seed]}), seed, run
        self._data, self._fingerprint, self._encoding = dataset.spec, dataset.fingerprint, dataset.encoding
        self._state, self._trial, self._ledger, self._running_loss = state, trial, ledger, running_loss
        self._rollbacks, self._listeners, self._group = rollbacks, listeners, state.group
        self._budget = budget
        self._saved: int | None = None

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is a checkpoint that this process wrote, or began from, and has not gone back behind."""
        return self._saved is not None

    @property
    def is_current(self) -> bool:
        """Whether the run can be gone on with from where it is."""
        return self._saved == self._state.step

    # ---- writing -------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the model and the whole state of training, read it back, and only then delete all but the newest few.

        Raises DivergedError instead of replacing a good checkpoint by one with values that are not finite.
        """
        with self._ledger.clock.phase("checkpoint"):
            self._state.require_finite()
            processes = self._group.gather(self._process_state())
            whole = self._state.whole(optimizer=True)
            self._group.from_main(lambda: self._write(whole, processes))
            self._saved = self._state.step

    def save_best(self) -> None:
        """Write the model alone, as the best one."""
        self._save_model(self._run.best_checkpoint)

    def save_final(self) -> int:
        """Write the finished model alone; returns the size of the file in bytes."""
        return self._save_model(self._run.final_checkpoint)

    def _save_model(self, path: Path) -> int:
        with self._ledger.clock.phase("checkpoint"):
            whole = self._state.whole()
            return self._group.from_main(lambda: self._to_file(self._checkpoint(whole), path))

    def _write(self, whole: Held | None, processes: list[dict[str, Any]]) -> None:
        path = self._run.last_checkpoint(self._state.step)
        self._run.sync_logs()
        assert whole is not None  # in the main process
        kept = {name: whole[name] for name in ("optimizer", "parameters")}
        training = {**kept, **self._training_state(processes)}
        self._to_file(self._checkpoint(whole, training), path)
        try:
            verify(path)
        except BadInputError as error:
            raise RunFailedError(f"what was just written cannot be read back: {error}") from error
        self._run.keep_checkpoints(path, self._recipe.output.keep_last)

    def _to_file(self, checkpoint: Checkpoint, path: Path) -> int:
        try:
            checkpoint.require_readable(path)
        except DamagedError as error:
            name = self._state.method.config.method
            raise RunFailedError(
                f"compression.method: {name}: what there is after step {self._state.step} could not be read again from "
                f"a checkpoint: {error}; mend the method. Nothing was written; the earlier checkpoints in "
                f"{self._run.checkpoints} are kept"
            ) from error
        return checkpoint.save(path)

    def _checkpoint(self, whole: Held | None, training: dict[str, Any] | None = None) -> Checkpoint:
        assert whole is not None
        model = {key: whole[key] for key in ("sizes", "weights", "masks", "frozen")}
        return Checkpoint(
            self._recipe,
            self._data,
            **model,
            parked=ParkedUnits.of_state(whole["parked"]),
            step=self._state.step,
            training=training,
            fingerprint=self._fingerprint,
            encoding=self._encoding,
        )

    def _process_state(self) -> dict[str, Any]:
        """What the processes of a run do not have in common."""
        return {
            **self._state.process_state(),
            **self._trial.process_state(),
            **self._running_loss.process_state(),
            **self._ledger.process_state(),
            **self._budget.process_state(),
        }

    def _training_state(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint holds beside the model and its optimizer."""
        return {
            "seed": self._seed,
            "threads": torch.get_num_threads(),
            "processes": processes,
            "trial": self._trial.state_dict(),
            **self._state.state_dict(),
            **self._ledger.state_dict(processes),
            "budget": self._budget.state_dict(processes),
            "rollbacks": list(self._rollbacks.made),
            "window": self._running_loss.state_dict(),
        }

    # ---- reading -------------------------------------------------------------------------------------------

    def resume(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Take over a state of training; returns the sum of losses that was open then."""
        saved = _training_of(checkpoint)
        self._rollbacks.made = list(saved.get("rollbacks", []))
        running_loss = self._put_back(checkpoint)
        self._state.load_state_dict(saved)
        self._ledger.load_state_dict(saved)
        self._budget.load_state_dict(checkpoint.step, saved)
        self._saved = self._state.step
        return running_loss

    def go_back(self, error: DivergedError) -> dict[str, Any]:
        """Go back to the last good checkpoint because of an error; returns the sum of losses that was open then.

        Everything that decides how training goes on is as it was, and what is told of it, but not what it cost.
        Raises RunFailedError where there is no such checkpoint, or where nothing is left of the budget, of which what
        was spent stays spent.
        """
        checkpoint = self._last_good(error)
        if self._budget.is_over(checkpoint.step):
            raise RunFailedError(
                f"{error}; the last good checkpoint is of step {checkpoint.step}, and nothing of the budget is left to "
                "train on from there: write a larger budget or a smaller train.checkpoint_every, and "
                f"{ADVICE}. It is kept in {self._run.checkpoints}"
            ) from error
        running_loss = self._put_back(checkpoint)
        saved = _training_of(checkpoint)
        self._state.go_back(saved)
        self._ledger.go_back(saved)
        self._saved = None
        return running_loss

    def _put_back(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """Model, optimizer, trial and logs as they were; returns the sum of losses that was open then."""
        saved = _training_of(checkpoint)
        own, told = own_part(saved["processes"], self._group, self._seed, checkpoint.step)
        if told is not None:
            self._listeners.message(f"warning: {told}")
        model = {name: getattr(checkpoint, name) for name in ("step", "sizes", "weights", "masks", "frozen")}
        model["parked"] = checkpoint.parked.state_dict()
        kept = {name: saved[name] for name in ("optimizer", "parameters")}
        self._state.restore({**model, **kept, "random": own["random"]})
        self._trial.load_state_dict(saved["trial"], own)
        self._listeners.forget_after(self._state.step, self._trial.begun)
        return {**saved["window"], "loss": own["window_loss"]}

    def _last_good(self, error: DivergedError) -> Checkpoint:
        run, view = self._run, self._listeners.view
        try:
            checkpoint = self._group.from_main(lambda: newest_checkpoint(run, view), sent=outline_of)
        except BadInputError as unreadable:
            raise RunFailedError(f"{error}; there is nothing to go back to: {unreadable}") from error
        if checkpoint is None:
            raise RunFailedError(f"{error}; there is nothing to go back to: {run.checkpoints} is empty")
        if checkpoint.fingerprint not in (None, self._fingerprint):
            raise RunFailedError(
                f"{error}; there is nothing to go back to: the newest checkpoint in {run.checkpoints} is of "
                "other data than this run"
            )
        return checkpoint


def _training_of(checkpoint: Checkpoint) -> dict[str, Any]:
    assert checkpoint.training is not None
    return checkpoint.training
