"""A study as tables, and in words: what its arms reach and cost, and their grids of learning rates."""

from compressm_cli.core.quantities import quantity
from compressm_cli.core.text import counted
from compressm_cli.objectives import Metric
from compressm_cli.render.table import Table, plain
from compressm_cli.reports.estimates import Estimate
from compressm_cli.studies import rates
from compressm_cli.studies.results import Results
from compressm_cli.studies.verdict import Row, Verdict, judge

UNKNOWN = "-"
HINDERED = (
    "In brackets: the machine was busy with other work meanwhile; these seconds and their ratios say little."
)


def study_tables(results: Results, verdict: Verdict) -> list[Table]:
    """What the arms reach, what they cost, and their grids."""
    return [_arms_table(results, verdict), _costs_table(results, verdict), _grid_table(results, verdict)]


def study_lines(results: Results, verdict: Verdict) -> list[str]:
    """In words: the whole, regret, how much was compared, and what is not known."""
    lines = [verdict.sentence]
    if (regret := verdict.regret) is not None:
        metric = results.primary.metric()
        by = f"{_spread(regret.regret, metric)} {_points(metric)}".strip()
        lines.append(
            f"Regret: {regret.best} is the best of a sweep over fixed sizes at equal FLOPs, by validation. Its test "
            f"{metric.title} is better by {by} (below zero: the method is better). The sweep took "
            f"{counted(regret.runs, 'run')} and {quantity(regret.flops, 'flops')}, the method "
            f"{counted(regret.method_runs, 'run')} and {quantity(regret.method_flops, 'flops')}."
        )
    if verdict.comparisons:
        lines.append(
            f"{counted(verdict.comparisons, 'comparison')} at 95 % each, not corrected for their number: where nothing "
            f"differed, about {0.05 * verdict.comparisons:.2g} of them would be called better or worse by chance."
        )
    return [*lines, *(f"Not known: {what}" for what in verdict.unknown)]


def study_markdown(results: Results) -> str:
    """The whole report, as it stands in a document."""
    verdict = judge(results)
    tables = [table.markdown() for table in study_tables(results, verdict)]
    lines = "".join(f"- {plain(line)}\n" for line in study_lines(results, verdict))
    return "\n".join([*tables, lines])


def _arms_table(results: Results, verdict: Verdict) -> Table:
    """What each arm reaches, and what the method wins over it."""
    metric = results.primary.metric()
    percent, points = (", %", ", points") if metric.unit == "share" else ("", "")
    columns = [
        "arm",
        "learning\nrate",
        f"test\n{metric.title}{percent}",
        f"gain of the\nmethod{points}",
        "by\nseed",
        "the method\nis",
    ]
    rows = [
        [
            row.arm.name,
            f"{row.rate:.3g}{'' if row.is_bracketed else '*'}",
            UNKNOWN if row.test is None else _spread(row.test, metric),
            UNKNOWN if row.gain is None else _spread(row.gain, metric),
            row.signs or UNKNOWN,
            row.word or UNKNOWN,
        ]
        for row in verdict.rows
        if row.rate is not None
    ]
    notes = [
        f"± is half the 95 % t-interval over {counted(len(results.seeds), 'seed')}. The gain of the method is paired "
        "by seed, and positive where it is better; +, - and = tell it seed by seed. Better or worse: the interval of "
        "the gain leaves out zero. Learning rates are those that are best on the validation split."
    ]
    if any(row.rate is not None and not row.is_bracketed for row in verdict.rows):
        notes.append("*: at the edge of its grid.")
    return Table(f"{results.recipe}: the method and its alternatives", columns, rows, notes)


def _costs_table(results: Results, verdict: Verdict) -> Table:
    """What each arm is, and what a run of it took."""
    columns = ["arm", "orders", "training\nFLOPs", "seconds", f"{results.samples} a\nparameter"]
    known = [row for row in verdict.rows if row.rate is not None]
    rows = [
        [
            row.arm.name,
            ", ".join(row.orders),
            UNKNOWN if row.flops is None else quantity(row.flops, "flops"),
            _seconds(row),
            UNKNOWN if row.samples_a_parameter is None else f"{row.samples_a_parameter:.3g}",
        ]
        for row in known
    ]
    notes = [
        "Means over the seeds, of one run each at the chosen rate. Orders are those at the end, layer by layer; "
        "seconds are of all that a run does.",
        *([HINDERED] if any(row.is_hindered for row in known) else []),
        *(f"{row.arm.name}: {row.arm.about}." for row in known),
    ]
    return Table("What the arms are, and what they cost", columns, rows, notes)


def _seconds(row: Row) -> str:
    if row.seconds is None:
        return UNKNOWN
    return f"({row.seconds:.0f})" if row.is_hindered else f"{row.seconds:.0f}"


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
            text = _mean(results, row.arm.name, power)
            cells.append(f"[{text}]" if power == chosen else text)
        rows.append([row.arm.name, *cells])
    columns = ["arm", *(f"{rates.rate(results.rate, power):.3g}" for power in powers)]
    unit = ", %" if metric.unit == "share" else ""
    note = (
        "Means over the seeds; each arm's best rate is in brackets. Failed: some seed did not come to its end, or has "
        "no value."
    )
    return Table(f"Learning rates: validation {metric.title}{unit}", columns, rows, [note])


def _mean(results: Results, arm: str, power: int) -> str:
    """Of an arm at some rate; empty where it was not trained with it."""
    means = results.means(arm)
    if power not in means:
        return ""
    if (value := means[power]) is not None:
        return _number(value, results.primary.metric())
    return "unfinished" if results.is_unfinished(arm, power) else "failed"


def _points(metric: Metric) -> str:
    return "points" if metric.unit == "share" else ""


def _spread(estimate: Estimate, metric: Metric) -> str:
    number, margin = _number(estimate.value, metric), estimate.margin
    return number if margin is None else f"{number} ± {_number(margin, metric)}"


def _number(value: float, metric: Metric) -> str:
    """Shares in percent with two digits."""
    return f"{100 * value:.2f}" if metric.unit == "share" else f"{value:.4g}"
