"""When the validation split is evaluated, what is told of it, and which model was the best by it."""

import math

from compressm_cli.data.interface import Split
from compressm_cli.engine.divergence import DivergedError
from compressm_cli.engine.evaluation import Evaluation, evaluate
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.saving import Saving
from compressm_cli.engine.train_state import TrainState
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.workload import Workload
from compressm_cli.objectives import Objective
from compressm_cli.recipe import Recipe


class Validation:
    """Evaluates the model as it is, and keeps the best one; collective."""

    def __init__(
        self,
        recipe: Recipe,
        split: Split,
        objective: Objective,
        work: Workload,
        state: TrainState,
        trial: Trial,
        saving: Saving,
        ledger: Ledger,
        listeners: Listeners,
    ) -> None:
        """``split`` is that of validation."""
        self._split, self._precision, self._work = split, recipe.train.precision, work
        self._objective = objective
        self._state, self._trial, self._saving = state, trial, saving
        self._ledger, self._listeners = ledger, listeners

    def evaluate(self, after_cut: bool = False) -> Evaluation:
        """Evaluate the validation split, at most once for one state of the model.

        Raises DivergedError where the model or its loss is not finite.
        """
        step = self._state.step
        known = self._ledger.evaluation(step)
        if known is not None and not after_cut:
            return known
        self._state.require_finite()
        result = self.measure(self._split)
        self._ledger.add_evaluation(step, result)
        self._listeners.evaluation(step, result, after_cut)
        if not math.isfinite(result.loss):
            raise DivergedError(f"the validation loss became {result.loss} at step {step}")
        if not self._trial.is_on:
            self.keep_if_best(result)
        return result

    def keep_if_best(self, result: Evaluation) -> None:
        """Write the model, which this is the evaluation of, where there was no better one."""
        if self._ledger.improve(self._state.step, result):
            self._saving.save_best()

    def measure(self, split: Split) -> Evaluation:
        """Evaluate any split; nothing is told of it."""
        rows = self._work.evaluation_rows
        with self._ledger.clock.phase("evaluation"):
            group = self._state.placement.rows
            return evaluate(self._state.model, split, rows, self._precision, group, self._objective)
