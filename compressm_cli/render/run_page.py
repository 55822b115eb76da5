"""One model as one HTML file: its settings, what was read, how it went, its cuts, its spectrum and what it cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from compressm_cli.core.errors import BadInputError
from compressm_cli.core.quantities import quantity
from compressm_cli.core.text import counted
from compressm_cli.data.report import Report, SplitReport
from compressm_cli.engine.failures import reason
from compressm_cli.objectives import primary_of, recorded_primary
from compressm_cli.recipe import Recipe, load_recipe, recipe_to_mapping, recipe_to_yaml
from compressm_cli.render.comparison_curves import curves_figure
from compressm_cli.render.data_table import data_table
from compressm_cli.render.drawing import Painter, Tell
from compressm_cli.render.page import Tile, render_page, write_page
from compressm_cli.render.plots import checks_of, run_figures, spectrum_figure
from compressm_cli.render.spectrum_tables import spectrum_tables
from compressm_cli.render.summary_table import summary_rows, targets_of
from compressm_cli.render.table import Table
from compressm_cli.reports import formats
from compressm_cli.reports.conditions import shown
from compressm_cli.reports.curves import Line
from compressm_cli.reports.spectrum import SpectrumReport, open_model
from compressm_cli.runs.folder import Run

NO_RUN = "A checkpoint alone has no logs: give the run folder for curves, cuts and costs."
TITLES = {
    "training.png": "Training",
    "orders.png": "Orders",
    "spectra-at-checks.png": "Spectra at the checks",
}
KINDS = ("task", "kind", "method")
"""Settings that say what the others are of: they are told also where they are the default."""
PHASES = ("training", "evaluation", "compression", "compile", "checkpoint")
MOST_KINDS = 3
"""Of units that are told one by one."""


def write_run_page(report: SpectrumReport, path: Path, tell: Tell) -> None:
    """What was analyzed, with the records of its run, as a file; BadInputError where it cannot be written.

    ``tell`` is told which figures it lacks.
    """
    run = None if report.run is None else Run.open(Path(report.run))
    recipe = load_recipe(run.recipe_path) if run is not None else open_model(Path(report.path))[0].recipe
    info = {} if run is None else run.read_info()
    tables, care = _tables(report, run, info)
    tiles, costs = _costs(run) if run is not None and run.is_done else ([], [])
    seeds = ", ".join(map(str, report.seeds))
    text = render_page(
        "run.html.j2",
        _figures(report, run, recipe),
        tell,
        title=f"{report.recipe}, seed {seeds}",
        name=report.recipe,
        subtitle=f"seed {seeds}, step {report.step:,}: {report.chosen}",
        tiles=tiles,
        warnings=care,
        settings=_settings(recipe),
        tables=[*costs, *tables],
        recipe=recipe_to_yaml(recipe),
        origin=_origin(report, info),
        flop_convention=report.flop_convention,
    )
    write_page(path, text)


def _tables(
    report: SpectrumReport, run: Run | None, info: Mapping[str, Any]
) -> tuple[list[Table], list[str]]:
    """What was read, cut and analyzed, and what is to be known of it."""
    care = [] if report.unjudged is None else [f"These spectra say little of the model: {report.unjudged}."]
    if run is None:
        return spectrum_tables(report), [*care, NO_RUN]
    tables: list[Table] = []
    if info.get("data") is not None:
        told = _report(info["data"], run)
        tables.append(data_table(told))
        care += told.warnings
    if not run.is_done:
        care.append(f"The run has not finished (status: {info.get('status', 'unknown')}): no costs are told.")
    return [*tables, *_cuts(checks_of(run)), *spectrum_tables(report)], care


def _costs(run: Run) -> tuple[list[Tile], list[Table]]:
    """What a finished run came to; BadInputError where its summary.json is not what runs write."""
    summary = run.read_summary()
    try:
        rows = [[*row, *[""] * (4 - len(row))] for row in summary_rows(summary)]
        whole = Table("From start to end", ["", "start", "final", "change"], rows)
        targets = targets_of(summary)
        return _tiles(summary), [whole, *([] if targets is None else [targets]), _times(summary)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadInputError(
            f"{run.folder / 'summary.json'}: is not what a run writes ({reason(error)}); the run's record is damaged"
        ) from error


def _figures(report: SpectrumReport, run: Run | None, recipe: Recipe) -> dict[str, Painter]:
    figures: dict[str, Painter] = {}
    if run is not None:
        own, metric = run_figures(run), primary_of(recipe)
        figures |= {TITLES[name]: painter for name, painter in own.items()}
        figures["Validation over FLOPs of training"] = lambda: curves_figure(metric, [""], [[run]], "flops")
        figures["Validation over seconds"] = lambda: curves_figure(metric, [""], [[run]], "seconds")
    if report.layers:
        figures["Hankel spectrum"] = lambda: spectrum_figure(report)
    return figures


def _tiles(summary: dict[str, Any]) -> list[Tile]:
    metric = recorded_primary(summary)
    parameters = [summary["parameters"][when] for when in ("start", "final")]
    tiles = [
        Tile(metric.shown(summary["test"][metric.name]), f"test {metric.title}", "even"),
        *_units(summary),
        _course(parameters, "parameters"),
        Tile(quantity(summary["flops"]["training"], "flops"), "FLOPs of training", "even"),
        Tile(quantity(summary["seconds"]["total"], "seconds"), "wall time", "even"),
    ]
    return [tile for tile in tiles if tile.number]


def _units(summary: dict[str, Any]) -> list[Tile]:
    """How many states there were and are; without any, units of the kinds that were cut."""
    if summary["orders"]["start"]:
        states = [sum(summary["orders"][when].values()) for when in ("start", "final")]
        return [_course(states, "states, all layers")]
    start, final = (summary.get("axes", {}).get(when, {}) for when in ("start", "final"))
    kinds = [kind for kind in start if start[kind] != final.get(kind, 0)][:MOST_KINDS]
    return [_course([start[kind], final.get(kind, 0)], f"{kind}, all") for kind in kinds]


def _course(ends: list[int], caption: str) -> Tile:
    start, final = ends
    if not start:
        return Tile("", caption, "even")
    if start == final:
        return Tile(f"{final:,}", caption, "even")
    kind = "won" if final < start else "lost"
    return Tile(f"{start:,} → {final:,}", f"{caption}, {formats.times(final / start)}", kind)


def _times(summary: dict[str, Any]) -> Table:
    seconds, joules = summary["seconds"], summary["joules"]
    total = seconds["total"]
    rows = [
        [
            phase,
            quantity(seconds[phase], "seconds"),
            f"{100 * seconds[phase] / total:.1f} %" if total else "-",
        ]
        for phase in PHASES
        if phase in seconds
    ]
    notes = [] if joules["value"] is not None else [f"Joules were not measured: {joules['reason']}."]
    return Table(
        "Where the time went",
        ["", "wall time", "share"],
        [*rows, ["total", quantity(total, "seconds"), ""]],
        notes,
    )


def _cuts(checks: list[Line]) -> list[Table]:
    """What was cut or put back at the checks; empty where nothing was looked at."""
    if not checks:
        return []
    cuts = [check for check in checks if check["accepted"] is not None]
    rows = [
        [
            str(check.get("layer", check["unit"])),
            f"{check['step']:,}",
            f"{check['before']:,} -> {check['after']:,}",
            "kept" if check["accepted"] else "undone",
            formats.percent(check.get("tail")),
            formats.percent(check.get("measured_error")),
        ]
        for check in cuts
    ]
    looked = len({check["step"] for check in checks})
    note = (
        f"{counted(len(checks), 'look')} at {counted(looked, 'check')}, of which {len(cuts):,} led to a cut."
    )
    columns = ["unit", "step", "units", "verdict", "energy\ndiscarded", "recurrence's error\nmeasured"]
    reasons = dict.fromkeys(f"{check['reason']}." for check in checks if check["accepted"] is None)
    untouched = [f"Where nothing was cut: {reason}" for reason in list(reasons)[:5]]
    return [Table("Cuts", columns, rows, [note, *untouched])]


def _report(read: Any, run: Run) -> Report:
    """What was read, as run.json has it; BadInputError where that is damaged."""
    try:
        splits = {key: SplitReport(**split) for key, split in read["splits"].items()}
        return Report(**{**read, "splits": splits})
    except (TypeError, KeyError, AttributeError) as error:
        raise BadInputError(
            f"{run.folder / 'run.json'}: data is not what was read ({error}); the run's record is damaged"
        ) from error


def _settings(recipe: Recipe) -> dict[str, str]:
    """By part of the recipe, what is of which kind and what is not the default; the whole recipe is below them."""
    whole, changed = recipe_to_mapping(recipe), recipe.model_dump(mode="json", exclude_defaults=True)
    told = {part: ", ".join(_told(value, changed.get(part), "")) for part, value in whole.items()}
    return {part: text for part, text in told.items() if text and part not in ("name", "output")}


def _told(value: Any, changed: Any, key: str) -> list[str]:
    if isinstance(value, dict):
        others = changed if isinstance(changed, dict) else {}
        found = (_told(one, others.get(name), f"{key}.{name}".lstrip(".")) for name, one in value.items())
        return [text for texts in found for text in texts]
    is_kind = key.rpartition(".")[2] in KINDS and value is not None
    return [f"{key} {shown(value)}".strip()] if is_kind or changed is not None else []


def _origin(report: SpectrumReport, info: Mapping[str, Any]) -> dict[str, str]:
    """Where it is from, as far as that is recorded."""
    git, device = info.get("git") or {}, info.get("device") or {}
    versions = info.get("versions") or {}
    told = {
        "checkpoint": report.checkpoint,
        "run": report.run,
        "command": info.get("command"),
        "began": info.get("started"),
        "ended": info.get("finished"),
        "device": ", ".join(f"{key} {value}" for key, value in device.items()),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "commit": git.get("commit")
        and f"{git['commit']}{' with uncommitted changes' if git.get('dirty') else ''}",
    }
    return {key: str(value) for key, value in told.items() if value}
