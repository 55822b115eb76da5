"""What a run has spent and what it has come to, and the summary that tells it."""

import statistics
from dataclasses import asdict
from typing import Any

import torch

from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.evaluation import Evaluation
from compressm_cli.measure.clock import Stopwatch, synchronize
from compressm_cli.measure.flops import CONVENTION, TrainingFlops
from compressm_cli.measure.joules import JouleMeter, Joules, combine, together
from compressm_cli.measure.memory import PeakMemory, largest
from compressm_cli.objectives import objective_config, objective_type, primary_of
from compressm_cli.recipe import Recipe
from compressm_cli.recipe.budget import Unit


class Ledger:
    """FLOPs, seconds, joules and memory that were spent; cuts, evaluations and the times of steps that it led to.

    What was spent goes on counting, whatever is undone; what a run has come to is undone with its steps.
    """

    def __init__(self, recipe: Recipe, seed: int, device: torch.device, group: Group) -> None:
        self._recipe, self._seed, self._device, self._group = recipe, seed, device, group
        self.clock = Stopwatch(device)
        # One process a machine counts the packages.
        self._meter = JouleMeter(device, packages=group.local_rank == 0)
        self._earlier_joules: list[Joules] = []
        self._memory = PeakMemory(device)
        self.flops = TrainingFlops()
        self.counts = {"made": 0, "cut": 0, "rejected": 0}
        """Checks of the method, those that cut, and cuts that were undone after a trial."""
        self.primary = primary_of(recipe)
        self.best: dict[str, Any] = {"value": None, "step": 0}
        """Of the evaluations, by the primary metric; not of a cut that is on trial."""
        self._evaluated: tuple[int, Evaluation] | None = None
        self._windows: dict[str, list[float]] = {"start": [], "final": []}
        """Mean seconds of a step, by logged window: before the first change of shape, and since the last."""
        self._start: dict[str, Any] = {}
        self.now: dict[str, Any] = {}
        """What was counted of the model as it is: ``Workload.measures``."""

    def begin(self) -> None:
        """Training begins, or goes on: from here on peak memory and joules are measured."""
        self._memory.start()
        self._meter.start()

    def segment(self, measures: dict[str, Any]) -> None:
        """From now on the model is one of these measures: at the start, and after every change of shape."""
        self.now = measures
        self._start = self._start or measures
        self.flops.segment(measures["step"])

    @property
    def start_flops(self) -> int:
        """Of a step at the start, before the first change of shape."""
        return int(self._start["step"])

    def add_window(self, step_seconds: float) -> None:
        """Mean seconds of a step since the last logged line."""
        self._windows["final"].append(step_seconds)

    def add_cut(self) -> list[float]:
        """The shapes were changed; returns the windows since they last were, for ``undo_cut``."""
        windows = self._windows["final"]
        if not self.counts["cut"]:
            self._windows["start"] = list(windows)
        self._windows["final"] = []
        self.counts["cut"] += 1
        return windows

    def undo_cut(self, step: int, before: Evaluation, windows: list[float]) -> None:
        """The latest cut was undone: the run is at ``step`` again, as it was evaluated before."""
        self.add_evaluation(step, before)
        self._windows["final"] = windows
        self.counts["rejected"] += 1

    def add_evaluation(self, step: int, result: Evaluation) -> None:
        """The validation split was evaluated."""
        self._evaluated = (step, result)

    def evaluation(self, step: int) -> Evaluation | None:
        """That of the validation split after a step, where it was the latest."""
        return None if self._evaluated is None or self._evaluated[0] != step else self._evaluated[1]

    def measured(self, unit: Unit, earlier: float) -> float:
        """Seconds or joules that this process has spent, of all that are counted; ``earlier`` joules among them.

        Seconds are the main process's. Raises OSError where a counter of energy has failed.
        """
        if unit == "joules":
            return earlier + self._meter.so_far()
        return self.clock.total() if self._group.is_main else 0.0

    def spent(self) -> dict[str, float]:
        """FLOPs of training, those of steps that were undone included, and all seconds until now."""
        return {"flops": self.flops.total, "seconds": self.clock.total()}

    def wait(self) -> None:
        """Until a GPU has done what is queued."""
        synchronize(self._device)

    @property
    def energy_sources(self) -> list[str]:
        """The counters of energy that are read."""
        return self._meter.sources

    def improve(self, step: int, result: Evaluation) -> bool:
        """Whether this is the best evaluation until now; it is then what others must exceed."""
        value = result.value(self.primary)
        better = self.primary.is_better(value, self.best["value"])
        if better:
            self.best = {"value": value, "step": step}
        return better

    def process_state(self) -> dict[str, Any]:
        """What each process has spent for itself, for a checkpoint."""
        return {"joules": asdict(self._meter.read())}

    def state_dict(self, processes: list[dict[str, Any]]) -> dict[str, Any]:
        """What a checkpoint holds; ``processes`` are the process states of all."""
        joules = together([Joules(**process["joules"]) for process in processes])
        evaluated = self._evaluated
        return {
            "flops": self.flops.state_dict(),
            "clock": self.clock.state_dict(),
            "joules": [asdict(j) for j in [*self._earlier_joules, joules]],
            "counts": dict(self.counts),
            "best": dict(self.best),
            "windows": {name: list(values) for name, values in self._windows.items()},
            "start": self._start,
            "evaluated": None if evaluated is None else (evaluated[0], evaluated[1].state_dict()),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Go on with the account of the run that a checkpoint is of."""
        self.go_back(saved)
        self.flops.load_state_dict(saved["flops"])
        self.clock.load_state_dict(saved["clock"])
        self._earlier_joules = [Joules(**j) for j in saved["joules"]]
        self.best, self._start = saved["best"], saved["start"]

    def go_back(self, saved: dict[str, Any]) -> None:
        """Undo what the run has come to since it wrote a checkpoint, but not what that cost."""
        self.counts, self._windows = saved["counts"], saved["windows"]
        evaluated = saved.get("evaluated")
        self._evaluated = None if evaluated is None else (evaluated[0], Evaluation(**evaluated[1]))

    def summary(
        self, steps: int, validation: Evaluation, test: Evaluation, checkpoint_bytes: int, rollbacks: int
    ) -> dict[str, Any]:
        """What summary.json says; ends the measurement of joules; collective."""
        start, final = self._start, self.now
        joules = combine([*self._earlier_joules, together(self._group.gather(self._meter.stop()))])
        return {
            "format": 2,
            "recipe": self._recipe.name,
            "seed": self._seed,
            "steps": steps,
            "device": str(self._device),
            "precision": self._recipe.train.precision,
            "processes": self._group.size,
            "objective": objective_config(self._recipe).kind,
            "primary": self.primary.record(),
            "definitions": objective_type(self._recipe).definitions(),
            "test": test.record(),
            "validation": {
                **validation.metrics,
                "loss": validation.loss,
                f"best_{self.primary.name}": self.best["value"],
                "best_step": self.best["step"],
            },
            **{
                name: {"start": start[name], "final": final[name]}
                for name in ("orders", "parameters", "forms")
            },
            "checkpoint_bytes": checkpoint_bytes,
            "flops": {
                "training": self.flops.total,
                "training_start_per_step": start["step"],
                "training_final_per_step": final["step"],
                "inference_start_per_sequence": start["inference"],
                "inference_final_per_sequence": final["inference"],
                "convention": CONVENTION,
            },
            "seconds": self.clock.state_dict(),
            "step_seconds": self._step_seconds(),
            "joules": asdict(joules),
            "peak_memory": largest(self._group.gather(self._memory.result())),
            "checks": self.counts,
            "rollbacks": rollbacks,
        }

    def _step_seconds(self) -> dict[str, float | None]:
        final = self._windows["final"] or None
        start = self._windows["start"] or final
        return {
            "start": statistics.median(start) if start else None,
            "final": statistics.median(final) if final else None,
        }
