"""Long series as windows, at each step of which the values of the steps that follow are to be said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.rows import Rows
from compressm_cli.data.windows import stretch_sizes, window_count

SHORT = "series (or parts of them) that are shorter than a window and its horizon"


def stretches(rows: Rows, shares: Mapping[str, float]) -> dict[str, Rows]:
    """Each series cut in time: training steps, then those of validation and of test, as far as these have shares."""
    parts: dict[str, list[slice]] = {"train": [], "validation": [], "test": []}
    for series in rows.content:
        sizes = stretch_sizes(len(series), shares.get("validation", 0.0), shares.get("test", 0.0))
        ends = np.cumsum(sizes).tolist()
        for key, start, end in zip(parts, [0, *ends], ends, strict=False):
            parts[key].append(slice(start, end))
    return {key: _cut(rows, taken) for key, taken in parts.items() if key == "train" or key in shares}


def _cut(rows: Rows, taken: list[slice]) -> Rows:
    assert rows.step_targets is not None, "of series to be said on"
    return replace(
        rows,
        content=[np.asarray(series)[part] for series, part in zip(rows.content, taken, strict=True)],
        step_targets=[series[part] for series, part in zip(rows.step_targets, taken, strict=True)],
    )


def windows_of(rows: Rows, split: str, window: int, horizon: int, stride: int) -> Rows:
    """Rows of ``window`` steps, whose targets (rows, window, horizon x targets) are the values of the steps after each.

    Of each step first all targets of the next one, then all of the one after it, ... A series begins with a window, and
    what is left at its end is no row. Raises BadInputError where there is no window at all.
    """
    assert rows.step_targets is not None, "of series to be said on"
    content, targets, names, left_out = [], [], [], Counter(rows.left_out)
    for row, (series, values) in enumerate(zip(rows.content, rows.step_targets, strict=True)):
        count = window_count(len(values) - horizon + 1, window, stride)
        if count < 1:
            left_out[SHORT] += 1
        ahead = [values[step : len(values) - horizon + step] for step in range(1, horizon + 1)]
        following = np.concatenate(ahead, axis=1) if count > 0 else values
        for start in range(0, count * stride, stride):
            content.append(np.asarray(series)[start : start + window])
            targets.append(following[start : start + window])
            names.append(f"{rows.name(row)}, steps {start + 1} to {start + window}")
    if not content:
        raise BadInputError(
            f"{rows.source}: the {split} part is {max(map(len, rows.step_targets)):,} steps at most, and a window of "
            f"{window:,} with a horizon of {horizon:,} takes {window + horizon:,}; write a smaller data.window, other "
            "shares, or give longer series"
        )
    return replace(
        rows,
        content=content,
        targets=np.stack(targets),
        names=names,
        step_targets=None,
        target_names=ahead_names(rows.target_names or [], horizon),
        left_out=left_out,
    )


def ahead_names(names: Sequence[str], horizon: int) -> list[str]:
    """What the targets of a step are called: ``flow+1``, ``flow+2``, ..."""
    return [f"{name}+{ahead}" for ahead in range(1, horizon + 1) for name in names]
