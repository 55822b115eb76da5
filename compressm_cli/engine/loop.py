"""The training loop: steps, and between steps whatever is due - a check of the method, an evaluation, a checkpoint."""

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from typing import Any, Literal

from compressm_cli.checkpoint import Checkpoint
from compressm_cli.core.axes import units_by_kind
from compressm_cli.core.errors import command
from compressm_cli.data.interface import Dataset
from compressm_cli.engine.batches import Batches
from compressm_cli.engine.budget import Budget
from compressm_cli.engine.checks import Checks
from compressm_cli.engine.data_placement import placed
from compressm_cli.engine.distributed.agreement import Vote
from compressm_cli.engine.distributed.group import Group, require_device
from compressm_cli.engine.divergence import DivergedError, Rollbacks
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.load_watch import LoadWatch
from compressm_cli.engine.optimizer import learning_rate, set_learning_rate
from compressm_cli.engine.precision import bfloat16_is_slow, prepare, resolve_device
from compressm_cli.engine.running_loss import RunningLoss
from compressm_cli.engine.saving import Saving
from compressm_cli.engine.signals import EXIT_CODES, Stop, StoppedError
from compressm_cli.engine.step import training_step
from compressm_cli.engine.targets import in_own_unit
from compressm_cli.engine.teaching import Teacher, taught, teacher_of
from compressm_cli.engine.train_state import TrainState
from compressm_cli.engine.trial import Trial
from compressm_cli.engine.validation import Validation
from compressm_cli.engine.view import View
from compressm_cli.engine.workload import Workload
from compressm_cli.models import has_batch_statistics
from compressm_cli.objectives import primary_of
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run

VIEW_SECONDS = 0.2
Interval = Literal["eval_every", "log_every", "checkpoint_every"]


class Trainer:
    """One run of one recipe with one seed. ``train`` goes to the end and returns the summary.

    Of several processes each has a trainer. All do the same steps, each with its share of every batch and its copy
    of the model; the main one decides on cuts and writes.

    Raises RunFailedError where the loss is no longer finite, and StoppedError, after a checkpoint, where
    ``stop`` asks for it.
    """

    def __init__(
        self,
        recipe: Recipe,
        seed: int,
        dataset: Dataset,
        run: Run,
        view: View,
        resume: Checkpoint | None = None,
        initial: Checkpoint | None = None,
        stop: Stop | None = None,
        group: Group | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.recipe, self.seed, self.run, self.config = recipe, seed, run, recipe.train
        self.stop, self.group = stop or Stop(), group or Group()
        self.vote = Vote(self.group)
        self.device = device = resolve_device(recipe.device)
        require_device(self.group, device)
        prepare(device, self.config.precision)
        self.rollbacks = Rollbacks(self.config.on_divergence)
        self.listeners = listeners = Listeners(
            run, view, recipe.output.trackers, self.rollbacks, self.group, primary_of(recipe)
        )
        try:
            # Before the clock begins: a tracker may wait for a network.
            listeners.open(recipe, seed, 0 if resume is None else resume.step)
            self._assemble(dataset, resume, initial, teacher)
            self._set_out(resume)
            self.load_watch = LoadWatch(self.ledger.clock)
        except BaseException:
            listeners.close()
            raise

    def _assemble(
        self, dataset: Dataset, resume: Checkpoint | None, initial: Checkpoint | None, teacher: Teacher | None
    ) -> None:
        """Make what the loop calls on, each of what was made before."""
        recipe, seed, run, device, listeners = self.recipe, self.seed, self.run, self.device, self.listeners
        self.ledger = ledger = Ledger(recipe, seed, device, self.group)
        listeners.spent = ledger.spent
        self.budget = budget = Budget(recipe, ledger, self.group)
        if budget.is_set:
            listeners.progress = lambda: budget.progress
        self.data = placed((dataset.train, dataset.validation, dataset.test), device)
        self.splits, self.encoding = self.data.splits, dataset.encoding
        self.objective = objective = taught(recipe, dataset.spec, device, teacher)
        augment = recipe.data.augmentation()
        self.batches = Batches(self.splits[0], self.config.batch_size, seed, objective, augment)
        self.work = work = Workload(self.config, dataset.spec, self.batches.batch_size, self.group, objective)
        self.running_loss = RunningLoss(self.group, ledger.clock, device)
        self.state = state = TrainState(
            recipe, seed, dataset, resume, initial, self.group, device, work, budget, ledger, listeners
        )
        self.batch_norm = has_batch_statistics(state.model)
        if self.batch_norm:
            work.require_statistics(self.splits[0])
        self.trial = trial = Trial(recipe, state, budget, ledger, listeners)
        self.saving = Saving(
            recipe,
            seed,
            dataset,
            run,
            state,
            budget,
            trial,
            self.running_loss,
            self.rollbacks,
            ledger,
            listeners,
        )
        self.validation = Validation(
            recipe, self.splits[1], objective, work, state, trial, self.saving, ledger, listeners
        )
        self.checks = Checks(
            recipe, dataset.spec, self.batches, work, state, budget, trial, self.validation, ledger, listeners
        )
        self.begins_elsewhere = initial is not None
        self.rate = 0.0
        """The learning rate of the latest step."""

    def _set_out(self, resume: Checkpoint | None) -> None:
        """Be ready for the first step, or for the one after a checkpoint's."""
        running_loss: dict[str, Any] | None = None
        if resume is None:
            self.state.learn_costs()
        else:
            running_loss = self.saving.resume(resume)
        with self.ledger.clock.phase("compile"):
            self.state.renew(logged=resume is None)
        self.budget.begin(self.state.step)
        self.running_loss.begin(self.state.step, running_loss)

    # ---- the loop ------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the last step, evaluate the test split once, write the final model and the summary."""
        self.ledger.begin()
        self.group.from_main(self.budget.require_same_counters)
        self._introduce()
        self.state.model.train()
        # Where the recipe alone does not lead back to this beginning, or the run may have to go back to it.
        if self.begins_elsewhere or (self.rollbacks.is_enabled and not self.saving.has_checkpoint):
            self.saving.save()
        while not self._is_over:
            self._stop_if_asked(lambda asked: self.vote(asked, self.budget.own()))
            try:
                self._advance()
            except DivergedError as error:
                if self.trial.is_on:
                    self._reject(str(error))
                else:
                    self._roll_back(error)
        return self._finish()

    def _introduce(self) -> None:
        """Tell what is trained, and what is to be known of it beforehand."""
        expected = self.budget.expected(self.state.step)
        self.listeners.start(self.recipe, self.seed, expected, self.state.orders, self.device)
        if listed := ", ".join(f"{name} {form}" for name, form in self.ledger.now["forms"].items()):
            self.listeners.message(f"form of the recurrence: {listed}")
        if self.recipe.train.initial is not None and self.state.step == 0:
            self.listeners.message(f"begins with {self.recipe.train.initial}, and a fresh head")
        if (teacher := teacher_of(self.recipe)) is not None:
            self.listeners.message(
                f"taught by {teacher.model} (weight {teacher.weight:g}); its passes are counted"
            )
        if self.data.why_host is not None:
            self.listeners.message(f"data on host: {self.data.why_host}; each batch is moved there")
        if self.budget.is_set:
            self.listeners.expect(expected)
            self.listeners.message(self.budget.message())
            if self.state.step == 0 and (warning := self.budget.start_warning()) is not None:
                self.listeners.message(warning)
        if self.batch_norm and self.config.accumulate > 1:
            self.listeners.message(
                f"warning: model.norm: batch normalizes over the {self.work.rows_of_all} rows that are passed "
                "through the model at once, not over the whole batch; layer and rms do not depend on it"
            )
        if unjudged := self.recipe.data.unjudged():
            self.listeners.message(
                f"warning: nothing can be learnt here, and losses and accuracies say nothing: {unjudged}"
            )
        if self.config.precision == "bf16" and bfloat16_is_slow(self.device):
            self.listeners.message(
                "warning: this processor has no bfloat16 instructions; steps take many times as long as with "
                "train.precision: fp32"
            )

    def _advance(self) -> None:
        """Train one step and do whatever is due after it."""
        self.state.step += 1
        self._train_step()
        self.checks.after_step()
        self._log_if_due()
        if settled := self.budget.measures(self.state.step):
            left = self.budget.settle(self.state.step, self.validation.evaluate, self.saving.save)
            self.listeners.message(f"{self.budget.message()}; {left}")
        if self._is_due("eval_every") or self._is_over:
            self.validation.evaluate()
        if self.trial.is_due and not self._verdict():
            return
        if self.checks.is_due:
            self._check()
        # What was measured is not to be measured again.
        if (settled or self._is_due("checkpoint_every")) and not self._is_over:
            self.saving.save()

    @property
    def _is_over(self) -> bool:
        return self.budget.is_over(self.state.step)

    def _is_due(self, interval: Interval) -> bool:
        return self.state.step % self.config.interval(interval) == 0

    def _stop_if_asked(self, vote: Callable[[int], int]) -> None:
        names = [None, *EXIT_CODES]
        name = names[vote(names.index(self.stop.signal))]
        if name is None:
            return
        if not self.saving.is_current:
            # Weights that are not finite are not saved: the run goes on from before, and meets them again.
            with suppress(DivergedError):
                self.saving.save()
        raise StoppedError(
            name,
            f"stopped by {name} after step {self.state.step}; "
            f"go on with: {command('train', '--resume', self.run.folder)}",
        )

    # ---- a step --------------------------------------------------------------------------------------------

    def _train_step(self) -> None:
        self.budget.begin_step(self.state.step)
        self.rate = self._learning_rate()
        set_learning_rate(self.state.optimizer, self.rate)
        if self.state.compile_pending:
            with self.ledger.clock.phase("compile"):
                self._update()
            self.state.compile_pending = False
        else:
            self._update()
        self.ledger.flops.step()
        self.budget.end_step(self.state.step, self.vote.amounts)

    def _update(self) -> None:
        state, parts = self.state, self.config.accumulate
        share = self.batches.share(
            state.step, self.group.rank, self.group.size, parts, in_step=self.batch_norm
        )
        step = (state.model, state.optimizer, share, self.config, state.forward)
        self.running_loss.add(training_step(*step, state.method, state.context, self.objective))

    def _log_if_due(self) -> None:
        step, due = self.state.step, self._is_due("log_every")
        showing = time.monotonic() - self.running_loss.shown > VIEW_SECONDS
        if not (due or showing):
            return
        steps, loss = self.running_loss.steps(step), self.running_loss.mean_loss(step, exact=due)
        if not math.isfinite(loss):
            if not due:  # what the clock decides must not end a trial
                return
            raise DivergedError(
                f"the training loss became {loss} within the {steps} steps before step {step}"
            )
        if due:
            self.state.require_finite()
        seconds, rate = self.running_loss.mean_seconds(step), self.rate
        self.running_loss.shown = time.monotonic()
        if self.budget.is_set:
            self.listeners.expect(self.budget.expected(step))
        self.listeners.step(step, loss, rate, seconds)
        if due:
            self._log(loss, rate, seconds)

    def _log(self, loss: float, rate: float, seconds: float) -> None:
        """Log the steps since the last logged line."""
        self.ledger.add_window(seconds)
        self.listeners.steps(
            {
                "step": self.state.step,
                "train_loss": loss,
                "learning_rate": rate,
                "step_seconds": seconds,
                "flops": self.ledger.flops.total,
                "orders": self.state.orders,
                "forms": self.ledger.now["forms"],
            }
        )
        self.running_loss.begin(self.state.step)
        if (warning := self.load_watch.warning()) is not None:
            self.listeners.message(warning)

    def _learning_rate(self) -> float:
        return learning_rate(self.config, self.budget.position, self.budget.total) * self.rollbacks.factor

    # ---- cuts, and ways back -------------------------------------------------------------------------------

    def _check(self) -> None:
        """Let the method look at the model; where it was cut and no step is left to try that, judge it."""
        if self.checks.check():
            self.running_loss.begin(self.state.step)
            if self.trial.is_due:
                self._verdict()

    def _verdict(self) -> bool:
        """End a trial: keep the cut, or put back everything as it was before it; returns whether it was kept."""
        result = self.validation.evaluate()
        kept, why = self.trial.verdict(result)
        if not kept:
            self._reject(why)
            return False
        self.trial.accept(why)
        self.validation.keep_if_best(result)
        return True

    def _reject(self, why: str) -> None:
        """Undo the cut that is on trial, and go on from before it."""
        reached = self.state.step
        self.trial.reject(why)
        if self._is_over and self.state.step < reached:
            self.listeners.message(
                f"warning: the cut of step {self.state.step} was undone with nothing left of the budget: the run ends "
                "with the weights of that step, whose learning rate had not come down; let the schedule of checks end "
                "earlier"
            )
        self.running_loss.begin(self.state.step)
        # What was saved during the trial must not be resumed from.
        self.saving.save()

    def _roll_back(self, error: DivergedError) -> None:
        """Go back to the last good checkpoint and lower the learning rate; raises where the run may not (again)."""
        if not self.rollbacks.left:
            raise self.rollbacks.final_error(error, self.splits[0], self.run.checkpoints) from error
        came_from, sizes = self.state.step, self.state.sizes
        with self.ledger.clock.phase("checkpoint"):
            running_loss = self.saving.go_back(error)
            self.state.renew(logged=False)
        self.budget.begin(self.state.step)
        self.rollbacks.add(came_from, self.state.step, str(error))
        self.running_loss.begin(self.state.step, running_loss)
        # First the checkpoint, which knows of the rollback: a line that a kill prevents is written when resuming.
        self.saving.save()
        self.listeners.rolled_back(self.state.step)
        self.listeners.message(self.rollbacks.message())
        if undone := self.state.undone(sizes, "as at the last good checkpoint"):
            self.listeners.compression(self.state.step, undone, "undone")

    # ---- the end -------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        self._stop_if_asked(self.vote.now)
        validation = self.validation.evaluate()
        test = self.validation.measure(self.splits[2])
        self._stop_if_asked(self.vote.now)
        size = self.saving.save_final()
        # The state from which the run can be trained longer; all that was spent until here is in it.
        if not self.saving.is_current:
            self.saving.save()
        step, rollbacks = self.state.step, len(self.rollbacks.made)
        summary = self.ledger.summary(step, validation, test, size, rollbacks)
        sizes = {"start": self.state.start_sizes, "final": self.state.sizes}
        summary["axes"] = {when: units_by_kind(known) for when, known in sizes.items()}
        if (targets := in_own_unit(test.targets, self.encoding)) is not None:
            summary["test"]["targets"] = [asdict(target) for target in targets]
        if self.budget.is_set:
            summary["budget"] = self.budget.summary(step)
        self.listeners.finish(summary)
        return summary
