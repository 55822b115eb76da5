"""Times of steps that can be read and look wrong: told, and rows of one time refused."""

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout

LONG = {"id_column": "id", "time_column": "time", "feature_columns": ["x"], "label_column": "label"}
DAY = datetime(2024, 5, 1)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put(times, name="rows.csv", number=0):
    """Two series, or one for each list of times."""
    lines = ["id,time,x,label"]
    for series, steps in enumerate(times):
        lines += [f"s{series},{time},{number + step},{'ab'[series % 2]}" for step, time in enumerate(steps)]
    Path(name).write_text("\n".join(lines))


def warned(*times):
    put(times)
    return list(Layout(format="csv", **LONG).read("rows.csv").warnings)


SECONDS, LATER = list(range(60)), list(range(1_700_000_000, 1_700_000_060))
THOUSAND = "steps of 'time' differ by a factor of about 1,000"


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([SECONDS, [1000 * s for s in SECONDS]], f"{THOUSAND} (1 and 1000): where some times are seconds and others"),
        ([LATER, [1000 * s for s in LATER[:3]]], f"{THOUSAND} (1 and 1000)"),
        ([[*LATER, 1_700_000_099_000]], THOUSAND),
        ([[s / 2 for s in SECONDS], [500.5 * s for s in SECONDS]], f"{THOUSAND} (0.5 and 500.5)"),
        (
            [[DAY + timedelta(seconds=s) for s in SECONDS], [DAY + timedelta(milliseconds=s) for s in SECONDS]],
            f"{THOUSAND} (0.001 and 1)",
        ),
        ([[DAY.date(), DAY + timedelta(hours=1)]], "1 of the 2 times in 'time' are days alone, and count as their"),
        (
            [SECONDS, [5, 6, 7, 5.5, 6.5]],
            "1 of the 2 series go back in time, such as series 's1' in row 64: their rows are ordered by 'time';",
        ),
    ],
)  # fmt: skip
def test_times_that_look_wrong_are_told(times, told):
    found = warned(*times)
    assert [line for line in found if line.startswith(told)], found
    assert len(found) == 1


@pytest.mark.parametrize(
    "times",
    [
        [SECONDS, LATER],
        [SECONDS[::-1], SECONDS],
        [[*range(50), *range(1050, 1100)]],  # one pause
        [[s + s * s for s in SECONDS]],
        [[10**400 * s for s in SECONDS]],
        [[DAY + timedelta(days=s) for s in SECONDS], [DAY]],
        [[(DAY + timedelta(days=s)).date() for s in SECONDS]],
        [[5]],
    ],
)
def test_of_times_that_look_right_nothing_is_told(times):
    assert warned(*times) == []


def test_what_looks_wrong_is_among_the_warnings_of_a_run():
    put([[3, 1, 2], *[[1, 2, 3]] * 19])
    report = Files(format="csv", train="rows.csv", **LONG).dataset().report
    assert [
        line for line in report.warnings if line.startswith("rows.csv: 1 of the 20 series go back in time")
    ]


@pytest.mark.parametrize("times", [[1, 2, 1.0], ["2024-05-01", "2024-05-02", "2024-05-01T00:00"]])
def test_two_rows_of_a_series_have_no_time_together(times):
    put([["9", *[str(time) for time in times]][1:]])
    with pytest.raises(
        BadInputError, match=r"rows.csv, series 's0': rows 1 and 3 both have .* as 'time'; a step has"
    ):
        Layout(format="csv", **LONG).read("rows.csv")
