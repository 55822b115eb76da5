"""A cut on trial, and the verdict on it."""

from dataclasses import asdict, dataclass
from typing import Any

from compressm_cli.engine.budget import Budget
from compressm_cli.engine.evaluation import Evaluation
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.listeners import Listeners
from compressm_cli.engine.train_state import TrainState
from compressm_cli.methods.config import SafetyConfig
from compressm_cli.methods.faults import ask
from compressm_cli.methods.method import Method
from compressm_cli.recipe import Recipe
from compressm_cli.structure.plan import UnitRecord


@dataclass
class _Cut:
    """What is on trial."""

    records: list[UnitRecord]
    """Of its plan."""
    until: int
    """The step of the verdict."""
    saved: dict[str, Any]
    """What to go back to: ``TrainState.capture`` right before the cut."""
    before: Evaluation
    windows: list[float]
    """What ``Ledger.undo_cut`` takes."""

    @property
    def begun(self) -> int:
        return int(self.saved["step"])


class Trial:
    """The cut that is on trial, if one is; the recipe's ``safety`` says how long, and what fall is accepted."""

    def __init__(
        self, recipe: Recipe, state: TrainState, budget: Budget, ledger: Ledger, listeners: Listeners
    ) -> None:
        self._safety: SafetyConfig | None = recipe.compression.safety
        self._budget = budget
        self._state, self._ledger, self._listeners = state, ledger, listeners
        self._cut: _Cut | None = None

    @property
    def is_enabled(self) -> bool:
        """Whether cuts are tried before they are kept."""
        return self._safety is not None

    @property
    def is_on(self) -> bool:
        return self._cut is not None

    @property
    def is_due(self) -> bool:
        """Whether the verdict is to be given now: at the trial's end, or with the budget's."""
        step = self._state.step
        return self._cut is not None and (self._cut.until <= step or self._budget.is_over(step))

    @property
    def begun(self) -> int | None:
        """The step of the cut that is on trial."""
        return None if self._cut is None else self._cut.begun

    def begin(
        self, records: list[UnitRecord], saved: dict[str, Any], before: Evaluation, windows: list[float]
    ) -> None:
        """A plan was carried out; ``saved``, ``before`` and ``windows`` are what the run goes back to without it."""
        self._cut = _Cut(records, self._end(saved["step"]), saved, before, windows)
        self._listeners.compression(self._state.step, records, "trial")

    def waiting(self) -> list[UnitRecord]:
        """Of a check at which nothing is looked at: of each unit that the cut's plan told of."""
        assert self._cut is not None
        reason = f"nothing cut: the cut of step {self._cut.begun} is still on trial"
        return [self._state.untouched(r.unit, r.kind, r.after, reason) for r in self._cut.records]

    def verdict(self, result: Evaluation) -> tuple[bool, str]:
        """Whether the cut is to be kept, by the primary metric at its trial's end, and why.

        Not where that is not known, or no number: nothing shows then that the cut did no harm.
        """
        cut, safety = self._cut, self._safety
        assert cut is not None
        assert safety is not None
        primary, steps = self._ledger.primary, self._state.step - cut.begun
        before, after = cut.before.value(primary), result.value(primary)
        told = (primary.exactly(before), primary.exactly(after))
        why = f"validation {primary.title} {told[0]} before, {told[1]} after {steps} further steps"
        return primary.is_kept(before, after, safety.tolerance, safety.relative), why

    def accept(self, why: str) -> None:
        """Keep the cut."""
        cut = self._concluded(why)
        ask(self._state.method, Method.accepted, cut.records)
        self._listeners.compression(self._state.step, cut.records, "accepted", cut.begun)

    def reject(self, why: str) -> None:
        """Undo the cut: put back everything that decides how training goes on, and forget what was logged since.

        The method remembers its plan, nothing of the steps of the trial, and what it makes of being rejected.
        """
        cut = self._concluded(why)
        with self._ledger.clock.phase("compression"):
            self._state.restore(cut.saved)
            self._state.recall(cut.saved)
            self._state.renew()
        self._ledger.undo_cut(self._state.step, cut.before, cut.windows)
        self._listeners.forget_after(self._state.step)
        ask(self._state.method, Method.rejected, cut.records)
        self._listeners.compression(self._state.step, cut.records, "rejected")

    def process_state(self) -> dict[str, Any]:
        """What the processes do not have in common, for a checkpoint."""
        return {"trial_random": None if self._cut is None else self._cut.saved["random"]}

    def state_dict(self) -> dict[str, Any] | None:
        """What a checkpoint holds, of the main process; None without a trial."""
        cut = self._cut
        if cut is None:
            return None
        return {
            "records": [asdict(record) for record in cut.records],
            "until": cut.until,
            "saved": cut.saved,
            "before": cut.before.state_dict(),
            "windows": cut.windows,
        }

    def load_state_dict(self, saved: dict[str, Any] | None, process: dict[str, Any]) -> None:
        """Go on as ``state_dict`` says, and ``process_state`` of this process.

        The verdict is due where the run's length has it now, not where it had it before the run was made longer.
        """
        if saved is None:
            self._cut = None
            return
        records = [UnitRecord(**record) for record in saved["records"]]
        to_go_back_to = {**saved["saved"], "random": process["trial_random"]}
        until, before = self._end(to_go_back_to["step"]), Evaluation(**saved["before"])
        self._cut = _Cut(records, until, to_go_back_to, before, saved["windows"])

    def _end(self, begun: int) -> int:
        """The step of the verdict on a cut."""
        assert self._safety is not None
        return int(min(begun + self._safety.trial_steps, self._budget.last_step))

    def _concluded(self, why: str) -> _Cut:
        """End the trial; the reasons of what was cut say why."""
        cut = self._cut
        assert cut is not None
        self._cut = None
        for record in cut.records:
            if record.is_change:
                record.reason += f"; {why}"
        return cut
