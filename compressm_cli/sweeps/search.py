"""A search for good settings with Optuna: which points are tried next, and which are given up early."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.objectives import Metric, primary_of
from compressm_cli.recipe import Recipe
from compressm_cli.sweeps.board import Board, Entry, Outcome
from compressm_cli.sweeps.grid import Axis, Change, points_of
from compressm_cli.sweeps.job import Job
from compressm_cli.sweeps.plan import job_of
from compressm_cli.sweeps.space import Parameter

if TYPE_CHECKING:
    import optuna

MARKS = tuple(range(10, 100, 5))
"""Percent of a run's budget, or of the FLOPs that it takes without a cut, at which runs are compared."""
DIGITS = 4
"""Of a number in the name of a trial."""
STUDY = "sweep"


def require_optuna() -> None:
    """BadInputError where it is not installed."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise BadInputError(
            "--optuna: optuna cannot be imported; install it with: pip install 'compressm[optuna]'"
        ) from error


def open_study(path: Path, metric: Metric, seed: int) -> "optuna.Study":
    """The study whose journal is a file, new or as it was left.

    A trial that is worse than the median of the others, where as much was spent, is given up.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))),
        study_name=STUDY,
        direction="maximize" if metric.higher_is_better else "minimize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4),
        load_if_exists=True,
    )
    # Begun anew with its seed, a sampler would draw again what it drew before.
    study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials), constant_liar=True)
    return study


def between(judged: Sequence[tuple[float, float]], share: float) -> float | None:
    """The value at a share of the budget, on the line between the evaluations before and after it."""
    for (x0, y0), (x1, y1) in pairwise(judged):
        if x0 <= share <= x1:
            return y1 if x1 == x0 else y0 + (y1 - y0) * (share - x0) / (x1 - x0)
    return None


@dataclass
class Trial:
    """One point that is tried."""

    trial: "optuna.Trial"
    name: str
    jobs: list[Job]
    """With each seed, those that are to come."""
    values: list[float] = field(default_factory=list)
    """Of the metric, by the trainings that are done."""
    reported: set[int] = field(default_factory=set)


class Search:
    """Gives the jobs of a study's trials, as a crew asks for them; a trial's seeds are trained one after the other.

    With several, runs of the first one alone are compared while they train, and the value of a trial is the mean.
    """

    def __init__(
        self,
        study: "optuna.Study",
        space: Sequence[Parameter],
        trials: int,
        seeds: int,
        make: Callable[[str, tuple[Change, ...]], Recipe],
        folder: Path,
        began: Callable[[str, dict[str, str], list[Job]], None],
        keep_going: bool,
        board: Board,
    ) -> None:
        """``trials`` of so many ``seeds`` are to be done in the end, with those that the study has.

        ``make`` judges a point and makes its recipe, whose runs go below ``folder``; ``began`` hears of each point,
        before its first training.
        """
        self._study, self._space, self._make, self._folder = study, list(space), make, folder
        self._seeds = seeds
        self._began, self._keep_going, self._board = began, keep_going, board
        self._running: dict[int, Trial] = {}
        self._ready: list[Trial] = []
        self.refused: dict[str, str] = {}
        """Points that the recipe does not allow, and why."""
        self._left, self._over, self._opened = trials, False, False

    def take(self) -> Job | None:
        if not self._opened:  # now nobody else goes on with the study
            self._opened = True
            self._take_over()
        while not self._ready and self._left > 0 and not self._over:
            self._left -= 1
            self._begin(self._study.ask(self._distributions()))
        if not self._ready:
            return None
        trial = self._ready.pop(0)
        job = trial.jobs.pop(0)
        self._running[id(job)] = trial
        return job

    def looked(self, entry: Entry) -> bool:
        trial = self._running[id(entry.job)]
        if trial.values:
            return False  # a later seed
        for mark in MARKS:
            value = between(entry.progress.judged, mark / 100)
            if value is None or mark in trial.reported:
                continue
            trial.reported.add(mark)
            trial.trial.report(value, mark)
            if trial.trial.should_prune():
                return True
        return False

    def ended(self, outcome: Outcome) -> None:
        from optuna.trial import TrialState

        trial = self._running.pop(id(outcome.job))
        if outcome.pruned:
            self._study.tell(trial.trial, state=TrialState.PRUNED)
            self._expect(-len(trial.jobs))
            return
        value = None if outcome.run is None else _value(outcome)
        if value is None:
            error = outcome.error or "its metric has no value"
            trial.trial.set_user_attr("error", error)
            self._study.tell(trial.trial, state=TrialState.FAIL)
            self._expect(-len(trial.jobs))
            self._over = self._over or not self._keep_going
            return
        trial.values.append(value)
        if trial.jobs:
            self._ready.append(trial)
        else:
            self._study.tell(trial.trial, fmean(trial.values))

    def _begin(self, trial: "optuna.Trial") -> None:
        from optuna.trial import TrialState

        changes = tuple((p.key, _text(trial.params[p.key])) for p in self._space)
        name = trial.user_attrs.get("point") or _name(trial.number, changes)
        trial.set_user_attr("point", name)
        try:
            recipe = self._make(name, changes)
        except BadInputError as error:
            self.refused[name] = str(error)
            trial.set_user_attr("error", str(error))
            self._study.tell(trial, state=TrialState.FAIL)
            self._expect(-1)
            self._over = self._over or not self._keep_going
            return
        jobs = [job_of(recipe, seed, self._folder) for seed in recipe.seeds]
        self._began(name, dict(changes), jobs)
        self._board.add(jobs)
        reported = set(self._study.trials[trial.number].intermediate_values)
        self._ready.append(Trial(trial, name, list(jobs), reported=reported))

    def _take_over(self) -> None:
        """What an earlier search has left: its unfinished trials go on, and failed ones are tried again."""
        import optuna
        from optuna.trial import TrialState

        known = self._study.get_trials(deepcopy=False)
        settled = {t.user_attrs.get("point") for t in known if t.state != TrialState.FAIL}
        failed = {t.user_attrs.get("point"): t for t in known if t.state == TrialState.FAIL}
        self._left -= sum(t.state in (TrialState.COMPLETE, TrialState.PRUNED) for t in known)
        self._board.expected = max(0, self._left) * self._seeds
        for point, trial in failed.items():
            if point is not None and point not in settled:
                self._study.enqueue_trial(trial.params, user_attrs={"point": point})
        for trial in known:
            if trial.state == TrialState.RUNNING:
                if self._left > 0 and trial.params.keys() >= {p.key for p in self._space}:
                    self._left -= 1
                    self._begin(optuna.trial.Trial(self._study, trial._trial_id))
                else:
                    self._study.tell(trial.number, state=TrialState.FAIL)

    def _distributions(self) -> "dict[str, optuna.distributions.BaseDistribution]":
        return {parameter.key: _distribution(parameter) for parameter in self._space}

    def _expect(self, more: int) -> None:
        self._board.expected += more


def outcomes_of(study: "optuna.Study", jobs: Sequence[Job]) -> list[Outcome]:
    """What has become of the jobs of all trials, of earlier searches too."""
    errors = {t.user_attrs.get("point"): t.user_attrs.get("error") for t in study.get_trials(deepcopy=False)}
    return [_outcome(job, errors.get(job.recipe.name)) for job in jobs]


def _outcome(job: Job, error: str | None) -> Outcome:
    if (run := job.finished()) is not None:
        return Outcome(job, run, was_there=True)
    newest = next(reversed(job.runs()), None)
    if newest is not None and newest.read_info().get("status") == "pruned":
        return Outcome(job, newest, pruned=True)
    return Outcome(job, None, error)


def _distribution(parameter: Parameter) -> "optuna.distributions.BaseDistribution":
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(parameter, Axis):
        return CategoricalDistribution(parameter.values)
    if parameter.is_whole:
        return IntDistribution(int(parameter.low), int(parameter.high), log=parameter.log)
    return FloatDistribution(float(parameter.low), float(parameter.high), log=parameter.log)


def _text(value: Any) -> str:
    """A parameter as YAML; choices are texts of YAML already."""
    return value if isinstance(value, str) else repr(value)


def _name(number: int, changes: tuple[Change, ...]) -> str:
    shown = [(key, _short(text)) for key, text in changes]
    (point,) = points_of([], [tuple(shown)], alone="")
    return f"trial{number:03d},{point.name}"


def _short(text: str) -> str:
    try:
        return text if text.lstrip("+-").isdigit() else f"{float(text):.{DIGITS}g}"
    except ValueError:
        return text


def _value(outcome: Outcome) -> float | None:
    assert outcome.run is not None
    metric = primary_of(outcome.job.recipe)
    value = outcome.run.read_summary().get("validation", {}).get(metric.name)
    return None if value is None else float(value)
