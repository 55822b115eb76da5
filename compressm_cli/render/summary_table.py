"""The few lines that stay on the terminal when a run is done."""

from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compressm_cli.core.quantities import quantity
from compressm_cli.engine.targets import TargetReport
from compressm_cli.objectives import OBJECTIVES, Metric, recorded_primary
from compressm_cli.render.progress import duration, short_time, speed_change
from compressm_cli.render.table import Table as TextTable
from compressm_cli.render.target_table import target_table

MOST_LAYERS = 6
"""With more layers than this, one line tells their orders together."""
MOST_TARGETS = 12
"""With more numbers that are said than this, some of them are left out."""


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """What a run has come to; of real numbers also how well each is said."""
    console.print(summary_table(summary))
    if (table := targets_of(summary)) is not None:
        console.print(table.rich())
        for note in table.notes:
            console.print(Text(note))


def targets_of(summary: dict[str, Any]) -> TextTable | None:
    """How well each of the real numbers is said; None where a run's model says none."""
    targets = summary["test"].get("targets")
    if not targets:
        return None
    return target_table("test", [TargetReport(**target) for target in targets], MOST_TARGETS, "summary.json")


def summary_table(summary: dict[str, Any]) -> Table:
    """A run's ``summary.json`` as a table: what it was at the start, what it is now."""
    name = f"{summary['recipe']}, seed {summary['seed']}, {summary['steps']:,} steps on {summary['device']}"
    table = Table(title=Text(name, style="bold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for heading in ("start", "final", "change"):
        table.add_column(heading, justify="right")
    for row in summary_rows(summary):
        table.add_row(*(Text(cell) for cell in row))
    return table


def summary_rows(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Its rows: a name, and up to three cells: start, final, change."""
    return [
        *_judged(summary),
        *_orders(summary["orders"]),
        *_axes(summary),
        *_costs(summary),
        *_once(summary),
    ]


def _judged(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    test, validation, metric = summary["test"], summary["validation"], recorded_primary(summary)
    best = validation[f"best_{metric.name}"]
    return [
        (f"test {metric.title}", "", metric.shown(test[metric.name])),
        (
            f"validation {metric.title}",
            "",
            metric.shown(validation[metric.name]),
            "" if best is None else f"best {metric.shown(best)}",
        ),
        *_others(summary, metric),
    ]


def _others(summary: dict[str, Any], primary: Metric) -> list[tuple[str, ...]]:
    """The metrics that were computed beside the primary one, on the test split."""
    kind, test = summary.get("objective"), summary["test"]
    known = OBJECTIVES[kind].METRICS if kind is not None and kind in OBJECTIVES else ()
    return [
        (f"test {m.title}", "", m.shown(test[m.name]))
        for m in known
        if m.name != primary.name and m.name in test
    ]


def _axes(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """Units of all axes of a kind, where there are more or fewer than at the start; states are told by layer."""
    start, final = (summary.get("axes", {}).get(when, {}) for when in ("start", "final"))
    kinds = [kind for kind in {**start, **final} if kind != "states" and start.get(kind) != final.get(kind)]
    return [_row(f"{kind}, all", start.get(kind, 0), final.get(kind, 0)) for kind in kinds]


def _orders(orders: dict[str, dict[str, int]]) -> list[tuple[str, ...]]:
    start, final = orders["start"], orders["final"]
    if len(final) > MOST_LAYERS:
        return [_row(f"orders of {len(final)} layers, summed", sum(start.values()), sum(final.values()))]
    return [_row(f"order of {layer}", start[layer], order) for layer, order in final.items()]


def _costs(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    flops, seconds = summary["flops"], summary["step_seconds"]
    step = "training_start_per_step", "training_final_per_step"
    sequence = "inference_start_per_sequence", "inference_final_per_sequence"
    rows = [
        _row("parameters", summary["parameters"]["start"], summary["parameters"]["final"]),
        _row("FLOPs a training step", *(flops[key] for key in step)),
        _row("FLOPs a sequence", *(flops[key] for key in sequence)),
    ]
    start, final = seconds["start"], seconds["final"]
    if start is not None and final is not None:
        change = "" if start == final else speed_change(start, final)
        rows.append(("time of a step", short_time(start), short_time(final), change))
    return rows


def _once(summary: dict[str, Any]) -> list[tuple[str, ...]]:
    """What has no start to compare with."""
    joules, checks = summary["joules"], summary["checks"]
    electrical = "not measured" if joules["value"] is None else f"{joules['value']:,.0f} J"
    rows: list[tuple[str, ...]] = [
        ("wall time", "", duration(summary["seconds"]["total"])),
        ("joules", "", electrical),
        ("peak memory", "", quantity(summary["peak_memory"]["bytes"], "bytes")),
    ]
    if (budget := summary.get("budget")) and budget["limit"] is not None:
        limit = f"of {quantity(budget['limit'], budget['unit'])}"
        rows.append(("spent of the budget", "", quantity(budget["share"], "share"), limit))
    if checks["made"]:
        undone = f", {checks['rejected']} undone" if checks["rejected"] else ""
        rows.append(("checks", "", f"{checks['made']}", f"{checks['cut']} cut{undone}"))
    return rows


def _row(name: str, start: int, final: int) -> tuple[str, ...]:
    change = f"{final / start:.2f}x" if start and start != final else ""
    return name, _number(start), _number(final), change


def _number(value: int) -> str:
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= size:
            return f"{value / size:.2f} {prefix}"
    return f"{value:,}"
