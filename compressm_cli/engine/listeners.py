"""Who is told of a run while it is trained: its logs, whoever watches it, and trackers."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.divergence import Rollbacks
from compressm_cli.engine.evaluation import Evaluation
from compressm_cli.engine.trackers import Trackers
from compressm_cli.engine.view import Beginning, Verdict, View
from compressm_cli.objectives.classification import ACCURACY
from compressm_cli.objectives.objective import Metric
from compressm_cli.recipe import Recipe
from compressm_cli.runs.folder import Run
from compressm_cli.structure.plan import UnitRecord

ACCEPTED: dict[Verdict, bool | None] = {
    "nothing": None,
    "applied": True,
    "accepted": True,
    "rejected": False,
}
"""What ``compression.jsonl`` says of the layers that a plan cut; other verdicts are passing, and are not logged."""


class Listeners:
    """Passes what happens to metrics.jsonl and compression.jsonl, to the view, and to the trackers of the main process.

    What was told of steps that a run went back behind is forgotten; that it went back stays, by ``rollbacks``.
    """

    def __init__(
        self,
        run: Run,
        view: View,
        trackers: Sequence[str],
        rollbacks: Rollbacks,
        group: Group,
        primary: Metric = ACCURACY,
    ) -> None:
        """``primary`` is the metric that whoever watches is told."""
        self.run, self.view, self._primary = run, view, primary
        self._rollbacks, self._group = rollbacks, group
        self.progress: Callable[[], float] | None = None
        """Which share of its budget the run has spent, where it has one."""
        self.spent: Callable[[], dict[str, float]] | None = None
        """FLOPs of training and seconds until now; evaluations tell them."""
        self._trackers = Trackers(trackers if group.is_main else [], view.message)

    def open(self, recipe: Recipe, seed: int, step: int) -> None:
        """The run begins, or goes on after ``step``: trackers are reached, which may take as long as a network does."""
        self._trackers.start(self.run, recipe, seed, step)

    def start(
        self, recipe: Recipe, seed: int, steps: int, orders: dict[str, int], device: torch.device
    ) -> None:
        """Training begins, or goes on, with these orders by layer; it will end after about so many steps."""
        self.view.start(Beginning(recipe.name, seed, steps, orders, str(device), self._primary))

    def expect(self, steps: int) -> None:
        """The run will end after about so many steps, as it is now."""
        self.view.expect(steps)

    def step(self, step: int, loss: float, learning_rate: float, step_seconds: float) -> None:
        """A step was trained; for whoever watches, as often as there are any."""
        self.view.step(step, loss, learning_rate, step_seconds)

    def steps(self, line: dict[str, Any]) -> None:
        """The steps since the last such line, or since the model changed: one line of the log."""
        self._log({**line, **self._progress()})

    def evaluation(self, step: int, result: Evaluation, after_cut: bool) -> None:
        """The validation split was evaluated."""
        metrics = {f"validation_{name}": value for name, value in result.metrics.items()}
        line = {"step": step, "validation_loss": result.loss, **metrics}
        line |= {} if self.spent is None else self.spent()
        line |= {"after_cut": True} if after_cut else {}
        self._log({**line, **self._progress()})
        self.view.evaluation(step, result.loss, result.value(self._primary))

    def compression(
        self, step: int, records: list[UnitRecord], verdict: Verdict, of_step: int | None = None
    ) -> None:
        """The method looked at the model at a step; or there is a verdict on the cut of an earlier one, ``of_step``."""
        if verdict in ACCEPTED:
            under = step if of_step is None else of_step
            for record in records:
                accepted = ACCEPTED[verdict] if record.is_change else None
                self.run.append_compression({"step": under, **record.line(), "accepted": accepted})
            self._trackers.compression(under, records, verdict)
        self.view.compression(step, records, verdict)

    def checksum(self, step: int, checksum: str) -> None:
        """All processes have the same model and optimizer state; a line of the log alone."""
        self.run.append_metrics({"step": step, "processes": self._group.size, "checksum": checksum})

    def message(self, text: str) -> None:
        """Anything else worth a line to whoever watches."""
        self.view.message(text)

    def rolled_back(self, step: int) -> None:
        """Log each time that the run went back, once, and under no later step than the present one."""
        if self._rollbacks.made:
            logged = {line.get("rollback") for line in self.run.read_metrics()}
            for number, made in enumerate(self._rollbacks.made, start=1):
                if number not in logged:
                    self._log({"step": min(made["to_step"], step), "rollback": number, **made})

    def forget_after(self, step: int, undecided: int | None = None) -> None:
        """Drop logged lines of later steps, and of the check whose verdict is still to come.

        That the run went back stays in the log.
        """
        self.run.forget_after(step, undecided)
        self._trackers.rewind(step)
        self.rolled_back(step)

    def finish(self, summary: dict[str, Any]) -> None:
        """The run is done; collective."""
        self._group.from_main(lambda: self.run.write_summary(summary))
        self._trackers.finish(summary)
        self.view.finish(summary)

    def close(self) -> None:
        """However the run ended; more than once does no harm."""
        try:
            self._trackers.close()
        finally:
            self.view.close()

    def _progress(self) -> dict[str, float]:
        return {} if self.progress is None else {"progress": self.progress()}

    def _log(self, line: dict[str, Any]) -> None:
        self.run.append_metrics(line)
        self._trackers.metrics(line)
