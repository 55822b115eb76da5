"""What follows from the results of a study: differences paired by seed, in words, and what is not known."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from compressm_cli.core.text import counted
from compressm_cli.measure.clock import STARVED
from compressm_cli.reports.estimates import CONFIDENCE, Estimate, mean
from compressm_cli.studies import rates
from compressm_cli.studies.arms import SIZE
from compressm_cli.studies.results import ArmResult, Result, Results

METHOD, STOPPED = "method", "dense-stopped"
COMMIT = 10
"""Digits of a commit that are told."""
Word = Literal["better", "worse", "tie"]


@dataclass(frozen=True)
class Row:
    """An arm at its chosen rate, and what the method wins over it."""

    arm: ArmResult
    rate: float | None
    """None where at each rate some seed failed, or the arm was left out."""
    is_bracketed: bool
    runs: list[Result]
    """At that rate, by seed."""
    test: Estimate | None
    gain: Estimate | None
    """Of the method over it, paired by seed: positive where the method is better, whichever way that is."""
    signs: str
    """``+``, ``-`` or ``=`` a seed: where the method is better, worse, equal."""
    word: Word | None
    """What the method is beside it; None where there is no interval, or for the method itself."""

    def mean(self, values: Iterable[float | None]) -> float | None:
        """Of what is known of the runs."""
        known = [value for value in values if value is not None]
        return statistics.fmean(known) if known else None

    @property
    def flops(self) -> float | None:
        return self.mean(run.flops for run in self.runs)

    @property
    def seconds(self) -> float | None:
        return self.mean(run.seconds for run in self.runs)

    @property
    def samples_a_parameter(self) -> float | None:
        return self.mean(
            run.samples / run.parameters for run in self.runs if run.samples is not None and run.parameters
        )

    @property
    def orders(self) -> list[str]:
        """As they were at the end, each once: ``8+13`` of two layers."""
        return ["+".join(map(str, found)) for found in sorted({tuple(run.orders) for run in self.runs})]

    @property
    def is_hindered(self) -> bool:
        """Whether other work on the machine was in the way of some run, so that its seconds say little."""
        return any(run.hindrance is not None and run.hindrance >= STARVED for run in self.runs)


@dataclass(frozen=True)
class Regret:
    """What it cost not to know the best size: the best of the fixed ones, tuned, at equal FLOPs."""

    best: str
    """The arm that is best on the validation split."""
    regret: Estimate
    """By how much it is better on the test split, paired by seed; below zero where the method is better."""
    runs: int
    """Of the sweep over sizes, at all their rates; and its FLOPs."""
    flops: float
    method_runs: int
    method_flops: float


@dataclass(frozen=True)
class Verdict:
    """A study in numbers and words."""

    rows: list[Row]
    regret: Regret | None
    comparisons: int
    """Intervals of differences that words follow from."""
    sentence: str
    """What can be said of the whole."""
    unknown: list[str]
    """What is not known, and why."""


def judge(results: Results) -> Verdict:
    """Everything that is said of a study; a function of its results alone."""
    method = results.best(METHOD)
    rows = [_row(results, arm, method) for arm in results.arms]
    return Verdict(
        rows,
        _regret(results, rows),
        sum(row.word is not None for row in rows),
        _sentence(rows, len(results.seeds)),
        _unknown(results, rows),
    )


def _row(results: Results, arm: ArmResult, method: dict[int, Result]) -> Row:
    means, chosen = results.means(arm.name), results.best(arm.name)
    runs = [chosen[seed] for seed in results.seeds if seed in chosen]
    tests = [run.test for run in runs if run.test is not None]
    gains = _gains(results, method, chosen) if arm.name != METHOD else []
    gain = mean(gains) if gains else None
    return Row(
        arm=arm,
        rate=results.chosen(arm.name),
        is_bracketed=rates.is_bracketed(means, results.primary.higher_is_better),
        runs=runs,
        test=mean(tests) if runs and len(tests) == len(runs) else None,
        gain=gain,
        signs="".join("+" if g > 0 else "-" if g < 0 else "=" for g in gains),
        word=None if gain is None else word(gain),
    )


def _gains(results: Results, method: dict[int, Result], other: dict[int, Result]) -> list[float]:
    """Of the method, a seed each; none where one seed is missing."""
    sign = 1 if results.primary.higher_is_better else -1
    found = []
    for seed in results.seeds:
        ours, theirs = (runs[seed].test if seed in runs else None for runs in (method, other))
        if ours is None or theirs is None:
            return []
        found.append(sign * (ours - theirs))
    return found


def word(gain: Estimate) -> Word | None:
    """What an interval says; None where there is none."""
    if gain.low is None or gain.high is None:
        return None
    return "better" if gain.low > 0 else "worse" if gain.high < 0 else "tie"


def _regret(results: Results, rows: Sequence[Row]) -> Regret | None:
    """None where no size was swept, or not each of those that were is known."""
    names = _sized(results)
    if not names:
        return None
    sweep = [row for row in rows if row.arm.name in names or (row.arm.name == STOPPED and row.rate)]
    if any(row.gain is None for row in sweep):
        return None
    higher = results.primary.higher_is_better
    tuned = {row.arm.name: rates.best(results.means(row.arm.name), higher) for row in sweep}
    means = {n: results.means(n)[power] for n, power in tuned.items() if power is not None}
    best = max(means, key=lambda name: (means[name] or 0.0) * (1 if higher else -1))
    gain = next(row.gain for row in sweep if row.arm.name == best)
    assert gain is not None
    swept = [run for row in sweep for run in results.of(row.arm.name)]
    own = results.of(METHOD)
    return Regret(best, _negative(gain), len(swept), _flops(swept), len(own), _flops(own))


def _sized(results: Results) -> list[str]:
    """The arms of fixed sizes."""
    return [f"{SIZE}{size}" for size in results.sizes]


def _negative(gain: Estimate) -> Estimate:
    low, high = (None if bound is None else -bound for bound in (gain.high, gain.low))
    return Estimate(-gain.value, low, high, gain.count)


def _flops(runs: Iterable[Result]) -> float:
    """Of those that came to their end."""
    return sum(run.flops or 0.0 for run in runs)


def _sentence(rows: Sequence[Row], seeds: int) -> str:
    """Better only where nothing that costs no more refutes it."""
    rivals = [row for row in rows if row.arm.cost != "more" and row.arm.name != METHOD]
    judged = [row for row in rivals if row.word is not None]
    by_word = {w: [row.arm.name for row in judged if row.word == w] for w in ("better", "worse", "tie")}
    if not judged:
        return "No arm that costs no more than the method can be judged, so nothing is said of it."
    within = f"{CONFIDENCE:.0%} intervals, {counted(seeds, 'seed')}"
    if by_word["worse"] or by_word["tie"]:
        told = [
            f"{what} {_listed(by_word[word])}"
            for what, word in (("is worse than", "worse"), ("ties with", "tie"), ("is better than", "better"))
            if by_word[word]
        ]
        return (
            f"The method is not better as a whole ({within}): of what costs no more, it {'; it '.join(told)}."
        )
    missing = [row.arm.name for row in rivals if row.word is None]
    unsure = [row.arm.name for row in judged if not row.is_bracketed]
    but = "".join(
        f"; {what}: {_listed(names)}"
        for what, names in (("not known of", missing), ("whose rates are not bracketed", unsure))
        if names
    )
    return (
        f"The method is better than each of {_listed(by_word['better'])}, which cost no more ({within}){but}."
    )


def _unknown(results: Results, rows: Sequence[Row]) -> list[str]:
    found = []
    for row in rows:
        name = row.arm.name
        if row.arm.left_out is not None:
            found.append(f"{name}: left out: {row.arm.left_out}")
        elif row.rate is None:
            found.append(f"{name}: {_why_not(results, name)}")
        elif row.test is None:
            found.append(f"{name}: {results.primary.title} on the test split is not known of each seed")
    if results.sizes and any(row.gain is None for row in rows if row.arm.name in _sized(results)):
        found.append("regret: not each of the fixed sizes came to its end")
    if results.grid == 1:
        found.append("no learning rate was tuned: a grid of one")
    elif loose := [row.arm.name for row in rows if row.rate is not None and not row.is_bracketed]:
        found.append(f"not bracketed: the best learning rate is at the edge of the grid of {_listed(loose)}")
    if len(results.seeds) == 1:
        found.append("there is one seed: no interval, and no word for any difference")
    if busy := [row.arm.name for row in rows if row.is_hindered]:
        found.append(f"the machine was busy with other work, so that seconds say little: {_listed(busy)}")
    if len(code := sorted({_short(run.commit) for run in results.runs if run.error is None})) > 1:
        found.append(f"the runs are of several versions of the code: {_listed(code)}")
    if len(machines := sorted({run.machine or "unknown" for run in results.runs if run.error is None})) > 1:
        found.append(f"the runs are of several machines or settings of them: {_listed(machines)}")
    return found


def _why_not(results: Results, arm: str) -> str:
    """Why an arm has no learning rate with which all seeds came to their end."""
    powers = results.means(arm)
    if not powers:
        return "not trained yet"
    if all(results.is_unfinished(arm, power) for power in powers):
        return "not trained with all seeds yet"
    errors = [run.error for run in results.of(arm) if run.error is not None]
    why = f": {errors[0].splitlines()[-1]}" if errors else ""
    return f"at each learning rate some seed failed{why}"


def _short(commit: str | None) -> str:
    return "unknown" if commit is None else commit[:COMMIT] + ("+" if commit.endswith("+") else "")


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
