"""What models scored on tasks, and how two differ, as tables."""

from collections.abc import Sequence

from compressm_cli.core.text import counted
from compressm_cli.render.table import Table
from compressm_cli.reports.paired import Paired
from compressm_cli.reports.task_results import ModelResult, TaskResult

HASH = 12
"""Signs of the hash of the items that are shown."""


def scores_table(result: ModelResult) -> Table:
    """One model: a row for each metric of each task."""
    columns = ["task", "metric", "score", "standard error", "chance", "items", "hash of the items"]
    rows = [
        [
            task.task,
            score.metric,
            shown(score.value, score.is_share),
            shown(score.standard_error, score.is_share),
            shown(score.chance, score.is_share),
            f"{task.count:,} {task.what}s",
            task.hash[:HASH],
        ]
        for task in result.tasks
        for score in task.scores
    ]
    notes = [f"{task.task}: {note}" for task in result.tasks for note in (*_asked(task), *task.notes)]
    return Table(f"{result.model} (context of {result.context:,} tokens)", columns, rows, notes)


def paired_table(baseline: ModelResult, other: ModelResult, found: Sequence[Paired], margin: float) -> Table:
    """Two models on the same items."""
    columns = [
        "task",
        "metric",
        "items",
        "A",
        "B",
        "B - A",
        "95 % interval",
        "only A",
        "only B",
        "McNemar's p",
    ]
    rows = [
        [
            one.task,
            one.metric,
            f"{one.items:,}",
            shown(one.baseline, one.is_share),
            shown(one.other, one.is_share),
            _signed(one.difference, one.is_share),
            "-"
            if one.low is None
            else f"{_signed(one.low, one.is_share)} to {_signed(one.high, one.is_share)}",
            "-" if one.only_baseline is None else f"{one.only_baseline:,}",
            "-" if one.only_other is None else f"{one.only_other:,}",
            "-" if one.p_value is None else f"{one.p_value:.2g}",
        ]
        for one in found
    ]
    told = ((one, one.verdict(margin)) for one in found)
    verdicts = [f"{one.task}, {one.metric}: {verdict}" for one, verdict in told if verdict is not None]
    reasons = dict.fromkeys(f"{one.task}: no interval: {one.reason}" for one in found if one.reason)
    title = f"A: {baseline.model}, B: {other.model}"
    return Table(title, columns, rows, [*verdicts, *reasons])


def shown(value: float | None, is_share: bool) -> str:
    """A score as it is read: shares in per cent."""
    if value is None:
        return "-"
    return f"{value * 100:.1f} %" if is_share else f"{value:.4f}"


def _signed(value: float | None, is_share: bool) -> str:
    """A difference: of shares in points."""
    if value is None:
        return "-"
    return f"{value * 100:+.1f}" if is_share else f"{value:+.4f}"


def _asked(task: TaskResult) -> list[str]:
    if task.what == "byte" or not task.shots:
        return []
    return [f"{counted(task.shots, 'example')} before each question"]
