"""The training loop: steps, and between steps whatever is due - a check of the method, an evaluation, a checkpoint."""

import math
import statistics
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from compressm_cli.accounting.clock import Stopwatch
from compressm_cli.accounting.flops import CONVENTION, TrainingFlops, inference_flops, training_step_flops
from compressm_cli.accounting.joules import JouleMeter, Joules, combine
from compressm_cli.accounting.memory import PeakMemory
from compressm_cli.accounting.probe import example_batch
from compressm_cli.checkpoint import Checkpoint, verify
from compressm_cli.compression import METHODS, surgery
from compressm_cli.compression.method import CheckContext, LayerRecord, Plan
from compressm_cli.data.interface import Dataset, Split
from compressm_cli.errors import BadInputError, RunFailedError
from compressm_cli.models import build_model
from compressm_cli.ops.forms import CostModel
from compressm_cli.recipe import Recipe
from compressm_cli.run import Run
from compressm_cli.training import state
from compressm_cli.training.batches import Batches, derived_generator
from compressm_cli.training.evaluation import Evaluation, evaluate, layer_inputs
from compressm_cli.training.forms import choose_forms, costs_here, forget_forms
from compressm_cli.training.optimizer import build_optimizer, learning_rate, set_learning_rate
from compressm_cli.training.precision import bfloat16_is_slow, prepare, resolve_device
from compressm_cli.training.signals import Stop, StoppedError
from compressm_cli.training.step import training_step
from compressm_cli.training.view import View

EVALUATION_BATCH = 4
"""Rows of an evaluation batch, in training batches: no gradients are kept."""
VIEW_SECONDS = 0.2


class DivergedError(RunFailedError):
    """A loss or a weight is no longer finite: undone within a trial, the end of the run elsewhere."""


class Trainer:
    """One run of one recipe with one seed. ``train`` goes to the end and returns the summary.

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
    ) -> None:
        self.recipe, self.seed, self.run, self.view = recipe, seed, run, view
        self.stop = stop or Stop()
        self.config = recipe.train
        self.device = resolve_device(recipe.device)
        prepare(self.device, self.config.precision)
        self.clock = Stopwatch(self.device)
        self.meter = JouleMeter(self.device)
        self.earlier_joules: list[Joules] = []
        self.memory = PeakMemory(self.device)
        self.data_spec = dataset.spec
        self.splits = [s.to(self.device) for s in (dataset.train, dataset.validation, dataset.test)]
        self.batches = Batches(self.splits[0], self.config.batch_size, seed)
        torch.manual_seed(seed)
        known = resume or initial
        model = build_model(recipe.model, dataset.spec) if known is None else known.build_model()
        self.model: nn.Module = model.to(self.device)
        self.forward: nn.Module = self.model
        self.optimizer = build_optimizer(self.model, self.config)
        self.method = METHODS[recipe.compression.method](recipe.compression)
        self.check_steps = set(self.method.check_steps(self.config.steps))
        self.generator = derived_generator(seed, "method")
        self.flops = TrainingFlops()
        self.costs: CostModel | None = None
        self.step = 0
        self.shown = 0.0
        self.trial: dict[str, Any] | None = None
        # The first step of a process loads kernels; it is booked as compilation, as any first compiled step is.
        self.compile_pending = True
        self.counts = {"made": 0, "cut": 0, "rejected": 0}
        self.best: dict[str, Any] = {"accuracy": -1.0, "step": 0}
        self.evaluated: tuple[int, Evaluation] | None = None
        # Median seconds of a step, by logged window: before the first change of shape, and since the last.
        self.windows: dict[str, list[float]] = {"start": [], "final": []}
        self.start: dict[str, Any] = {}
        self.saved_step: int | None = None
        self.begins_elsewhere = initial is not None
        window: dict[str, Any] | None = None
        if resume is not None:
            window = self._load(resume)
        else:
            self.costs = costs_here(self.model, self.config.form, self.device, self.config.precision)
        with self.clock.phase("compile"):
            self._new_shapes()
        self.start = self.start or self.now
        self._reset_window()
        if window is not None:
            self.window_step, self.window_loss = window["step"], window["loss"].to(self.device)
            self.window_seconds -= window["seconds"]

    # ---- the loop ------------------------------------------------------------------------------------------

    def train(self) -> dict[str, Any]:
        """Train to the last step, evaluate the test split once, write the final model and the summary."""
        self.memory.start()
        self.meter.start()
        self.view.start(
            self.recipe.name, self.seed, self.config.steps, surgery.orders(self.model), str(self.device)
        )
        listed = ", ".join(f"{name} {form}" for name, form in self.now["forms"].items())
        self.view.message(f"form of the recurrence: {listed}")
        if self.config.precision == "bf16" and bfloat16_is_slow(self.device):
            self.view.message(
                "warning: this processor has no bfloat16 instructions; steps take many times as long as with "
                "train.precision: fp32"
            )
        self.model.train()
        if self.begins_elsewhere:  # the recipe alone does not lead back to this beginning
            self.save_checkpoint()
        while self.step < self.config.steps:
            self._stop_if_asked()
            try:
                self._advance()
            except DivergedError as error:
                if self.trial is None:
                    raise
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

    def _stop_if_asked(self) -> None:
        name = self.stop.signal
        if name is None:
            return
        if self.saved_step != self.step:
            # Weights that are not finite are not saved: the run goes on from before, and meets them again.
            with suppress(DivergedError):
                self.save_checkpoint()
        raise StoppedError(
            name,
            f"stopped by {name} after step {self.step}; go on with: compressm train --resume {self.run.folder}",
        )

    def _train_step(self) -> None:
        set_learning_rate(self.optimizer, learning_rate(self.config, self.step))
        if self.compile_pending:
            with self.clock.phase("compile"):
                self._update()
            self.compile_pending = False
        else:
            self._update()
        self.flops.step()

    def _update(self) -> None:
        batch = self.batches(self.step)
        self.window_loss += training_step(self.model, self.optimizer, batch, self.config, self.forward)

    def _log_if_due(self) -> None:
        due = self.step % self.config.interval("log_every") == 0
        showing = time.monotonic() - self.shown > VIEW_SECONDS
        if not (due or showing):
            return
        steps = self.step - self.window_step
        loss = float(self.window_loss) / steps
        if not math.isfinite(loss):
            if not due:  # what the clock decides must not end a trial
                return
            raise DivergedError(
                f"the training loss became {loss} within the {steps} steps before step {self.step}; "
                f"try a lower train.learning_rate or set train.clip_norm (1.0 is usual). "
                f"The last good checkpoints are in {self.run.checkpoints}"
            )
        seconds = (self.clock.seconds()["training"] - self.window_seconds) / steps
        rate = learning_rate(self.config, self.step)
        self.shown = time.monotonic()
        self.view.step(self.step, loss, rate, seconds)
        if due:
            self.windows["final"].append(seconds)
            self.run.append_metrics(
                {
                    "step": self.step,
                    "train_loss": loss,
                    "learning_rate": rate,
                    "step_seconds": seconds,
                    "orders": surgery.orders(self.model),
                    "forms": self.now["forms"],
                }
            )
            self._reset_window()

    def _reset_window(self) -> None:
        self.window_step = self.step
        self.window_loss = torch.zeros((), device=self.device)
        self.window_seconds = self.clock.seconds()["training"]
        self.shown = time.monotonic()

    # ---- evaluation ----------------------------------------------------------------------------------------

    def _evaluate(self, after_cut: bool = False) -> Evaluation:
        """Evaluate the validation split, at most once for one state of the model."""
        if self.evaluated is not None and self.evaluated[0] == self.step and not after_cut:
            return self.evaluated[1]
        with self.clock.phase("evaluation"):
            result = self._evaluation(self.splits[1])
        self.evaluated = (self.step, result)
        line = {"step": self.step, "validation_loss": result.loss, "validation_accuracy": result.accuracy}
        self.run.append_metrics({**line, "after_cut": True} if after_cut else line)
        self.view.evaluation(self.step, result.loss, result.accuracy)
        if not math.isfinite(result.loss):
            raise DivergedError(
                f"the validation loss became {result.loss} at step {self.step}; try a lower train.learning_rate"
            )
        if self.trial is None:
            self._keep_if_best(result)
        return result

    def _keep_if_best(self, result: Evaluation) -> None:
        if result.accuracy > self.best["accuracy"]:
            self.best = {"accuracy": result.accuracy, "step": self.step}
            with self.clock.phase("checkpoint"):
                self._snapshot().save(self.run.best_checkpoint)

    def _evaluation(self, split: Split) -> Evaluation:
        return evaluate(self.model, split, EVALUATION_BATCH * self.batches.batch_size, self.config.precision)

    # ---- compression ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        """Let the method look at the model, and carry out what it plans."""
        if self.trial is not None:
            reason = f"nothing cut: the cut of step {self.trial['saved']['step']} is still on trial"
            layers = surgery.orders(self.model).items()
            self._record(Plan(records=[LayerRecord(n, order, order, reason) for n, order in layers]), None)
            return
        self.counts["made"] += 1
        with self.clock.phase("compression"):
            plan = self.method.plan(self.model, self._context())
        if not plan:
            self._record(plan, None)
            return
        before = self._evaluate()
        safety = self.recipe.compression.safety
        with self.clock.phase("compression"):
            saved = None if safety is None else state.capture(self.model, self.optimizer, self.step)
            try:
                surgery.apply_plan(self.model, self.optimizer, plan)
            except ValueError as error:
                self._refuse(plan, error)
                return
            self._new_shapes()
        windows = self.windows["final"]
        if not self.counts["cut"]:
            self.windows["start"] = list(windows)
        self.windows["final"] = []
        self.counts["cut"] += 1
        if safety is None:
            self.method.accepted(plan)
            self._record(plan, True)
        else:
            until = min(self.step + safety.trial_steps, self.config.steps)
            self.trial = {
                "saved": saved,
                "before": asdict(before),
                "until": until,
                "plan": plan,
                "windows": windows,
            }
            self.view.compression(self.step, plan.records, "trial")
        self._evaluate(after_cut=True)
        self._reset_window()
        if self.trial is not None and self.step == self.trial["until"]:  # no step is left to try it
            self._verdict()

    def _refuse(self, plan: Plan, error: ValueError) -> None:
        """Log a plan that could not be carried out; surgery left the model as it was."""
        for record in plan.records:
            if record.order_after != record.order_before:
                record.order_after, record.kept = record.order_before, None
                record.tail = record.bound = record.measured_error = record.predicted_error = None
                record.reason = f"nothing cut: refused: {error}"
        self._record(plan, None)

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
        self._record(plan, True, begun)
        self._keep_if_best(result)
        return True

    def _reject(self, why: str) -> None:
        """Undo the cut that is on trial: put back everything that decides how training goes on."""
        trial = self.trial
        assert trial is not None
        plan = self._end_trial(why)
        with self.clock.phase("compression"):
            self.step = state.restore(self.model, self.optimizer, trial["saved"])
            self._new_shapes()
        self.evaluated = (self.step, Evaluation(**trial["before"]))
        self.windows["final"] = trial["windows"]
        self.counts["rejected"] += 1
        self.run.forget_after(self.step)
        self.method.rejected(plan)
        self._record(plan, False)
        self._reset_window()
        # What was saved during the trial must not be resumed from.
        self.save_checkpoint()

    def _end_trial(self, why: str) -> Plan:
        assert self.trial is not None
        plan: Plan = self.trial["plan"]
        self.trial = None
        for record in plan.records:
            if record.order_after != record.order_before:
                record.reason += f"; {why}"
        return plan

    def _record(self, plan: Plan, accepted: bool | None, step: int | None = None) -> None:
        """One line a layer; ``accepted`` is null where nothing was cut."""
        for record in plan.records:
            cut = record.order_after != record.order_before
            line = {"step": step or self.step, **asdict(record), "accepted": accepted if cut else None}
            self.run.append_compression(line)
        verdicts = {None: "nothing", False: "rejected"}
        kept = "applied" if self.recipe.compression.safety is None else "accepted"
        self.view.compression(self.step, plan.records, verdicts.get(accepted, kept))  # type: ignore[arg-type]

    def _context(self) -> CheckContext:
        def calibrate(count: int) -> dict[str, list[torch.Tensor]]:
            return layer_inputs(self.model, self.batches.calibration(self.step, count))

        return CheckContext(self.step, self.config.steps, self.data_spec.length, self.generator, calibrate)

    def _new_shapes(self) -> None:
        """Count anew, and compile anew, for the shapes that the model has now."""
        self.now = self._measures()
        self.flops.segment(self.now["step"])
        if self.config.compile:
            self.compile_pending = True
            # What was compiled for earlier shapes counts against the number of versions that are compiled.
            torch.compiler.reset()
            # With CUDA graphs, where the sizes of a batch stay as they are: until the next cut.
            fixed = self.device.type == "cuda" and self.splits[0].lengths is None
            mode = "reduce-overhead" if fixed else None
            self.forward = torch.compile(self.model, mode=mode)  # type: ignore[assignment]

    def _example(self, rows: int) -> Split:
        return example_batch(self.data_spec, rows)

    # ---- checkpoints ---------------------------------------------------------------------------------------

    def save_checkpoint(self) -> None:
        """Write the model and the whole state of training, read it back, and only then delete all but the newest few.

        Raises DivergedError instead of replacing a good checkpoint by one with weights that are not finite.
        """
        with self.clock.phase("checkpoint"):
            checkpoint = self._snapshot(self._training_state())
            bad = [name for name, weight in checkpoint.weights.items() if not weight.isfinite().all()]
            if bad:
                raise DivergedError(
                    f"{bad[0]} is not finite after step {self.step}; try a lower train.learning_rate or set "
                    f"train.clip_norm (1.0 is usual). The last good checkpoints are in {self.run.checkpoints}"
                )
            path = self.run.last_checkpoint(self.step)
            self.run.sync_logs()
            checkpoint.save(path)
            try:
                verify(path)
            except BadInputError as error:
                raise RunFailedError(f"what was just written cannot be read back: {error}") from error
            self.saved_step = self.step
            saved = self.run.last_checkpoints()
            # Later steps than this one are those of an undone trial.
            kept = saved[: saved.index(path) + 1][-self.recipe.output.keep_last :]
            for old in set(saved) - set(kept):
                old.unlink()

    def _snapshot(self, training: dict[str, Any] | None = None) -> Checkpoint:
        recipe = self.recipe.model_copy(update={"seeds": [self.seed]})
        return Checkpoint.of(self.model, recipe, self.data_spec, self.step, training)

    def _training_state(self) -> dict[str, Any]:
        """What a checkpoint holds beside the model, which is not saved twice."""
        trial, evaluated = self.trial, self.evaluated
        if trial is not None:
            trial = {**trial, "plan": [asdict(r) for r in trial["plan"].records]}
        return {
            "seed": self.seed,
            **state.capture_beside_model(self.optimizer),
            "trial": trial,
            "method": self.method.state_dict(),
            "generator": self.generator.get_state(),
            # With the costs of another machine, or of another hour, a resumed run could take other forms.
            "costs": None if self.costs is None else dict(self.costs.constants),
            "flops": self.flops.state_dict(),
            "clock": self.clock.state_dict(),
            "joules": [asdict(j) for j in [*self.earlier_joules, self.meter.read()]],
            "counts": dict(self.counts),
            "best": dict(self.best),
            "windows": {name: list(values) for name, values in self.windows.items()},
            "start": self.start,
            "evaluated": None if evaluated is None else (evaluated[0], asdict(evaluated[1])),
            "window": {
                "step": self.window_step,
                "loss": self.window_loss.cpu(),
                "seconds": self.clock.seconds()["training"] - self.window_seconds,
            },
        }

    def _load(self, checkpoint: Checkpoint) -> dict[str, Any] | None:
        """Take over a state of training; returns the logging window that was open then."""
        saved = checkpoint.training
        assert saved is not None
        now = {name: getattr(checkpoint, name) for name in ("step", "weights", "masks", "frozen")}
        now |= {key: saved[key] for key in ("optimizer", "random")}
        self.step = state.restore(self.model, self.optimizer, now)
        self.trial = saved["trial"]
        if self.trial is not None:
            self.trial["plan"] = Plan(records=[LayerRecord(**r) for r in self.trial["plan"]])
        undecided = None if self.trial is None else self.trial["saved"]["step"]
        self.run.forget_after(self.step, undecided)
        self.method.load_state_dict(saved["method"])
        self.generator.set_state(saved["generator"])
        self.costs = None if saved["costs"] is None else CostModel(saved["costs"])
        self.flops.load_state_dict(saved["flops"])
        self.clock.load_state_dict(saved["clock"])
        self.earlier_joules = [Joules(**j) for j in saved["joules"]]
        self.counts, self.best, self.windows = saved["counts"], saved["best"], saved["windows"]
        self.start = saved["start"]
        self.saved_step = self.step
        if evaluated := saved.get("evaluated"):
            self.evaluated = (evaluated[0], Evaluation(**evaluated[1]))
        return saved.get("window")

    # ---- the end -------------------------------------------------------------------------------------------

    def _measures(self) -> dict[str, Any]:
        """What is counted of the model as it is now; sets the forms of its recurrences for training."""
        rows = self.batches.batch_size
        forget_forms(self.model)
        inference = inference_flops(self.model, self._example(1))
        forms = choose_forms(self.model, self.config.form, self.costs, rows, self.data_spec.length)
        return {
            "orders": surgery.orders(self.model),
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "forms": forms,
            "step": training_step_flops(self.model, self._example(rows)),
            "inference": inference,
        }

    def _finish(self) -> dict[str, Any]:
        self._stop_if_asked()
        validation = self._evaluate()
        with self.clock.phase("evaluation"):
            test = self._evaluation(self.splits[2])
        self._stop_if_asked()
        with self.clock.phase("checkpoint"):
            size = self._snapshot().save(self.run.final_checkpoint)
        final = self.now
        joules = combine([*self.earlier_joules, self.meter.stop()])
        summary = {
            "format": 1,
            "recipe": self.recipe.name,
            "seed": self.seed,
            "steps": self.config.steps,
            "device": str(self.device),
            "precision": self.config.precision,
            "test": asdict(test),
            "validation": {
                "accuracy": validation.accuracy,
                "loss": validation.loss,
                "best_accuracy": self.best["accuracy"],
                "best_step": self.best["step"],
            },
            "orders": {"start": self.start["orders"], "final": final["orders"]},
            "parameters": {"start": self.start["parameters"], "final": final["parameters"]},
            "forms": {"start": self.start["forms"], "final": final["forms"]},
            "checkpoint_bytes": size,
            "flops": {
                "training": self.flops.total,
                "training_start_per_step": self.start["step"],
                "training_final_per_step": final["step"],
                "inference_start_per_sequence": self.start["inference"],
                "inference_final_per_sequence": final["inference"],
                "convention": CONVENTION,
            },
            "seconds": self.clock.seconds(),
            "step_seconds": self._step_seconds(),
            "joules": asdict(joules),
            "peak_memory": self.memory.result(),
            "checks": self.counts,
        }
        self.run.write_summary(summary)
        self.view.finish(summary)
        return summary

    def _step_seconds(self) -> dict[str, float | None]:
        final = self.windows["final"] or None
        start = self.windows["start"] or final
        return {
            "start": statistics.median(start) if start else None,
            "final": statistics.median(final) if final else None,
        }
