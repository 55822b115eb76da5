"""A comparison with a row a side: for many arms, for papers, and for programs."""

from collections.abc import Iterator

from compressm_cli.core.quantities import quantity
from compressm_cli.render.table import Footnotes, Table, as_csv
from compressm_cli.reports import formats
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.rows import Change, Row, Value

COSTS = {
    "total_order": "states",
    "parameters": "parameters",
    "training_flops": "training\nFLOPs",
    "total_seconds": "wall time",
    "inference_flops": "inference\nFLOPs",
    "peak_memory": "peak\nmemory",
}
"""Rows of the comparison that are columns here, as far as it has them."""
FIELDS = (
    *("arm", "seeds", "key", "quantity", "unit", "mean", "low", "high", "runs"),
    *("difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high", "basis", "reason"),
)  # fmt: skip


def arms_table(report: ComparisonReport) -> Table:
    """The primary metric and the costs of each arm, and how they differ from the first one's."""
    notes, primary = Footnotes(), report.rows[0]
    costs = [row for key in COSTS for row in report.rows if row.key == key]
    rows = []
    for i, arm in enumerate(report.arms):
        cells = [f"{arm.label}\n{seeds_text(arm.seeds)}", value_text(primary.values[i], primary, notes)]
        cells.append(_difference(primary, i, notes) if i else "baseline")
        for row in costs:
            told = [value_text(row.values[i], row, notes), change_text(row, i, notes) if i else ""]
            cells.append("\n".join(text for text in told if text not in ("", "-")))
        rows.append(cells)
    columns = ["", primary.title.replace(" ", "\n", 1), "difference", *(COSTS[row.key] for row in costs)]
    return Table("Comparison", columns, rows, [*notes.lines(), interval_note(report)])


def seeds_text(seeds: list[int | None]) -> str:
    """``seed 0``, ``3 seeds``, or that it is not known."""
    if len(seeds) > 1:
        return f"{len(seeds)} seeds"
    return "seed unknown" if seeds[0] is None else f"seed {seeds[0]}"


def interval_note(report: ComparisonReport) -> str:
    """What the intervals of a comparison are, and which text models were judged on."""
    return _about_text(report) + _about_intervals(report)


def _about_text(report: ComparisonReport) -> str:
    text = report.text
    if text is None:
        return ""
    return f"The text is {text.source}, {text.bytes:,} bytes, of which each model saw {text.context:,} tokens at once. "


def _about_intervals(report: ComparisonReport) -> str:
    if any(len(arm.seeds) > 1 for arm in report.arms):
        return (
            "± is half the 95 % t-interval of the mean over the seeds; ranges are those of a change, paired by seed "
            "where the seeds match, those of ratios relative to the baseline's mean."
        )
    return f"One seed each: no interval, so a difference of {report.primary.title} may be chance."


def value_text(value: Value, row: Row, notes: Footnotes) -> str:
    """The mean, with its interval, or that it is not known."""
    if value.mean is None:
        return f"not known {notes.mark(value.reason or 'no reason recorded')}"
    shown = quantity(value.mean.value, row.unit, value.mean.margin)
    return shown if value.note is None else f"{shown} {notes.mark(value.note)}"


def change_text(row: Row, arm: int, notes: Footnotes, in_words: bool = False) -> str:
    """Points or a ratio, with its interval; ``in_words`` too where there is room."""
    if apart := row.apart[arm]:
        return f"not comparable {notes.mark(apart)}"
    change = row.changes[arm]
    if change is None:
        return "-"
    if change.ratio is None:
        found = change.difference
        return "-" if found is None else formats.points(found.value, found.low, found.high)
    shown = formats.ratio(change.ratio) if in_words else formats.times(change.ratio)
    if change.ratio_low is None or change.ratio_high is None:
        return shown
    return f"{shown}, {formats.interval(change.ratio_low, change.ratio_high)}"


def _difference(row: Row, arm: int, notes: Footnotes) -> str:
    """Of the primary metric, in its unit, whatever that is."""
    change = row.changes[arm]
    if row.apart[arm] or change is None or change.difference is None:
        return change_text(row, arm, notes)
    found = change.difference
    show = formats.points if row.unit == "share" else formats.difference
    return show(found.value, found.low, found.high).replace(" (", "\n(")


def comparison_csv(report: ComparisonReport) -> str:
    """A line for each quantity of each arm, not rounded; what is not known is empty."""
    return as_csv(FIELDS, _lines(report))


def _lines(report: ComparisonReport) -> Iterator[list[object]]:
    for i, arm in enumerate(report.arms):
        seeds = " ".join(str(seed) for seed in arm.seeds if seed is not None)
        for row in (*report.rows, *report.targets):
            mean, reason = row.values[i].mean, row.values[i].reason or row.apart[i] or row.values[i].note
            told = (
                [None] * 3 + [len(arm.seeds)]
                if mean is None
                else [mean.value, mean.low, mean.high, mean.count]
            )
            yield [arm.label, seeds, row.key, row.title, row.unit, *told, *_changes(row.changes[i]), reason]


def _changes(change: Change | None) -> list[object]:
    if change is None:
        return [None] * 7
    found = change.difference
    difference = [None] * 3 if found is None else [found.value, found.low, found.high]
    return [*difference, change.ratio, change.ratio_low, change.ratio_high, change.basis]
