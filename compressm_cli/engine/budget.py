"""The budget of a run: what was spent of it, how far the run is by that, and whether it is over."""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import torch

from compressm_cli.core.errors import BadInputError, RunFailedError, command
from compressm_cli.core.quantities import quantity
from compressm_cli.engine.course import MEASURED_STEPS, SETTLING_STEPS, Course, Spent
from compressm_cli.engine.distributed.group import Group
from compressm_cli.engine.ledger import Ledger
from compressm_cli.engine.standing import Standing
from compressm_cli.measure.joules import SHORTEST_WINDOW, unmeasured
from compressm_cli.recipe import Recipe

LARGE_START = 0.05
"""Of a budget of seconds, spent before the first step: from here on it is told."""
FEW_STEPS = 5
"""A run that has fewer left of a share, once that is measured, ends with an error."""
MICRO = 1e-6
"""Seconds and joules are told between processes in millionths."""


def require_measurable(recipe: Recipe, device: torch.device) -> None:
    """BadInputError where the recipe has a budget of joules, and these cannot be measured here."""
    if recipe.budget is None or recipe.budget.unit != "joules":
        return
    if reason := unmeasured(device):
        raise BadInputError(
            f"budget.joules: energy cannot be measured here ({reason}); write budget.seconds or budget.flops instead"
        )


class Budget:
    """How far a run is; without a ``budget:`` in the recipe by its steps alone.

    FLOPs are a function of the steps and of the sizes that the model had, so a resumed run knows them exactly. Seconds
    and joules are looked at once a step; of several processes all know the same amount, of a step earlier.
    """

    def __init__(self, recipe: Recipe, ledger: Ledger, group: Group) -> None:
        self._recipe, self._ledger, self._group = recipe, ledger, group
        self._config = recipe.budget
        self._unit = "flops" if self._config is None else self._config.unit
        self._course = Course(recipe.train.steps)
        self._seen: Spent = 0
        """Seconds or joules at the latest look."""
        self._looks: deque[float] = deque(maxlen=50)
        self._saved: dict[str, Any] = {"uncut": None, "total": 0.0, "sources": None}
        """Of the checkpoint that the run goes on from."""
        self._opened: tuple[int, float, float] | None = None
        """Where what a step takes is being measured: since which step, the amount then, and the seconds."""
        self._made = 0
        """Steps of this process."""
        self._before: float = 0
        self.position: float = 0
        """Between 0 and ``total``, with the step that is being made."""

    @property
    def is_set(self) -> bool:
        """Whether the recipe has one."""
        return self._config is not None

    @property
    def total(self) -> int:
        """The length of the run in steps of the model as it was at the start: the scale of ``position``."""
        return self._course.total

    @property
    def last_step(self) -> float:
        """After which the run ends at the latest, whatever is left of a budget."""
        return Course(self._recipe.train.steps, self._config).last_step

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        return self.position / self.total

    def begin(self, step: int) -> None:
        """The model and what it costs are known; the run begins, or goes on, after a step, perhaps an earlier one."""
        uncut = self._saved["uncut"] if self._is_measured else self._ledger.start_flops
        self._course = Course.of(self._recipe, uncut)
        self.position = self._before = self._course.at(step, self._spent)
        self._made, self._opened = 0, None

    def begin_step(self, step: int) -> None:
        """A step is about to be made."""
        self._before = self._course.at(step - 1, self._spent)
        self.position = self._course.at(step, self._spent + (self._per_step or 0))

    def end_step(self, step: int, amounts: Sequence[Sequence[int]] | None) -> None:
        """The step was made, and counted; ``amounts`` are what all processes told, each its ``own``."""
        self._made += 1
        if self._is_measured:
            self._look(amounts)
        self.position = self._course.at(step, self._spent)

    def crossed(self, marks: Sequence[int]) -> bool:
        """Whether the step that was made led to one of these ascending positions, or beyond it.

        Not as long as the run still has to measure what it may spend; the step after which it knows that leads past all
        positions until there.
        """
        if self._course.is_measured_first:
            return False
        return bisect_right(marks, self._before) < bisect_right(marks, self.position)

    def is_over(self, step: int) -> bool:
        """Whether the run ends after a step."""
        return self._course.is_over(step, self._spent)

    def expected(self, step: int) -> int:
        """About how many steps the run will have, as the model is now."""
        return step + self._course.left(step, self._spent, self._per_step)

    # ---- what was spent ------------------------------------------------------------------------------------

    def own(self) -> list[int]:
        """What this process has to tell the others: seconds, which are the main one's, and joules, in millionths."""
        if not self._is_measured:
            return []
        try:
            amounts = [self._ledger.measured("seconds", 0.0)]
            if self._unit == "joules":
                earlier = self._saved["total"] if self._group.is_main else 0.0
                amounts.append(self._ledger.measured("joules", earlier))
        except OSError as error:
            resume = command("train", "--resume", "RUN", "budget.joules=null", "budget.seconds=X")
            raise RunFailedError(
                f"budget.joules: what is spent is not known any more: {error}; go on with another unit: {resume}"
            ) from error
        return [round(amount / MICRO) for amount in amounts]

    def _look(self, amounts: Sequence[Sequence[int]] | None) -> None:
        if self._group.is_alone:
            amounts = [self.own()]
        if amounts:
            self._seen = max(self._seen, self._sum(amounts))
            self._looks.append(float(self._seen))

    def _sum(self, amounts: Sequence[Sequence[int]], which: int = -1) -> float:
        return sum(own[which] for own in amounts) * MICRO

    def _now(self) -> tuple[float, float]:
        """What was spent until now, and the seconds; collective."""
        self._ledger.wait()
        amounts = self._group.gather(self.own())
        return self._sum(amounts), self._sum(amounts, 0)

    @property
    def _is_measured(self) -> bool:
        return self._unit != "flops"

    @property
    def _spent(self) -> Spent:
        return self._seen if self._is_measured else self._ledger.flops.total

    @property
    def _per_step(self) -> Spent | None:
        """What a step takes, lately."""
        if not self._is_measured:
            return self._ledger.flops.per_step
        looks = self._looks
        return (looks[-1] - looks[0]) / (len(looks) - 1) if len(looks) > 1 else None

    # ---- what the recipe takes without compression ---------------------------------------------------------

    def measures(self, step: int) -> bool:
        """Whether what a step takes is known now, and an evaluation and a checkpoint are to be measured; collective."""
        if not self._course.is_measured_first or self._made < SETTLING_STEPS:
            return False
        if self._made == SETTLING_STEPS:
            self._opened = (step, *self._now())
        if self._made < SETTLING_STEPS + MEASURED_STEPS:
            return False
        assert self._opened is not None
        least = SHORTEST_WINDOW if self._unit == "joules" else 0.0
        return self._now()[1] - self._opened[2] >= least

    def settle(self, step: int, evaluate: Callable[[], object], save: Callable[[], object]) -> str:
        """Measure what an evaluation and a checkpoint take; from then on what may be spent is known. Collective.

        Returns in words what is left of it; raises RunFailedError where that is next to nothing.
        """
        assert self._opened is not None
        config, (began, opened, _) = self._recipe.train, self._opened
        spent = [self._now()[0]]
        for work in (evaluate, save):
            work()
            spent.append(self._now()[0])
        others = [
            (config.interval("eval_every"), spent[1] - spent[0]),
            (config.interval("checkpoint_every"), spent[2] - spent[1]),
        ]

        def aside(first: int, last: int) -> float:
            """Of evaluations and checkpoints after the steps from ``first`` to before ``last``."""
            return sum(((last - 1) // every - (first - 1) // every) * cost for every, cost in others)

        made, ends = self._made - SETTLING_STEPS, spent[2] - spent[0]
        cost = (spent[0] - opened - aside(began, step)) / made
        if cost <= 0:
            # On a machine that has become busier they take longer now than they did among the steps, where they are as
            # often as they will be: all that was spent there is taken for the steps', and theirs with it.
            others = [(every, 0.0) for every, _ in others]
            cost = (spent[0] - opened) / made
        if cost <= 0:
            unit = self._unit
            raise RunFailedError(
                f"budget.{unit}: what a step takes could not be measured within {made} steps; write a number of {unit}"
            )
        steps = config.steps
        beginning = max(0.0, spent[0] - cost * step - aside(1, step))
        # An evaluation follows the last step in any case; the state of training is kept of it, too.
        whole = beginning + cost * steps + aside(1, steps) + ends
        self._saved["uncut"] = whole / steps
        self._course = Course.of(self._recipe, whole / steps)
        self._before = 0
        self.position = self._course.at(step, self._spent)
        return self._what_is_left(step, spent[-1], cost)

    def _what_is_left(self, step: int, spent: float, cost: float) -> str:
        """In words; RunFailedError where it is next to nothing."""
        course, unit = self._course, self._unit
        assert self._config is not None
        assert course.limit is not None
        left, gone, limit = (
            course.left(step, spent, cost),
            quantity(spent, unit),
            quantity(float(course.limit), unit),
        )
        if left < min(Fraction(FEW_STEPS), max(Fraction(1), course.planned - step)):
            resume = command("train", "--resume", "RUN", f"budget.{unit}=X")
            raise RunFailedError(
                f"budget.{unit}: {self._config.amount} turned out to be {limit}, and {gone} are spent after step "
                f"{step}, {quantity(spent - cost * step, unit)} of them beside steps: about {left} steps are left; "
                f"begin with a larger share or a number of {unit}, or go on with one: {resume}"
            )
        return f"{gone} are spent after step {step}, about {left:,} steps are left"

    # ---- checkpoints and records ---------------------------------------------------------------------------

    def process_state(self) -> dict[str, Any]:
        """What each process has spent for itself, for a checkpoint."""
        return {"spent": self.own()}

    def state_dict(self, processes: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
        """What a checkpoint holds; None where all follows from steps and FLOPs. ``processes``: their process states."""
        if not self._is_measured:
            return None
        return {
            "unit": self._unit,
            "spent": float(self._seen),
            "total": self._sum([process["spent"] for process in processes]),
            "uncut": self._saved["uncut"],
            "sources": self._ledger.energy_sources if self._unit == "joules" else [],
        }

    def load_state_dict(self, step: int, training: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's ``training``, after its step."""
        if not self._is_measured:
            return
        self._seen = Standing.of(self._recipe, step, training).spent
        saved = training.get("budget")
        if saved is not None and saved["unit"] == self._unit:
            self._saved = dict(saved)
        else:
            self._saved = {"uncut": None, "total": self._seen, "sources": None}

    def require_same_counters(self) -> None:
        """BadInputError where the main process's counters of joules are others than they were; they are being read."""
        before, now = self._saved["sources"], self._ledger.energy_sources
        if self._unit != "joules" or before in (None, now):
            return
        raise BadInputError(
            f"budget.joules: the joules of this run were counted by {', '.join(before)}, and here by {', '.join(now)}; "
            "go on where it was, or with a budget of another unit"
        )

    def message(self) -> str:
        """What the run may spend, in a line."""
        config, limit, uncut = self._config, self._course.limit, self._course.uncut
        assert config is not None
        how = "what a cut saves becomes more steps" if config.reinvest else "what a cut saves is left"
        if limit is None:
            return (
                f"budget: {config.amount} of the {config.unit} without compression, which are measured over at least "
                f"{MEASURED_STEPS} steps after step {SETTLING_STEPS}; until then there are no checks; {how}"
            )
        amount = quantity(float(limit), config.unit)
        if uncut is None:
            return f"budget: {amount}; {how}"
        whole = quantity(float(uncut) * self._course.steps, config.unit)
        return f"budget: {amount} ({self._course.steps:,} steps without compression take {whole}); {how}"

    def start_warning(self) -> str | None:
        """Of a run at step 0, in the main process: that much of its seconds is gone already."""
        limit = self._course.limit
        if self._config is None or self._unit != "seconds" or limit is None:
            return None
        spent = self._ledger.measured("seconds", 0.0)
        if spent <= LARGE_START * limit:
            return None
        whole, share = quantity(float(limit), "seconds"), quantity(min(1.0, float(spent / limit)), "share")
        return (
            f"warning: {quantity(spent, 'seconds')} of the budget of {whole} are spent before the first step, for all "
            f"that the run does counts: learning rate and checks begin where {share} of their way is behind them"
        )

    def summary(self, step: int) -> dict[str, Any]:
        """What summary.json says of it."""
        config, limit = self._config, self._course.limit
        assert config is not None
        return {
            "unit": config.unit,
            "asked": config.amount,
            "reinvest": config.reinvest,
            "limit": None if limit is None else float(limit),
            "uncut_per_step": self._course.uncut,
            "spent": self._spent,
            "share": None if limit is None else float(Fraction(self._spent) / limit),
            "steps": {"planned": self.total, "done": step},
        }
