"""Inference and decoding, in the tables of ``compare`` and ``bench``."""

from collections.abc import Callable

from compressm_cli.core.quantities import quantity
from compressm_cli.render.table import BUSY, Table
from compressm_cli.reports import formats
from compressm_cli.reports.bench import BenchReport, BenchRow
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.decoding import DecodingReport
from compressm_cli.reports.estimates import Estimate
from compressm_cli.reports.inference import SpeedReport


def speed_table(report: ComparisonReport) -> Table:
    speed = report.speed
    assert speed is not None
    show = formats.ratio if len(report.arms) == 2 else formats.times
    rows = [
        beside(
            f"batch of {batch.batch}",
            [quantity(seconds, "seconds") for seconds in batch.seconds],
            [_ratio(found, show) for found in batch.ratios[1:]],
        )
        for batch in speed.batches
    ]
    note = _measured_now(report, speed, f"sequences of {speed.length:,} steps")
    notes = [note, BUSY] if speed.busy else [note]
    return Table("Inference, one forward pass", columns_of([s.label for s in report.arms]), rows, notes)


def _measured_now(report: ComparisonReport, how: SpeedReport | DecodingReport, what: str) -> str:
    note = (
        f"Measured now on this machine ({how.device}, threads: {how.threads}, fp32), {what}, in alternation: "
        f"medians of {how.rounds} rounds, ratios paired by round, with the 95 % interval of their median."
    )
    seeds = {tuple(arm.seeds) for arm in report.arms}
    if any(len(s) > 1 for s in seeds):
        note += f" One run each: {', '.join(arm.checkpoint for arm in report.arms)}."
    return note


def decoding_table(report: ComparisonReport, decoding: DecodingReport) -> Table:
    first = [quantity(seconds, "seconds") for seconds in decoding.first_token_seconds]
    kept = [quantity(size, "bytes") for size in decoding.state_bytes]
    sizes = [Estimate(size / decoding.state_bytes[0], None, None, 1) for size in decoding.state_bytes]
    rows = [
        _decoding_cells("first token", first, decoding.first_token_ratios),
        _decoding_cells("state of a sequence", kept, sizes),
    ]
    for batch in decoding.batches:
        speeds = [f"{speed:,.0f}" for speed in batch.tokens_per_second]
        rows.append(_decoding_cells(f"tokens/s, {batch.batch} at once", speeds, batch.ratios))
    note = _measured_now(report, decoding, f"prompts of {decoding.prompt:,} steps")
    notes = [note, BUSY] if decoding.busy else [note]
    return Table("Decoding, step by step", columns_of([s.label for s in report.arms]), rows, notes)


def _decoding_cells(name: str, values: list[str], ratios: list[Estimate]) -> list[str]:
    """A figure of each model, and behind those after the first its ratio with its interval."""
    return beside(name, values, [_ratio(found, formats.times) for found in ratios[1:]])


def _ratio(found: Estimate, show: Callable[[float], str]) -> str:
    if found.low is None or found.high is None:
        return show(found.value)
    return f"{show(found.value)}, {formats.interval(found.low, found.high)}"


def bench_decoding_table(report: BenchReport) -> Table | None:
    """A row an order; None where decoding was not measured."""
    first = report.rows[0]
    if first.decoding_reason is not None:
        return None
    columns = ["order", "tokens/s", "faster", "state of a\nsequence", "first\ntoken"]
    about = (
        f"{first.decoding_batch} sequences at once, one time step after the other, fp32, the orders in alternation. "
        f"First token: from a prompt of {first.length:,} steps of one sequence to the scores after it."
    )
    return Table(f"{report.recipe}: decoding", columns, [_bench_cells(row) for row in report.rows], [about])


def _bench_cells(row: BenchRow) -> list[str]:
    assert row.decoding_tokens_per_second is not None
    assert row.decoding_times_faster is not None
    assert row.state_bytes is not None
    assert row.first_token_seconds is not None
    return [
        orders_text(row),
        f"{row.decoding_tokens_per_second:,.0f}",
        formats.times(row.decoding_times_faster),
        quantity(row.state_bytes, "bytes"),
        quantity(row.first_token_seconds, "seconds"),
    ]


def orders_text(row: BenchRow) -> str:
    """The order of all layers, or each layer's."""
    return ", ".join(map(str, row.orders.values())) if row.order is None else str(row.order)


def columns_of(headings: list[str]) -> list[str]:
    """A column for the baseline, and for one other arm two: its value and how it compares; for several one each."""
    first, *others = headings
    return ["", first, *others, "against\nthe baseline"] if len(others) == 1 else ["", *headings]


def beside(name: str, values: list[str], changes: list[str]) -> list[str]:
    """The cells of such columns; ``changes`` are those of all arms but the first."""
    if len(changes) == 1:
        return [name, *values, *changes]
    told = (
        f"{value}\n{change}" if change else value for value, change in zip(values[1:], changes, strict=True)
    )
    return [name, values[0], *told]
