"""The training loop: steps, and between steps whatever is due - a check of the method, an evaluation, a checkpoint."""

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressm_cli.checkpoint import Checkpoint, verify
from compressm_cli.core.errors import BadInputError, RunFailedError, command
from compressm_cli.data.interface import Dataset, Split
from compressm_cli.engine import state
from compressm_cli.engine.batches import Batches, derived_generator
from compressm_cli.engine.distributed.agreement import Vote
from compressm_cli.engine.distributed.group import Group, require_device
from compressm_cli.engine.divergence import DivergedError, Rollbacks, require_finite
from compressm_cli.engine.evaluation import Evaluation, calibrate, evaluate
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.load_watch import LoadWatch
from compressm_cli.engine.optimizer import build_optimizer, learning_rate, set_learning_rate
from compressm_cli.engine.placement import Held, placement
from compressm_cli.engine.precision import bfloat16_is_slow, prepare, resolve_device
from compressm_cli.engine.resuming import newest_checkpoint, outline_of
from compressm_cli.engine.signals import EXIT_CODES, Stop, StoppedError
from compressm_cli.engine.step import training_step
from compressm_cli.engine.view import View
from compressm_cli.engine.window import LossWindow
from compressm_cli.engine.workload import Workload
from compressm_cli.layers.interface import ROLES
from compressm_cli.methods import METHODS
from compressm_cli.methods.calibration import Statistic
from compressm_cli.methods.method import CheckContext
from compressm_cli.models import build_model
from compressm_cli.ops.forms import CostModel
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure import surgery
from compressm_cli.structure.plan import LayerRecord, Plan

VIEW_SECONDS = 0.2


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
    ) -> None:
        self.recipe, self.seed, self.run = recipe, seed, run
        self.stop, self.group = stop or Stop(), group or Group()
        self.vote = Vote(self.group)
        self.config = recipe.train
        self.device = resolve_device(recipe.device)
        require_device(self.group, self.device)
        prepare(self.device, self.config.precision)
        self.rollbacks = Rollbacks(self.config.on_divergence)
        self.listeners = Listeners(run, view, recipe.output.trackers, self.rollbacks, self.group)
        # Before the clock begins: a tracker may wait for a network.
        self.listeners.open(recipe, seed, 0 if resume is None else resume.step)
        self.ledger = Ledger(recipe, seed, self.device, self.group)
        self.clock = self.ledger.clock
        self.data_spec, self.fingerprint = dataset.spec, dataset.fingerprint
        self.splits = [s.to(self.device) for s in (dataset.train, dataset.validation, dataset.test)]
        self.batches = Batches(self.splits[0], self.config.batch_size, seed)
        self.work = Workload(self.config, dataset.spec, self.batches.batch_size, self.group)
        self.batch_norm = recipe.model.norm == "batch"
        if self.batch_norm:
            self.work.require_statistics(self.splits[0])
        self.window = LossWindow(self.group, self.clock, self.device)
        torch.manual_seed(seed)
        known = resume or initial
        self.placement = placement(self.config.parallel, self.group, self.device)
        if known is None:
            model = self.placement.fresh(lambda: build_model(recipe.model, dataset.spec))
        else:
            model = known.build_model()
        self.model = self.placement.place(model)
        self.forward: nn.Module = self.model
        if not self.group.is_main:  # the dropout of its own rows
            torch.manual_seed(derived_generator(seed, "process", self.group.rank).initial_seed())
        # A run goes on with the groups that it began with, perhaps under an earlier version.
        earlier = None if resume is None else resume.training
        groups = len(ROLES) if earlier is None else len(earlier["optimizer"]["param_groups"])
        self.optimizer = build_optimizer(self.model, self.config, groups)
        self.method = METHODS[recipe.compression.method](recipe.compression)
        self.check_steps = set(self.method.check_steps(self.config.steps))
        self.generator = derived_generator(seed, "method")
        self.costs: CostModel | None = None
        self.step = 0
        self.trial: dict[str, Any] | None = None
        # The first step of a process loads kernels; it is booked as compilation, as any first compiled step is.
        self.compile_pending = True
        self.saved_step: int | None = None
        self.begins_elsewhere = initial is not None
        window: dict[str, Any] | None = None
        if resume is not None:
            window = self._load(resume)
        else:
            self.costs = self.work.costs(self.model, self.device)
        with self.clock.phase("compile"):
            self._new_shapes(logged=resume is None)
        self.window.begin(self.step, window)
        self.load_watch = LoadWatch(self.clock)

    def _warn_of_batch_norm(self) -> None:
        if self.batch_norm and self.config.accumulate > 1:
            self.listeners.message(
                f"warning: model.norm: batch normalizes over the {self.work.rows_of_all} rows that are passed "
                "through the model at once, not over the whole batch; layer and rms do not depend on it"
            )

    # ---- the loop ------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the last step, evaluate the test split once, write the final model and the summary."""
        self.ledger.begin()
        self.listeners.start(self.recipe, self.seed, surgery.orders(self.model), self.device)
        listed = ", ".join(f"{name} {form}" for name, form in self.ledger.now["forms"].items())
        self.listeners.message(f"form of the recurrence: {listed}")
        self._warn_of_batch_norm()
        if unjudged := self.recipe.data.unjudged():
            self.listeners.message(
                f"warning: nothing can be learnt here, and losses and accuracies say nothing: {unjudged}"
            )
        if self.config.precision == "bf16" and bfloat16_is_slow(self.device):
            self.listeners.message(
                "warning: this processor has no bfloat16 instructions; steps take many times as long as with "
                "train.precision: fp32"
            )
        self.model.train()
        # Where the recipe alone does not lead back to this beginning, or the run may have to go back to it.
        if self.begins_elsewhere or (self.rollbacks.wanted and self.saved_step is None):
            self.save_checkpoint()
        while self.step < self.config.steps:
            self._stop_if_asked(self.vote)
            try:
                self._advance()
            except DivergedError as error:
                if self.trial is None:
                    self._roll_back(error)
                else:
                    self._reject(str(error))
        return self._finish()

    def _advance(self) -> None:
        """Train one step and do whatever is due after it."""
        self.step += 1
        self._train_step()
        self._log_if_due()
        if self.step % self.config.interval("eval_every") == 0 or self.step == self.config.steps:
            self._evaluate()
        if self.trial is not None and self.step == self.trial["until"] and not self._verdict():
            return
        if self.step in self.check_steps:
            self._check()
        if self.step % self.config.interval("checkpoint_every") == 0 and self.step < self.config.steps:
            self.save_checkpoint()

    def _stop_if_asked(self, vote: Callable[[int], int]) -> None:
        names = [None, *EXIT_CODES]
        name = names[vote(names.index(self.stop.signal))]
        if name is None:
            return
        if self.saved_step != self.step:
            # Weights that are not finite are not saved: the run goes on from before, and meets them again.
            with suppress(DivergedError):
                self.save_checkpoint()
        raise StoppedError(
            name,
            f"stopped by {name} after step {self.step}; "
            f"go on with: {command('train', '--resume', self.run.folder)}",
        )

    def _train_step(self) -> None:
        set_learning_rate(self.optimizer, self._learning_rate())
        if self.compile_pending:
            with self.clock.phase("compile"):
                self._update()
            self.compile_pending = False
        else:
            self._update()
        self.ledger.flops.step()

    def _update(self) -> None:
        parts = self.config.accumulate
        share = self.batches.share(
            self.step, self.group.rank, self.group.size, parts, in_step=self.batch_norm
        )
        self.window.add(training_step(self.model, self.optimizer, share, self.config, self.forward))

    def _log_if_due(self) -> None:
        due = self.step % self.config.interval("log_every") == 0
        showing = time.monotonic() - self.window.shown > VIEW_SECONDS
        if not (due or showing):
            return
        steps, loss = self.window.steps(self.step), self.window.mean_loss(self.step, exact=due)
        if not math.isfinite(loss):
            if not due:  # what the clock decides must not end a trial
                return
            raise DivergedError(
                f"the training loss became {loss} within the {steps} steps before step {self.step}"
            )
        if due:
            require_finite(self.model, self.optimizer, self.step)
        seconds = self.window.mean_seconds(self.step)
        rate = self._learning_rate()
        self.window.shown = time.monotonic()
        self.listeners.step(self.step, loss, rate, seconds)
        if due:
            self.ledger.add_window(seconds)
            self.listeners.steps(
                {
                    "step": self.step,
                    "train_loss": loss,
                    "learning_rate": rate,
                    "step_seconds": seconds,
                    "orders": surgery.orders(self.model),
                    "forms": self.ledger.now["forms"],
                }
            )
            self.window.begin(self.step)
            if (warning := self.load_watch.warning()) is not None:
                self.listeners.message(warning)

    def _learning_rate(self) -> float:
        return learning_rate(self.config, self.step) * self.rollbacks.factor

    # ---- evaluation ----------------------------------------------------------------------------------------

    def _evaluate(self, after_cut: bool = False) -> Evaluation:
        """Evaluate the validation split, at most once for one state of the model."""
        known = self.ledger.evaluation(self.step)
        if known is not None and not after_cut:
            return known
        require_finite(self.model, self.optimizer, self.step)
        with self.clock.phase("evaluation"):
            result = self._evaluation(self.splits[1])
        self.ledger.add_evaluation(self.step, result)
        self.listeners.evaluation(self.step, result, after_cut)
        if not math.isfinite(result.loss):
            raise DivergedError(f"the validation loss became {result.loss} at step {self.step}")
        if self.trial is None:
            self._keep_if_best(result)
        return result

    def _keep_if_best(self, result: Evaluation) -> None:
        if self.ledger.improve(self.step, result.accuracy):
            with self.clock.phase("checkpoint"):
                self._save_model(self.run.best_checkpoint)

    def _evaluation(self, split: Split) -> Evaluation:
        rows = self.work.evaluation_rows
        return evaluate(self.model, split, rows, self.config.precision, self.placement.rows)

    # ---- compression ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Let the method look at the model, and carry out what it plans."""
        if self.trial is not None:
            reason = f"nothing cut: the cut of step {self.trial['saved']['step']} is still on trial"
            layers = surgery.orders(self.model).items()
            records = [LayerRecord(name, order, order, reason) for name, order in layers]
            self.listeners.compression(self.step, records, "nothing")
            return
        self.ledger.counts["made"] += 1
        with self.clock.phase("compression"):
            plan = self.placement.plan(self.method, self.model, self._context())
        if not plan:
            self.listeners.compression(self.step, plan.records, "nothing")
            return
        before = self._evaluate()
        safety = self.recipe.compression.safety
        with self.clock.phase("compression"):
            saved = None if safety is None else self._capture()
            try:
                self.model = self.placement.apply(self.model, self.optimizer, plan)
            except ValueError as error:
                self._refuse(plan, error)
                return
            self._new_shapes()
        windows = self.ledger.add_cut()
        if safety is None:
            self.method.accepted(plan)
            self.listeners.compression(self.step, plan.records, "applied")
        else:
            self._begin_trial(plan, saved=saved, before=asdict(before), windows=windows)
        self._evaluate(after_cut=True)
        self.window.begin(self.step)
        if self.trial is not None and self.step == self.trial["until"]:  # no step is left to try it
            self._verdict()

    def _begin_trial(self, plan: Plan, **to_go_back_to: Any) -> None:
        self.trial = {"plan": plan, "until": self._end_of_trial(self.step), **to_go_back_to}
        self.listeners.compression(self.step, plan.records, "trial")

    def _end_of_trial(self, begun: int) -> int:
        """The step of the verdict on a cut; not what was said before the run was made longer."""
        safety = self.recipe.compression.safety
        assert safety is not None
        return int(min(begun + safety.trial_steps, self.config.steps))

    def _capture(self) -> dict[str, Any]:
        """What ``_restore`` goes back to."""
        held = self.placement.capture(self.model, self.optimizer)
        return {**held, "step": self.step, "random": state.random_state()}

    def _restore(self, saved: dict[str, Any]) -> None:
        """Put back everything that decides how training goes on."""
        self.model = self.placement.restore(self.model, self.optimizer, saved)
        state.restore_random(saved["random"])
        self.step = int(saved["step"])

    def _refuse(self, plan: Plan, error: ValueError) -> None:
        """Log a plan that could not be carried out; surgery left the model as it was."""
        for record in plan.records:
            if record.order_after != record.order_before:
                record.order_after, record.kept = record.order_before, None
                record.tail = record.bound = None
                record.measured_error = record.predicted_error = record.output_error = None
                record.reason = f"nothing cut: refused: {error}"
        self.listeners.compression(self.step, plan.records, "nothing")

    def _verdict(self) -> bool:
        """End a trial: keep the cut, or put back everything as it was before it; returns whether it was kept."""
        trial, safety = self.trial, self.recipe.compression.safety
        assert trial is not None
        assert safety is not None
        result = self._evaluate()
        before, begun = trial["before"]["accuracy"], trial["saved"]["step"]
        told = f"validation accuracy {before:.4f} before, {result.accuracy:.4f} after {self.step - begun} further steps"
        # A fall of exactly the tolerance is accepted, whatever its last bit.
        if before - result.accuracy > safety.tolerance + 1e-9:
            self._reject(told)
            return False
        plan = self._end_trial(told)
        self.method.accepted(plan)
        self.listeners.compression(self.step, plan.records, "accepted", begun)
        self._keep_if_best(result)
        return True

    def _reject(self, why: str) -> None:
        """Undo the cut that is on trial: put back everything that decides how training goes on."""
        trial = self.trial
        assert trial is not None
        plan = self._end_trial(why)
        with self.clock.phase("compression"):
            self._restore(trial["saved"])
            self._new_shapes()
        self.ledger.undo_cut(self.step, Evaluation(**trial["before"]), trial["windows"])
        self.listeners.forget_after(self.step)
        self.method.rejected(plan)
        self.listeners.compression(self.step, plan.records, "rejected")
        self.window.begin(self.step)
        # What was saved during the trial must not be resumed from.
        self.save_checkpoint()

    def _roll_back(self, error: DivergedError) -> None:
        """Go back to the last good checkpoint and lower the learning rate; raises where the run may not (again)."""
        if not self.rollbacks.left:
            raise self.rollbacks.final_error(error, self.splits[0], self.run.checkpoints) from error
        came_from, orders = self.step, surgery.orders(self.model)
        with self.clock.phase("checkpoint"):
            window = self._go_back(self._last_good(error))
            self._new_shapes(logged=False)
        self.rollbacks.add(came_from, self.step, str(error))
        self.window.begin(self.step, window)
        self.saved_step = None
        # First the checkpoint, which knows of the rollback: a line that a kill prevents is written when resuming.
        self.save_checkpoint()
        self.listeners.rolled_back(self.step)
        self.listeners.message(self.rollbacks.told())
        if (now := surgery.orders(self.model)) != orders:
            undone = [LayerRecord(name, n, n, "as at the last good checkpoint") for name, n in now.items()]
            self.listeners.compression(self.step, undone, "undone")

    def _last_good(self, error: DivergedError) -> Checkpoint:
        try:
            checkpoint = self.group.from_main(
                lambda: newest_checkpoint(self.run, self.listeners.view), sent=outline_of
            )
        except BadInputError as unreadable:
            raise RunFailedError(f"{error}; there is nothing to go back to: {unreadable}") from error
        if checkpoint is None:
            raise RunFailedError(f"{error}; there is nothing to go back to: {self.run.checkpoints} is empty")
        if checkpoint.fingerprint not in (None, self.fingerprint):
            raise RunFailedError(
                f"{error}; there is nothing to go back to: the newest checkpoint in {self.run.checkpoints} is of "
                "other data than this run"
            )
        return checkpoint

    def _end_trial(self, why: str) -> Plan:
        assert self.trial is not None
        plan: Plan = self.trial["plan"]
        self.trial = None
        for record in plan.records:
            if record.order_after != record.order_before:
                record.reason += f"; {why}"
        return plan

    def _context(self) -> CheckContext:
        def calibrated(statistics: Mapping[str, Statistic], batches: int) -> None:
            calibrate(self.model, statistics, self.batches.calibration(self.step, batches), self.work.rows)

        return CheckContext(self.step, self.config.steps, self.data_spec.length, self.generator, calibrated)

    def _new_shapes(self, logged: bool = True) -> None:
        """Count anew, wrap anew and compile anew, for the shapes that the model has now."""
        self.ledger.segment(self.work.measures(self.model, self.placement.outline(self.model), self.costs))
        self._agree(logged)
        self.forward = self.placement.forward(self.model)
        if self.config.compile:
            self.compile_pending = True
            # What was compiled for earlier shapes counts against the number of versions that are compiled.
            torch.compiler.reset()
            # With CUDA graphs, where the sizes of a batch stay as they are: until the next cut.
            fixed = self.device.type == "cuda" and self.splits[0].lengths is None
            mode = "reduce-overhead" if fixed else None
            self.forward = torch.compile(self.forward, mode=mode)  # type: ignore[assignment]

    def _agree(self, logged: bool) -> None:
        """Make sure that all processes have the same model and optimizer state."""
        if not self.group.is_alone:
            found = self.placement.confirm(self.model, self.optimizer, f"after step {self.step}")
            if logged:
                self.listeners.checksum(self.step, found)

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write the model and the whole state of training, read it back, and only then delete all but the newest few.

        Raises DivergedError instead of replacing a good checkpoint by one with values that are not finite.
        """
        with self.clock.phase("checkpoint"):
            require_finite(self.model, self.optimizer, self.step)
            processes = self.group.gather(self._process_state())
            whole = self.placement.whole(self.model, self.optimizer)
            self.group.from_main(lambda: self._write_checkpoint(whole, processes))
            self.saved_step = self.step

    def _write_checkpoint(self, whole: Held | None, processes: list[dict[str, Any]]) -> None:
        path = self.run.last_checkpoint(self.step)
        self.run.sync_logs()
        assert whole is not None  # in the main process
        training = {"optimizer": whole["optimizer"], **self._training_state(processes)}
        self._checkpoint(whole, training).save(path)
        try:
            verify(path)
        except BadInputError as error:
            raise RunFailedError(f"what was just written cannot be read back: {error}") from error
        self.run.keep_checkpoints(path, self.recipe.output.keep_last)

    def _save_model(self, path: Path) -> int:
        """Write the model alone; returns the size of the file in bytes."""
        whole = self.placement.whole(self.model)
        return self.group.from_main(lambda: self._checkpoint(whole).save(path))

    def _checkpoint(self, whole: Held | None, training: dict[str, Any] | None = None) -> Checkpoint:
        assert whole is not None
        recipe = self.recipe.model_copy(update={"seeds": [self.seed]})
        model = {key: whole[key] for key in ("weights", "masks", "frozen")}
        orders = surgery.orders(self.model)
        return Checkpoint(
            recipe,
            self.data_spec,
            orders,
            **model,
            step=self.step,
            training=training,
            fingerprint=self.fingerprint,
        )

    def _process_state(self) -> dict[str, Any]:
        """What the processes of a run do not have in common."""
        return {
            "random": state.random_state(),
            "trial_random": None if self.trial is None else self.trial["saved"]["random"],
            "window_loss": self.window.loss.cpu(),
            **self.ledger.process_state(),
        }

    def _training_state(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint holds beside the model and its optimizer."""
        trial = self.trial
        if trial is not None:
            trial = {**trial, "plan": [asdict(r) for r in trial["plan"].records]}
        return {
            "seed": self.seed,
            "threads": torch.get_num_threads(),
            "processes": processes,
            "trial": trial,
            "method": self.method.state_dict(),
            "generator": self.generator.get_state(),
            # With the costs of another machine, or of another hour, a resumed run could take other forms.
            "costs": None if self.costs is None else dict(self.costs.constants),
            **self.ledger.state_dict(processes),
            "rollbacks": list(self.rollbacks.made),
            "window": self.window.state(),
        }

    def _load(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Take over a state of training; returns the logging window that was open then."""
        saved = checkpoint.training
        assert saved is not None
        self.rollbacks.made = list(saved.get("rollbacks", []))
        window = self._go_back(checkpoint)
        self.costs = None if saved["costs"] is None else CostModel(saved["costs"])
        self.ledger.load_state_dict(saved)
        self.saved_step = self.step
        return window

    def _go_back(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Put back everything that decides how training goes on, and what is told of it, but not what it cost."""
        saved = checkpoint.training
        assert saved is not None
        now = {name: getattr(checkpoint, name) for name in ("step", "weights", "masks", "frozen")}
        own, told = state.own_part(saved["processes"], self.group, self.seed, checkpoint.step)
        if told is not None:
            self.listeners.message(f"warning: {told}")
        self._restore({**now, "optimizer": saved["optimizer"], "random": own["random"]})
        self.trial = saved["trial"]
        if self.trial is not None:
            self.trial["plan"] = Plan(records=[LayerRecord(**r) for r in self.trial["plan"]])
            self.trial["saved"]["random"] = own["trial_random"]
            self.trial["until"] = self._end_of_trial(self.trial["saved"]["step"])
        undecided = None if self.trial is None else self.trial["saved"]["step"]
        self.listeners.forget_after(self.step, undecided)
        self.method.load_state_dict(saved["method"])
        self.generator.set_state(saved["generator"])
        self.ledger.go_back(saved)
        return {**saved["window"], "loss": own["window_loss"]}

    # ---- the end -------------------------------------------------------------------------------------------

    def _finish(self) -> dict[str, Any]:
        self._stop_if_asked(self.vote.now)
        validation = self._evaluate()
        with self.clock.phase("evaluation"):
            test = self._evaluation(self.splits[2])
        self._stop_if_asked(self.vote.now)
        with self.clock.phase("checkpoint"):
            size = self._save_model(self.run.final_checkpoint)
        # The state from which the run can be trained longer; all that was spent until here is in it.
        if self.saved_step != self.step:
            self.save_checkpoint()
        summary = self.ledger.summary(validation, test, size, len(self.rollbacks.made))
        self.listeners.finish(summary)
        return summary
