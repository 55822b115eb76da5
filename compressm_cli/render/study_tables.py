"""A study as tables: the arms, their grids of learning rates, and what the sizes of a sweep come to."""

from compressm_cli.core.quantities import quantity
from compressm_cli.core.text import counted
from compressm_cli.objectives import Metric
from compressm_cli.render.table import BUSY, Table, plain
from compressm_cli.reports.estimates import Estimate
from compressm_cli.studies import rates
from compressm_cli.studies.results import Results
from compressm_cli.studies.verdict import Row, Verdict, judge

UNKNOWN = "-"


def study_tables(results: Results, verdict: Verdict) -> list[Table]:
    """The arms, then the grids."""
    return [_arms_table(results, verdict), _grid_table(results, verdict)]


def study_lines(results: Results, verdict: Verdict) -> list[str]:
    """In words: the whole, regret, how much was compared, and what is not known."""
    lines = [verdict.sentence]
    if (regret := verdict.regret) is not None:
        metric = results.primary.metric()
        by = f"{_spread(regret.regret, metric)} {_points(metric)}".strip()
        lines.append(
            f"Regret: {regret.best} is the best fixed size of a tuned sweep at equal FLOPs, by validation. Its test "
            f"{metric.title} is better by {by} (below zero: the method is better). The sweep took "
            f"{counted(regret.runs, 'run')} and {quantity(regret.flops, 'flops')}, the method "
            f"{counted(regret.method_runs, 'run')} and {quantity(regret.method_flops, 'flops')}."
        )
    if verdict.comparisons:
        lines.append(
            f"{counted(verdict.comparisons, 'comparison')} at 95 % each, not corrected for their number: where nothing "
            f"differed, about {0.05 * verdict.comparisons:.1f} of them would be called better or worse by chance."
        )
    return [*lines, *(f"Not known: {what}" for what in verdict.unknown)]


def study_markdown(results: Results) -> str:
    """The whole report, as it stands in a document."""
    verdict = judge(results)
    tables = [table.markdown() for table in study_tables(results, verdict)]
    lines = "".join(f"- {plain(line)}\n" for line in study_lines(results, verdict))
    return "\n".join([*tables, lines])


def _arms_table(results: Results, verdict: Verdict) -> Table:
    metric = results.primary.metric()
    columns = [
        "arm",
        "learning\nrate",
        f"test {metric.title}{', %' if metric.unit == 'share' else ''}",
        f"gain of the\nmethod{', points' if metric.unit == 'share' else ''}",
        "by\nseed",
        "the method\nis",
        "orders",
        "training\nFLOPs",
        "seconds",
        f"{results.samples} a\nparameter",
    ]
    notes = [f"{row.arm.name}: {row.arm.about}." for row in verdict.rows if row.runs]
    notes.append(
        f"± is half the 95 % t-interval over {counted(len(results.seeds), 'seed')}. The gain of the method is paired "
        "by seed, and positive where it is better; + and - tell it seed by seed. Better or worse: the interval of "
        "the gain leaves out zero. Learning rates are those that are best on the validation split."
    )
    if any(row.is_hindered for row in verdict.rows):
        notes.append(BUSY)
    rows = [_cells(row, metric) for row in verdict.rows if row.runs]
    return Table(
        f"{results.recipe}: {metric.title} of the method and of its alternatives", columns, rows, notes
    )


def _cells(row: Row, metric: Metric) -> list[str]:
    assert row.rate is not None
    per_parameter = row.samples_a_parameter
    return [
        row.arm.name,
        f"{row.rate:.3g}{'' if row.is_bracketed else ' (edge)'}",
        UNKNOWN if row.test is None else _spread(row.test, metric),
        UNKNOWN if row.gain is None else _spread(row.gain, metric),
        row.signs or UNKNOWN,
        row.word or UNKNOWN,
        ", ".join(row.orders),
        UNKNOWN if row.flops is None else quantity(row.flops, "flops"),
        UNKNOWN
        if row.seconds is None
        else f"({row.seconds:.0f})"
        if row.is_hindered
        else f"{row.seconds:.0f}",
        UNKNOWN if per_parameter is None else f"{per_parameter:.3g}",
    ]


def _grid_table(results: Results, verdict: Verdict) -> Table:
    """Means on the validation split; the chosen rate of each arm in brackets."""
    metric, rows = results.primary.metric(), []
    powers = sorted({power for row in verdict.rows for power in results.means(row.arm.name)})
    for row in verdict.rows:
        means = results.means(row.arm.name)
        if not means:
            continue
        chosen = rates.best(means, results.primary.higher_is_better)
        cells = []
        for power in powers:
            value = means.get(power)
            text = "" if power not in means else "failed" if value is None else _number(value, metric)
            cells.append(f"[{text}]" if power == chosen else text)
        rows.append([row.arm.name, *cells])
    columns = ["arm", *(f"{rates.rate(results.rate, power):.3g}" for power in powers)]
    unit = ", %" if metric.unit == "share" else ""
    note = "Means over the seeds; each arm's best rate is in brackets. Failed: some seed did not come to its end."
    return Table(f"Learning rates: validation {metric.title}{unit}", columns, rows, [note])


def _points(metric: Metric) -> str:
    return "points" if metric.unit == "share" else ""


def _spread(estimate: Estimate, metric: Metric) -> str:
    number, margin = _number(estimate.value, metric), estimate.margin
    return number if margin is None else f"{number} ± {_number(margin, metric)}"


def _number(value: float, metric: Metric) -> str:
    """Shares in percent with two digits."""
    return f"{100 * value:.2f}" if metric.unit == "share" else f"{value:.4g}"
