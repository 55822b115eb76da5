"""A comparison as one HTML file."""

from pathlib import Path

from compressm_cli.render.comparison_plots import comparison_figures
from compressm_cli.render.drawing import Tell
from compressm_cli.render.page import Tile, render_page, write_page
from compressm_cli.render.tables import comparison_tables, seeds_text
from compressm_cli.reports import formats
from compressm_cli.reports.comparison import ComparisonReport
from compressm_cli.reports.estimates import Estimate

TILES = (
    ("total_order", "states"),
    ("parameters", "parameters"),
    ("checkpoint_bytes", "checkpoint bytes"),
    ("inference_flops", "inference FLOPs"),
)


def write_html(report: ComparisonReport, path: Path, tell: Tell) -> None:
    """Render the report into a file; BadInputError where it cannot be written."""
    write_page(path, render_html(report, tell))


def render_html(report: ComparisonReport, tell: Tell) -> str:
    """The page; ``tell`` is told which figures it lacks."""
    names = " and ".join(arm.label for arm in report.arms[1:])
    baseline = report.arms[0].label
    return render_page(
        "comparison.html.j2",
        comparison_figures(report),
        tell,
        title=f"{names} against {baseline}",
        names=names,
        baseline=baseline,
        subtitle="; ".join(f"{arm.label}: {seeds_text(arm.seeds)}" for arm in report.arms),
        tiles=_tiles(report) if len(report.arms) == 2 else [],
        tolerances=report.tolerances,
        broken=report.broken,
        warnings=report.warnings,
        verdict=report.verdict,
        tables=comparison_tables(report),
        arms=report.arms,
        speed_reason=report.speed_reason,
        decoding_reason=report.decoding_reason,
        flop_convention=report.flop_convention,
    )


def _tiles(report: ComparisonReport) -> list[Tile]:
    """The headline of a comparison of two."""
    tiles = []
    change, title = report.rows[0].changes[1], report.rows[0].title
    if change is not None and change.ratio is not None:
        tiles.append(_ratio_tile(change.ratio, title, higher_is_better=report.primary.higher_is_better))
    elif change is not None and change.difference is not None:
        tiles.append(_points_tile(change.difference, title, change.basis))
    rows = {row.key: row for row in report.rows}
    for key, caption in TILES:
        ratio = getattr(rows[key].changes[1], "ratio", None) if key in rows else None
        if ratio is not None:
            tiles.append(_ratio_tile(ratio, caption))
    if report.speed is not None:
        found = report.speed.batches[-1].ratios[1]
        clear = found.low is None or found.high is None or not found.low <= 1 <= found.high
        tiles.append(_ratio_tile(found.value, "inference time", clear))
    return tiles


def _points_tile(found: Estimate, title: str, basis: str) -> Tile:
    """Coloured only where the interval leaves no change out."""
    number = formats.points(found.value)
    if found.low is None or found.high is None:
        return Tile(number, f"{title}, {basis}", "even")
    kind = "even" if found.low <= 0 <= found.high else "won" if found.value > 0 else "lost"
    interval = formats.points(found.value, found.low, found.high).removeprefix(number).strip(" ()")
    return Tile(number, f"{title}, {interval}, {basis}", kind)


def _ratio_tile(ratio: float, caption: str, clear: bool = True, higher_is_better: bool = False) -> Tile:
    number, _, words = formats.ratio(ratio).partition(" ")
    won = (ratio > 1) == higher_is_better
    kind = "even" if not clear or abs(ratio - 1) < 0.005 else "won" if won else "lost"
    return Tile(number, f"{caption} {words}", kind)
