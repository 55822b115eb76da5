"""``compare`` and ``bench`` as tables; those of ``analyze`` are in a file of their own."""

from compressm_cli.core.quantities import quantity
from compressm_cli.measure.roof import DEFINITION
from compressm_cli.render.arms_table import arms_table, change_text, interval_note, seeds_text, value_text
from compressm_cli.render.spectrum_tables import RECURRENCE_ERROR, spectrum_tables
from compressm_cli.render.speed_tables import (
    bench_decoding_table,
    beside,
    columns_of,
    decoding_table,
    orders_text,
    speed_table,
)
from compressm_cli.render.table import BUSY, Footnotes, Table, plain
from compressm_cli.reports import formats
from compressm_cli.reports.bench import BenchReport, BenchRow
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.rows import Row

MOST_TARGETS = 36
"""Rows of single numbers that are shown, of three for each."""

__all__ = [
    "BUSY",
    "RECURRENCE_ERROR",
    "Table",
    "bench_decoding_table",
    "bench_table",
    "comparison_markdown",
    "comparison_tables",
    "seeds_text",
    "spectrum_tables",
]


def comparison_tables(report: ComparisonReport) -> list[Table]:
    """The comparison, with more than two arms first a row an arm; the orders and the inference speed."""
    tables = [arms_table(report)] if len(report.arms) > 2 else []
    tables += [_main_table(report), *([_targets_table(report)] if report.targets else [])]
    tables += [_orders_table(report)] if report.orders or report.axes else []
    if any(budget is not None for arm in report.arms for budget in arm.budgets):
        tables.append(_budget_table(report))
    if report.speed is not None:
        tables.append(speed_table(report))
    if report.decoding is not None:
        tables.append(decoding_table(report, report.decoding))
    return tables


def bench_table(report: BenchReport) -> Table:
    """A row an order, and how to read it."""
    notes, first, roof = Footnotes(), report.rows[0], report.roof
    columns = [
        "order",
        "training step\nmedian",
        "\nleast",
        "\ntokens/s",
        "\nfaster",
        "of the\nroof",
        "peak\nmemory",
        "inference\na sequence",
    ]
    peaks = dict.fromkeys(row.peak_bytes_kind for row in report.rows if row.peak_bytes is not None)
    about = [
        f"Medians of {first.rounds} rounds in alternation, on {first.device} (CPU threads: {first.threads}), "
        f"{first.precision}; random data without padding, learning rate zero, warm-up steps not counted. "
        "Where least and median lie far apart, the machine was busy with something else.",
        f"{DEFINITION} Here: {quantity(roof.flops_per_second, 'flops')}/s, beside "
        f"{quantity(roof.bytes_per_second, 'bytes')}/s of a copy in memory.",
        *(f"Peak memory: {kind}." for kind in peaks),
        *([BUSY] if report.busy else []),
    ]
    rows = [_bench_cells(row, notes) for row in report.rows]
    title = f"{report.recipe}: batches of {first.batch_size}, sequences of {first.length:,} steps"
    return Table(title, columns, rows, [*about, *notes.lines()])


def comparison_markdown(report: ComparisonReport) -> str:
    """The whole report as Markdown."""
    names = " and ".join(arm.label for arm in report.arms[1:])
    parts = [f"## {plain(names)} against {plain(report.arms[0].label)}\n"]
    if report.warnings:
        parts.append("".join(f"> **Warning:** {plain(w)}\n>\n" for w in report.warnings))
    parts += [table.markdown() for table in comparison_tables(report)]
    parts.append("### Verdict\n\n" + "".join(f"- {plain(line)}\n" for line in report.verdict))
    return "\n".join(parts)


def _bench_cells(row: BenchRow, notes: Footnotes) -> list[str]:
    memory = row.peak_bytes
    return [
        orders_text(row),
        quantity(row.step_seconds, "seconds"),
        quantity(row.step_seconds_least, "seconds"),
        f"{row.tokens_per_second:,.0f}",
        formats.times(row.times_faster),
        f"{100 * row.roof_fraction:.2g} %",
        f"not measured {notes.mark(row.peak_bytes_reason or 'no reason recorded')}"
        if memory is None
        else quantity(memory, "bytes"),
        quantity(row.inference_seconds, "seconds"),
    ]


def _main_table(report: ComparisonReport) -> Table:
    notes = Footnotes()
    rows = []
    for row in report.rows:
        rows.append(_cells(row, notes))
        if row.key.startswith("validation_"):
            rows.append(_agreement_cells(report, notes))
    headings = [f"{arm.label}\n{seeds_text(arm.seeds)}" for arm in report.arms]
    if len(report.arms) == 2:
        return Table("Comparison", columns_of(headings), rows, [*notes.lines(), interval_note(report)])
    return Table("All that was compared", columns_of(headings), rows, notes.lines())


def _targets_table(report: ComparisonReport) -> Table:
    notes = Footnotes()
    shown = report.targets[:MOST_TARGETS]
    rows = [_cells(row, notes) for row in shown]
    left = len(report.targets) - len(shown)
    more = [f"{left:,} more of these rows are in what --json prints."] if left else []
    headings = [f"{arm.label}\n{seeds_text(arm.seeds)}" for arm in report.arms]
    title = "Each number, on the test split and in its own unit"
    return Table(title, columns_of(headings), rows, [*notes.lines(), *more])


def _cells(row: Row, notes: Footnotes) -> list[str]:
    values = [value_text(value, row, notes) for value in row.values]
    in_words = len(values) == 2
    return beside(row.title, values, [change_text(row, i, notes, in_words) for i in range(1, len(values))])


def _agreement_cells(report: ComparisonReport, notes: Footnotes) -> list[str]:
    cells = [""]
    for found in report.agreement[1:]:
        if found is None or found.share is None:
            reason = (found.reason if found else None) or "no reason recorded"
            cells.append(f"not known {notes.mark(reason)}")
        else:
            cells.append(quantity(found.share.value, "share", found.share.margin))
    return beside("same predictions", cells, [""] * (len(cells) - 1))


def _orders_table(report: ComparisonReport) -> Table:
    rows = [
        [layer.layer, *(_course(start, final) for start, final in zip(layer.start, layer.final, strict=True))]
        for layer in report.orders
    ]
    for axis in report.axes:
        courses = zip(axis.start, axis.final, strict=True)
        rows.append([f"{axis.kind}, all", *(_course(start, final, "not known") for start, final in courses)])
    notes = ["means over the seeds"] if any(len(arm.seeds) > 1 for arm in report.arms) else []
    title = "Orders" if report.orders else "Units"
    return Table(
        f"{title}, from start to end",
        ["layer" if report.orders else "", *(arm.label for arm in report.arms)],
        rows,
        notes,
    )


def _budget_table(report: ComparisonReport) -> Table:
    rows = [
        [
            arm.label if seed is None else f"{arm.label}, seed {seed}",
            "none" if budget is None else budget.message(),
            "" if budget is None else f"{budget.steps:,}",
            "" if budget is None else f"{budget.planned:,}" if budget.plans_steps else "-",
            "" if budget is None else "yes" if budget.reinvest else "no",
        ]
        for arm in report.arms
        for seed, budget in zip(arm.seeds, arm.budgets, strict=True)
    ]
    columns = ["", "budget", "steps", "planned", "savings\nreinvested"]
    return Table("Budgets", columns, rows, [])


def _course(start: float | None, final: float | None, missing: str = "no such layer") -> str:
    if start is None or final is None:
        return missing
    return f"{quantity(start, 'order')} -> {quantity(final, 'order')}"
