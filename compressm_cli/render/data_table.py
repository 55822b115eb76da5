"""What was read of the user's files, as a small table."""

from compressm_cli.data.report import Report, SplitReport
from compressm_cli.render.table import Table

MOST_CLASSES = 12
"""With more classes than this, one line tells of them together."""


def data_table(report: Report) -> Table:
    """A column a split; below it what a step is, what became of the numbers, and what is left out."""
    splits = list(report.splits.values())
    rows = [["rows", *(f"{split.rows:,}" for split in splits)], *_classes(splits)]
    rows.append(["steps, least / median / most", *(_lengths(split) for split in splits)])
    notes = [f"A step is {report.inputs}.", *(f"{_capital(told)}." for told in report.numbers)]
    for key, files in report.files.items():
        notes.append(f"{_capital(key)} is read of {len(files):,} files, {files[0]!r} to {files[-1]!r}.")
    for key, reasons in report.left_out.items():
        counts = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
        notes.append(f"Left out of {key}: {counts}.")
    for key, count in report.filled.items():
        notes.append(f"{count:,} of the rows read for {key} end in NaN or empty: taken as shorter series.")
    return Table("What was read", ["", *report.splits], rows, notes)


def _classes(splits: list[SplitReport]) -> list[list[str]]:
    counts = [split.classes for split in splits if split.classes is not None]
    if len(counts) < len(splits):
        return []
    names = list(counts[0])
    if len(names) <= MOST_CLASSES:
        return [[f"of class {name!r}", *(f"{count[name]:,}" for count in counts)] for name in names]
    spread = (f"{min(count.values()):,} to {max(count.values()):,}" for count in counts)
    return [[f"of each of {len(names):,} classes", *spread]]


def _lengths(split: SplitReport) -> str:
    least, median, most = split.lengths
    return f"{most:,}" if least == most else f"{least:,} / {median:,g} / {most:,}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
