"""Checks of the method: what it plans at its steps is carried out and recorded."""

from collections.abc import Mapping
from functools import cached_property

from compressm_cli.data.interface import DataSpec
from compressm_cli.engine.batches import Batches
from compressm_cli.engine.budget import Budget
from compressm_cli.engine.evaluation import calibrate
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.train_state import TrainState
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.validation import Validation
from compressm_cli.engine.workload import Workload
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import CheckContext, Method
from compressm_cli.recipe import Recipe
from compressm_cli.structure.edits import MaskEntries
from compressm_cli.structure.plan import UnitRecord


class Checks:
    """Lets the method look at the model, carries out what it plans, and tells what came of it."""

    def __init__(
        self,
        recipe: Recipe,
        data: DataSpec,
        batches: Batches,
        work: Workload,
        state: TrainState,
        budget: Budget,
        trial: Trial,
        validation: Validation,
        ledger: Ledger,
        listeners: Listeners,
    ) -> None:
        self._budget, self._data, self._batches, self._work = budget, data, batches, work
        self._state, self._trial, self._validation = state, trial, validation
        self._ledger, self._listeners = ledger, listeners
        self._told: set[str] = set()
        """Why plans without records of a change were refused."""

    @cached_property
    def _marks(self) -> list[int]:
        return sorted(ask(self._state.method, Method.check_steps, self._budget.total))

    @property
    def is_due(self) -> bool:
        """Whether the latest step led to a check, or past some; the moments are told in steps of the whole run."""
        return self._budget.crossed(self._marks)

    def check(self) -> bool:
        """Do what is due at a check; returns whether the model is another one now."""
        state = self._state
        if self._trial.is_on:
            self._record(self._trial.waiting())
            return False
        self._ledger.counts["made"] += 1
        with self._ledger.clock.phase("compression"):
            plan = state.plan(self._context())
        if not plan:
            self._record(plan.records)
            return False
        before = self._validation.evaluate()
        with self._ledger.clock.phase("compression"):
            saved = state.capture() if self._trial.is_enabled else None
            try:
                state.apply(plan)
            except ValueError as error:
                self._refuse(plan.records, error)
                return False
            state.renew()
        windows = self._ledger.add_cut()
        if saved is None:
            ask(state.method, Method.accepted, plan.records)
            self._listeners.compression(state.step, plan.records, "applied")
        else:
            self._trial.begin(plan.records, saved, before, windows)
        self._validation.evaluate(after_cut=True)
        return True

    def after_step(self) -> None:
        """Carry out what the method wants right after a step, at once."""
        plan = self._state.after_step()
        if not plan:
            return
        with self._ledger.clock.phase("compression"):
            try:
                self._state.apply(plan)
            except ValueError as error:
                self._refuse(plan.records, error)
                return
            if not all(isinstance(edit, MaskEntries) for edit in plan.edits):
                self._state.renew()
        if plan.records:
            self._listeners.compression(self._state.step, plan.records, "applied")

    def _refuse(self, records: list[UnitRecord], error: ValueError) -> None:
        """Tell of a plan that could not be carried out, which left the model as it was: in its records, or in a line.

        The line comes once for each reason: a method may ask for the same after every step.
        """
        why = str(error)
        if not any(record.is_change for record in records) and why not in self._told:
            self._told.add(why)
            name = self._state.method.config.method
            self._listeners.message(
                f"warning: compression.method: {name}: what it wanted after step {self._state.step} cannot be done, "
                f"and was left: {why}"
            )
        ask(self._state.method, Method.refused, records, why)
        self._record(records)

    def _record(self, records: list[UnitRecord]) -> None:
        """That nothing was cut, and why."""
        self._state.require_records(records)
        self._listeners.compression(self._state.step, records, "nothing")

    def _context(self) -> CheckContext:
        state = self._state

        def calibrated(statistics: Mapping[str, Statistic], batches: int) -> None:
            calibrate(
                state.model, statistics, self._batches.calibration(state.step, batches), self._work.rows
            )

        budget, length = self._budget, self._data.length
        return CheckContext(
            state.step, budget.total, length, state.generator, calibrated, position=budget.position
        )
