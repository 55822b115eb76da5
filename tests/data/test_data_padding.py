"""Series that were filled up to one length with NaN, empty cells or null: shorter ones, or a number that is missing."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout
from compressm_cli.data.padding import are_steps
from compressm_cli.render.data_table import data_table

NAN = float("nan")
FILLED = [[1.0, 2.0, 3.0], [4.0, 5.0, NAN], [6.0, NAN, NAN]]
SHORTER = [[1.0, 2.0, 3.0], [4.0, 5.0], [6.0]]
SERIES = {"sequence_column": "s", "label_column": "label"}
WIDE = {"header": False, "label_column": 1, "feature_columns": ["*"]}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def put_wide(rows, nothing="NaN", name="rows.tsv"):
    lines = [
        "\t".join(["ab"[n % 2], *(nothing if v != v else str(v) for v in row)]) for n, row in enumerate(rows)
    ]
    Path(name).write_text("\n".join(lines))
    return Layout(format="tsv", **WIDE), name


def put_json(rows):
    cells = [{"s": [None if v != v else v for v in row], "label": n % 2} for n, row in enumerate(rows)]
    Path("rows.json").write_text(json.dumps(cells))
    return Layout(format="json", **SERIES), "rows.json"


def put_parquet(rows):
    pq.write_table(pa.table({"s": rows, "label": [n % 2 for n in range(len(rows))]}), "rows.parquet")
    return Layout(format="parquet", **SERIES), "rows.parquet"


def put_npz(rows):
    np.savez("rows.npz", s=np.array(rows, dtype=np.float32), label=np.arange(len(rows)) % 2)
    return Layout(format="npz", **SERIES), "rows.npz"


def put_ts(rows):
    lines = [
        ",".join("?" if v != v else str(v) for v in row) + ":" + "ab"[n % 2] for n, row in enumerate(rows)
    ]
    Path("rows.ts").write_text("@classLabel true a b\n@data\n" + "\n".join(lines))
    return Layout(format="ts"), "rows.ts"


def put_empty(rows):
    return put_wide(rows, nothing="")


PUT = [put_wide, put_empty, put_json, put_parquet, put_npz, put_ts]


@pytest.mark.parametrize("put", PUT)
def test_what_fills_a_series_up_is_no_part_of_it(put):
    layout, place = put(FILLED)
    rows = layout.read(place)
    assert [series[:, 0].tolist() for series in rows.content] == SHORTER
    assert rows.filled == 2


@pytest.mark.parametrize("put", PUT)
@pytest.mark.parametrize("gap", [[7.0, NAN, 8.0], [NAN, 7.0, NAN], [NAN, NAN, NAN]])
def test_a_gap_within_a_series_is_an_error(put, gap):
    layout, place = put([*FILLED, gap])
    told = rf"^{place}, (row 4, column|line 6: dimension 1, step \d: a value is missing)"
    with pytest.raises(BadInputError, match=told):
        layout.read(place)


@pytest.mark.parametrize("put", [put_json, put_parquet, put_ts])
def test_series_that_differ_in_length_anyway_are_not_filled_up(put):
    layout, place = put([*FILLED, [1.0, 2.0]])
    with pytest.raises(
        BadInputError, match=r"row 2, column '\w+': step 3: the number is missing or NaN; where it"
    ):
        layout.read(place)


def test_channels_end_together():
    both = [[1.0, 2.0], [3.0, NAN], [NAN, NAN]]
    np.savez("rows.npz", s=np.array([both, [[1.0, 2.0]] * 3]), label=[0, 1])
    with pytest.raises(BadInputError, match="row 1, column 's': step 2: the number is missing or NaN"):
        Layout(format="npz", **SERIES).read("rows.npz")
    rows = [{"x": [1, 2, None], "y": y, "label": n} for n, y in enumerate([[3, 4, None], [3, None, None]])]
    Path("rows.json").write_text(json.dumps(rows))
    layout = Layout(format="json", sequence_column=["x", "y"], label_column="label")
    with pytest.raises(BadInputError, match="row 2, column 'y': step 2: the number is missing or NaN"):
        layout.read("rows.json")
    Path("rows.json").write_text(json.dumps(rows[:1]))
    assert [series.tolist() for series in layout.read("rows.json").content] == [[[1, 3], [2, 4]]]


def test_a_series_of_known_length_is_not_filled_up():
    np.savez("rows.npz", s=np.array(FILLED), label=[0, 1, 0], n=[3, 3, 1])
    with pytest.raises(BadInputError, match="row 2, column 's': step 3: the number is missing or NaN"):
        Layout(format="npz", lengths_column="n", **SERIES).read("rows.npz")


@pytest.mark.parametrize(
    ("columns", "are"),
    [
        (["t0", "t1", "t2"], True),
        (["1", "2", "10"], True),
        (["2024-11", "2024-12", "2025-01"], True),
        (["x9", "x10"], True),
        (["x2", "x1"], False),
        (["height", "weight", "age"], False),
        (["t0", "t1", "s2"], False),
    ],
)
def test_columns_are_steps_by_their_names(columns, are):
    assert are_steps(columns) == are


def test_an_empty_cell_of_a_column_that_is_no_step_is_missing():
    Path("rows.csv").write_text("height,weight,label\n1,2,a\n3,,b\n")
    layout = Layout(format="csv", feature_columns=["height", "weight"], label_column="label")
    with pytest.raises(BadInputError, match="row 2, column 'weight': the cell is empty"):
        layout.read("rows.csv")


def test_the_row_of_a_gap_is_that_of_its_file():
    put_wide(FILLED, name="a.tsv")
    layout, _ = put_wide([[1.0, NAN, 2.0]], name="b.tsv")
    with pytest.raises(BadInputError, match=r"^b.tsv, row 1, column '3': the cell is empty or NaN"):
        layout.read("?.tsv")


def test_how_many_are_shorter_is_told():
    put_wide([[n, n + 1.0, NAN if n % 3 else n * n] for n in range(30)])
    dataset = Files(format="tsv", train="rows.tsv", **WIDE).dataset()
    assert dataset.train.lengths is not None
    assert sorted(set(dataset.train.lengths.tolist())) == [2, 3]
    assert dataset.report is not None
    assert dataset.report.filled == {"train": 20}
    assert (
        "20 of the rows read for train end in NaN or empty: taken as shorter series."
        in data_table(dataset.report).notes
    )


HEADER = (
    "@problemName x\n@timeStamps false\n@missing false\n@univariate true\n@dimensions 1\n@equalLength true\n"
)
TS = HEADER + "@seriesLength 2\n@classLabel true a b\n@data\n1,2:a\n3,4:b\n"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("seriesLength 2", "seriesLength 3"), "line 10: 2 steps, and line 7 says @serieslength 3"),
        (("@seriesLength 2", "@x"), None),
        (("3,4", "3,4,5"), "line 11: 3 steps, and line 7 says @serieslength 2"),
        (("@seriesLength 2\n", ""), None),
        (("@seriesLength 2\n@classLabel true a b\n@data\n1,2", "@classLabel true a b\n@data\n1"),
         "line 10: 2 steps, and the first series 1, and line 6 says @equallength true"),
        (("equalLength true", "equalLength false"), None),
        (("@dimensions 1", "@dimensions 2"), "line 5: @dimensions 2, and line 4 says @univariate true"),
        (("@univariate true\n@dimensions 1", "@univariate false\n@dimensions 2"), "line 10: 1 dimension, and line 4"),
        (("@univariate true\n@dimensions 1", "@dimension 2\n@problemName x"),
         "line 10: 1 dimension, and line 4 says @dimensions 2"),
        (("3,4", "3,4:5,6"), "line 11: 2 dimensions, and line 4 says @univariate true"),
        (("3,4", "3,?"), "line 11: a value is missing, and line 3 says @missing false"),
        (("missing false", "missing maybe"), "line 3: @missing maybe; write true or false"),
        (("seriesLength 2", "seriesLength two"), "line 7: @serieslength two; write a whole number"),
        (("true a b", "false a b"), "line 8: @classlabel false, and names of classes"),
        (("@data", "@missing true\n@data"), "line 9: @missing true, and line 3 says @missing false"),
        (("@data", "@targetLabel true\n@data"), "has @classlabel true and @targetlabel true"),
    ],
)  # fmt: skip
def test_the_header_of_a_ts_file_is_held_against_its_lines(change, told):
    assert change[0] in TS
    Path("rows.ts").write_text(TS.replace(*change))
    if told is None:
        assert len(Layout(format="ts").read("rows.ts")) == 2
        return
    with pytest.raises(BadInputError) as found:
        Layout(format="ts").read("rows.ts")
    assert f"rows.ts, {told}" in str(found.value) or f"rows.ts: {told}" in str(found.value)
