"""Reports as tables of text, and the tables on a terminal or in Markdown."""

from dataclasses import dataclass, field

from rich import box
from rich.table import Table as RichTable
from rich.text import Text

from compressm_cli.core.quantities import Unit, quantity
from compressm_cli.measure.roof import DEFINITION
from compressm_cli.reports import formats
from compressm_cli.reports.bench import BenchReport, BenchRow
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.rows import Change, Row, Value
from compressm_cli.reports.sizes import ModelSize
from compressm_cli.reports.spectrum import SpectrumReport

RECURRENCE_ERROR = (
    "Recurrence's error: relative, on the calibration batches, of what the recurrence puts out right after a cut to "
    "this order, weighted by what reaches the layer's output where a gate follows. The layer's own output has other "
    "parts too (the feedthrough D u), so that its error is another one."
)

BUSY = "The machine was busy with other work when this was measured: ratios say more than seconds."


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row, the others are aligned to the right."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    notes: list[str] = field(default_factory=list)

    def rich(self) -> RichTable:
        """For the terminal."""
        table = RichTable(
            title=Text(self.title, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for i, column in enumerate(self.columns):
            table.add_column(Text(column), justify="right" if i else "left", overflow="fold", no_wrap=not i)
        for row in self.rows:
            table.add_row(*(Text(cell) for cell in row))
        return table

    def markdown(self) -> str:
        """For a README or an issue."""
        lines = [
            f"### {_plain(self.title)}",
            "",
            _markdown_row(self.columns),
            _markdown_row(["---"] + ["---:"] * (len(self.columns) - 1)),
            *(_markdown_row(row) for row in self.rows),
        ]
        if self.notes:
            lines += ["", *(f"- {_plain(note)}" for note in self.notes)]
        return "\n".join(lines) + "\n"


def comparison_tables(report: ComparisonReport) -> list[Table]:
    """The comparison, the orders and the inference speed."""
    tables = [_main_table(report), *([_orders_table(report)] if report.orders or report.axes else [])]
    if any(budget is not None for arm in report.arms for budget in arm.budgets):
        tables.append(_budget_table(report))
    if report.speed is not None:
        tables.append(_speed_table(report))
    return tables


def spectrum_tables(report: SpectrumReport) -> list[Table]:
    """The layers, the orders by threshold, and the model's size at them."""
    layers = [_layer_table(report), _threshold_table(report)] if report.layers else []
    return [*layers, *([_axis_table(report)] if report.axes else []), _size_table(report)]


def _axis_table(report: SpectrumReport) -> Table:
    rows = [[one.axis, f"{one.size:,}", f"{one.start_size:,}"] for one in report.axes]
    return Table("Axes", ["axis", "units", "at the start"], rows, [])


def bench_table(report: BenchReport) -> Table:
    """A row an order, and how to read it."""
    notes, first, roof = _Footnotes(), report.rows[0], report.roof
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
    parts = [f"## {_plain(names)} against {_plain(report.arms[0].label)}\n"]
    if report.warnings:
        parts.append("".join(f"> **Warning:** {_plain(w)}\n>\n" for w in report.warnings))
    parts += [table.markdown() for table in comparison_tables(report)]
    parts.append("### Verdict\n\n" + "".join(f"- {_plain(line)}\n" for line in report.verdict))
    return "\n".join(parts)


def seeds_text(seeds: list[int | None]) -> str:
    """``seed 0``, ``3 seeds``, or that it is not known."""
    if len(seeds) > 1:
        return f"{len(seeds)} seeds"
    return "seed unknown" if seeds[0] is None else f"seed {seeds[0]}"


class _Footnotes:
    """Numbers for reasons, the same one for the same reason."""

    def __init__(self) -> None:
        self._reasons: list[str] = []

    def mark(self, reason: str) -> str:
        if reason not in self._reasons:
            self._reasons.append(reason)
        return f"[{self._reasons.index(reason) + 1}]"

    def lines(self) -> list[str]:
        return [f"[{i}] {reason}" for i, reason in enumerate(self._reasons, 1)]


def _bench_cells(row: BenchRow, notes: _Footnotes) -> list[str]:
    memory = row.peak_bytes
    return [
        ", ".join(map(str, row.orders.values())) if row.order is None else str(row.order),
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
    notes = _Footnotes()
    rows = []
    for row in report.rows:
        rows.append(_cells(row, notes))
        if row.key == f"validation_{report.primary.name}":
            rows.append(_agreement_cells(report, notes))
    headings = [f"{arm.label}\n{seeds_text(arm.seeds)}" for arm in report.arms]
    lines = notes.lines()
    if any(len(arm.seeds) > 1 for arm in report.arms):
        lines.append(
            "± is half the 95 % t-interval of the mean over the seeds; so is the range beside a change "
            f"of {report.primary.title}, which is paired by seed where the seeds match."
        )
    else:
        lines.append(f"One seed each: no interval, so a difference of {report.primary.title} may be chance.")
    return Table("Comparison", _columns(headings), rows, lines)


def _columns(headings: list[str]) -> list[str]:
    """A column for the baseline, and two for each other arm: its value and how it compares."""
    return ["", headings[0], *(text for h in headings[1:] for text in (h, "against\nthe baseline"))]


def _cells(row: Row, notes: _Footnotes) -> list[str]:
    cells = [row.title, _value(row.values[0], row.unit, notes)]
    for value, change, apart in zip(row.values[1:], row.changes[1:], row.apart[1:], strict=True):
        told = f"not comparable {notes.mark(apart)}" if apart else _change(change, len(row.values) == 2)
        cells += [_value(value, row.unit, notes), told]
    return cells


def _value(value: Value, unit: Unit, notes: _Footnotes) -> str:
    if value.mean is None:
        return f"not known {notes.mark(value.reason or 'no reason recorded')}"
    shown = quantity(value.mean.value, unit, value.mean.margin)
    return shown if value.note is None else f"{shown} {notes.mark(value.note)}"


def _change(change: Change | None, in_words: bool) -> str:
    """In words too where there is room: with one arm beside the baseline."""
    if change is None:
        return "-"
    if change.ratio is None:
        found = change.difference
        return "-" if found is None else formats.points(found.value, found.low, found.high)
    return formats.ratio(change.ratio) if in_words else formats.times(change.ratio)


def _agreement_cells(report: ComparisonReport, notes: _Footnotes) -> list[str]:
    cells = ["same predictions", ""]
    for found in report.agreement[1:]:
        if found is None or found.share is None:
            cells += [
                f"not known {notes.mark((found.reason if found else None) or 'no reason recorded')}",
                "",
            ]
        else:
            cells += [quantity(found.share.value, "share", found.share.margin), ""]
    return cells


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


def _speed_table(report: ComparisonReport) -> Table:
    speed = report.speed
    assert speed is not None
    rows = []
    show = formats.ratio if len(report.arms) == 2 else formats.times
    for batch in speed.batches:
        cells = [f"batch of {batch.batch}", quantity(batch.seconds[0], "seconds")]
        for seconds, found in zip(batch.seconds[1:], batch.ratios[1:], strict=True):
            spread = (
                ""
                if found.low is None or found.high is None
                else f", {formats.interval(found.low, found.high)}"
            )
            cells += [quantity(seconds, "seconds"), show(found.value) + spread]
        rows.append(cells)
    note = (
        f"Measured now on this machine ({speed.device}, threads: {speed.threads}, fp32), sequences of "
        f"{speed.length:,} steps, in alternation: medians of {speed.rounds} rounds, ratios paired by round, "
        "with the 95 % interval of their median."
    )
    seeds = {tuple(arm.seeds) for arm in report.arms}
    if any(len(s) > 1 for s in seeds):
        note += f" One run each: {', '.join(arm.checkpoint for arm in report.arms)}."
    notes = [note, BUSY] if speed.busy else [note]
    return Table("Inference, one forward pass", _columns([s.label for s in report.arms]), rows, notes)


def _layer_table(report: SpectrumReport) -> Table:
    rows = [
        [
            layer.layer,
            f"{layer.start_order} -> {layer.order}" if layer.start_order != layer.order else str(layer.order),
            f"{layer.hsv[0]:.3g}",
            f"{layer.decay:.1e}",
            "-" if layer.spectral_radius is None else f"{layer.spectral_radius:.6f}",
            "-" if layer.poles is None else f"{layer.real_poles} of {layer.poles}",
        ]
        for layer in report.layers
    ]
    columns = ["layer", "order", "largest HSV", "smallest / largest", "spectral radius", "real poles"]
    real = report.unjudged is None
    notes = [
        f"HSV: Hankel singular values of the {report.realization} realization, "
        f"{formats.summed_gramians(report.gramian, real, report.calibration_batches, horizon)}."
        for horizon in dict.fromkeys(layer.horizon for layer in report.layers if layer.variant is None)
    ]
    variants = {layer.kind: layer.variant for layer in report.layers if layer.variant is not None}
    for kind, variant in variants.items():
        notes.append(
            f"HSV of {kind}: singular values of the Gramians on {report.calibration_batches} "
            f"{'training batches' if real else 'batches of random tokens'}, "
            f"those of the {variant} reduction's surrogate; its poles depend on the input."
        )
    if report.data is not None:
        notes.append(f"Batches of {report.data}.")
    if any(layer.systems > 1 for layer in report.layers):
        notes.append("Layers of several systems: spectra are means over them, poles are those of all.")
    return Table("Layers", columns, rows, notes)


def _threshold_table(report: SpectrumReport) -> Table:
    # All blocks of a model have one kind of layer.
    selective = all(layer.variant is not None for layer in report.layers)
    every = [at for layer in report.layers for at in layer.thresholds]
    bounded = any(at.bound is not None for at in every)
    exceptions = _Footnotes()
    rows = [
        [
            layer.layer if i == 0 else "",
            f"{100 * at.energy_threshold:g} %",
            f"{at.values_needed} of {len(layer.hsv)}",
            _order(at.order, at.kernel_order) + (f" {exceptions.mark(at.exception)}" if at.exception else ""),
            formats.percent(at.tail),
            *(("-" if at.bound is None else f"{at.bound:.3g}",) if bounded else ()),
            *(() if bounded else (formats.percent(at.measured_error),)),
            *((formats.percent(at.predicted_error),) if selective else ()),
        ]
        for layer in report.layers
        for i, at in enumerate(layer.thresholds)
    ]
    columns = [
        "layer",
        "energy kept at least",
        "HSV it takes",
        "order",
        "energy discarded",
        "H-infinity error at most" if bounded else "recurrence's error\nmeasured",
        *(("\npredicted",) if selective else ()),
    ]
    notes = ["Orders are those that compress --energy comes to, which keeps as many HSV as fit into them."]
    if not bounded:
        notes.append(RECURRENCE_ERROR)
    if selective:
        notes.append(
            "For layers that depend on their input no H-infinity bound holds; a prediction exists where the decay "
            "is one number a head, and for kept states."
        )
    if any(at.kernel_order not in (None, at.order) for at in every):
        notes.append("In brackets: the order to which mamba-ssm's kernels pad it, so what it costs there.")
    notes += exceptions.lines()
    kind = formats.gramians(report.layers[0].gramian, report.unjudged is None)
    return Table(f"Orders by energy threshold, {kind}", columns, rows, notes)


def _order(order: int, kernel_order: int | None) -> str:
    return str(order) if kernel_order in (None, order) else f"{order} [{kernel_order}]"


def _size_table(report: SpectrumReport) -> Table:
    rows = [
        _size_cells(report.now, report.now),
        *(_size_cells(size, report.now) for size in report.predicted),
    ]
    columns = ["whole model", "states", "parameters", "FLOPs of a sequence", "FLOPs of a training step"]
    notes = [
        f"Counted on models of these orders. A training step has {report.batch_size} sequences, and recurrences in "
        "the form that training on this machine chooses."
    ]
    if report.timing is not None:
        columns.append("step here")
        notes.append(
            f"Step here: seconds of a training step (forward, backward, update), measured now on "
            f"{report.timing.device} (CPU threads: {report.timing.threads}), {report.timing.precision}: medians "
            f"of {report.timing.rounds} rounds in alternation, random data without padding."
        )
        if report.timing.busy:
            notes.append(BUSY)
    return Table("Size and cost at these orders", columns, rows, notes)


def _size_cells(size: ModelSize, now: ModelSize) -> list[str]:
    def cell(value: float, before: float, unit: Unit) -> str:
        text = quantity(value, unit)
        return text if size is now else f"{text}  {value / before:.2f}x"

    name = "now" if size.energy_threshold is None else f"at {100 * size.energy_threshold:g} %"
    cells = [
        name,
        cell(size.total_order, now.total_order, "order"),
        cell(size.parameters, now.parameters, "count"),
        cell(size.inference_flops, now.inference_flops, "flops"),
        cell(size.training_step_flops, now.training_step_flops, "flops"),
    ]
    if size.step_seconds is not None and now.step_seconds is not None:
        cells.append(cell(size.step_seconds, now.step_seconds, "seconds"))
    return cells


def _markdown_row(cells: list[str]) -> str:
    return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    for mark in "\\`*_<":
        text = text.replace(mark, "\\" + mark)
    return " ".join(text.split())
