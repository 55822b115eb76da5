"""What could leave of a network, as a table."""

from collections.abc import Mapping

from compressm_cli.core.quantities import quantity
from compressm_cli.pruning import AxesReport, AxisReport
from compressm_cli.render.table import Table


def axes_table(report: AxesReport) -> Table:
    """A row for each axis, and below what stays, and why."""
    worth = "loss without a unit, predicted" if report.price else f"{report.score} of a unit"
    columns = ["axis", "units", "FLOPs\na unit", "parameters\na unit", "least", "median", "most"]
    rows = [
        [
            f"{axis.axis} (+{len(axis.tied)} tied)" if axis.tied else axis.axis,
            str(axis.units),
            quantity(axis.flops, "flops"),
            f"{axis.parameters:,.0f}",
            *_scores(axis),
        ]
        for axis in report.axes
    ]
    unknown = {axis.axis: axis.reason for axis in report.axes if axis.reason is not None}
    notes = [
        *(f"stays: {why}: {names}" for why, names in _by_reason(report.pinned).items()),
        *(f"no score: {why}: {names}" for why, names in _by_reason(unknown).items()),
        f"all: {quantity(report.flops, 'flops')}, {report.parameters:,.0f} parameters",
    ]
    title = f"least, median, most: {worth}" if rows else "nothing to cut, because"
    return Table(title, columns, rows, notes)


def _by_reason(reasons: Mapping[str, str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name, why in reasons.items():
        found.setdefault(why, []).append(name)
    return {why: ", ".join(names) for why, names in found.items()}


def _scores(axis: AxisReport) -> tuple[str, str, str]:
    if axis.scores is None:
        return "-", "-", "-"
    least, _, median, _, most = (f"{value:.2g}" for value in axis.scores)
    return least, median, most
