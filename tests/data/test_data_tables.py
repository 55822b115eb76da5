"""The user's own tables: every value as it stands in the file, or a message that names its place."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas
import pytest
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout

XY = {"feature_columns": ["x", "y"], "label_column": "label"}
TEXT = {"text_column": "text", "label_column": "label"}


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = "".join(json.dumps(row) + "\n" for row in content)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def read(place, file_format, labelled=True, **keys):
    return Layout(format=file_format, **keys).read(place, labelled)


def refused(place, file_format, told, **keys):
    with pytest.raises(BadInputError, match=told):
        read(place, file_format, **keys)


def test_texts_of_json_stand_as_they_are_whatever_is_in_them():
    texts = ["a/b", "1", "2024-05-01", "2024-05-01T12:00:00", '"quoted"', "\u00e9\\n", "true", "null"]
    rows = [{"text": text, "label": "pos" if place % 2 else "neg"} for place, text in enumerate(texts)]
    for file_format in ("jsonl", "json"):
        write("rows", rows if file_format == "jsonl" else json.dumps(rows))
        found = read("rows", file_format, **TEXT)
        assert [text.decode() for text in found.content] == texts
        assert found.labels == ["neg", "pos"] * 4


@pytest.mark.parametrize(
    ("row", "keys", "told"),
    [
        ({"text": 5, "label": "pos"}, TEXT, "row 3, column 'text': 5 is not a text"),
        (
            {"text": "c", "label": 1},
            TEXT,
            "row 3, column 'label': the number 1, where the rows before have texts; write the same in all",
        ),
        ({"text": "c", "label": ["pos"]}, TEXT, r"row 3, column 'label': \['pos'\] cannot be a label"),
        ({"text": "c", "label": True}, TEXT, "row 3, column 'label': true, where the rows before have texts"),
        ({"x": "1", "y": 2}, XY, "row 3, column 'x': the text '1', where the rows before have numbers"),
        ({"x": True, "y": 2}, XY, "row 3, column 'x': true, where the rows before have numbers"),
        ({"x": 1, "y": float("nan")}, XY, "row 3, column 'y': the cell is empty or NaN"),
        ({"x": 1, "y": float("-inf")}, XY, "row 3, column 'y': -inf is too large"),
        ({"x": 1, "y": 10**400}, XY, "row 3, column 'y': the number is too large"),
    ],
)
def test_a_cell_of_another_type_is_named_with_its_row(row, keys, told):
    rows = [{"text": "a", "label": "neg", "x": 1, "y": 2.5}, {"text": "b", "label": "pos", "x": 0.5, "y": 1}]
    write("rows.jsonl", [*rows, {"label": "pos", **row}])
    refused("rows.jsonl", "jsonl", told, **keys)


def test_whole_numbers_beyond_64_bits_are_labels_of_their_own():
    big = 2**64
    write("rows.jsonl", [{"x": n, "y": 0, "label": big + n} for n in range(3)])
    assert read("rows.jsonl", "jsonl", **XY).labels == [str(big + n) for n in range(3)]
    write("rows.jsonl", [{"x": 1, "y": 0, "label": 2.0**53}])
    refused("rows.jsonl", "jsonl", "cannot be a label; write a text or a whole number", **XY)


@pytest.mark.parametrize(
    ("content", "file_format", "told"),
    [
        ('[{"x": 1, "x": 2}]', "json", "row 1: the key 'x' occurs twice; write each once"),
        ('{"x": 1, "y": 2}\n{"y": 1, "y": 2}', "jsonl", "row 2: the key 'y' occurs twice"),
        ('{"x": {"0": 1}, "y": {"0": 2}}', "json", r'columns one after the other; write .*orient="records"'),
        ('{\n"x": [1, 2],\n"y": [1, 2]\n}', "jsonl", "columns one after the other; write a list of objects"),
        ('{"data": [{"x": 1}], "n": 1}', "json", "an object, with a list as 'data'; write that list alone"),
        ('{"x": 1, "y": 2}', "json", "one object; write a list of objects"),
        ("[[1, 2], [3, 4]]", "json", r'row 1: a list; write an object .*orient="records"'),
        ("[1, 2]\n[3, 4]\n", "jsonl", "row 1: a list; write an object"),
        ('"text"', "json", "the text 'text'; write a list of objects"),
        ('{"x": 1}\n{"x": }\n', "jsonl", r"rows, line 2: cannot be read as jsonl: Expecting value"),
        ('[{"x": 1},]', "json", "rows: cannot be read as json: "),
        ("[" * 100_000, "json", "rows: cannot be read as json: "),
    ],
)
def test_other_json_is_refused_with_what_to_write(content, file_format, told):
    write("rows", content)
    refused("rows", file_format, told, **XY)


def test_a_list_and_lines_of_objects_are_both_read():
    rows = [{"x": n, "y": 0.5, "label": "a"} for n in range(2)]
    for content in (json.dumps(rows), "\n".join(map(json.dumps, rows)), json.dumps(rows, indent=1)):
        for file_format in ("json", "jsonl"):
            found = read(write("rows", content), file_format, **XY)
            assert np.stack(found.content)[:, :, 0].tolist() == [[0.0, 0.5], [1.0, 0.5]]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (["yes", "no", "yes "], ["yes", "no", "yes "]),
        ([1, 0, 2], ["1", "0", "2"]),
        ([1.0, 0.0, 2.0], ["1.0", "0.0", "2.0"]),
    ],
)
def test_a_class_has_one_name_in_all_formats(values, names):
    table = pandas.DataFrame({"x": [1, 2, 3], "y": [1, 2, 3], "label": values})
    table.to_csv("rows.csv", index=False)
    table.to_csv("rows.tsv", index=False, sep="\t")
    table.to_json("rows.json", orient="records")
    table.to_json("rows.jsonl", orient="records", lines=True)
    table.to_parquet("rows.parquet")
    for file_format in ("csv", "tsv", "json", "jsonl", "parquet"):
        assert read(f"rows.{file_format}", file_format, **XY).labels == names


def test_numbers_are_read_in_double_precision():
    seconds = [1_700_000_000.25 + n for n in range(3)]
    table = pandas.DataFrame({"x": seconds, "y": [0, 1, 2], "label": ["a", "b", "a"]})
    table.to_csv("rows.csv", index=False)
    table.to_parquet("rows.parquet")
    for file_format in ("csv", "parquet"):
        found = np.stack(read(f"rows.{file_format}", file_format, **XY).content)
        assert found.dtype == np.float64
        assert found[:, 0, 0].tolist() == seconds


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("x,y,label\n1_000,2,a\n", "row 1, column 'x': '1_000' is not a number"),
        (
            'x,y,label\n1,2,a\n"[0.1 0.2\n 0.3]",2,a\n',
            r"row 2, column 'x': .* but a list printed as text \(write lists",
        ),
        (
            'x,y,label\n"1,5",2,a\n',
            r"row 1, column 'x': '1,5' is not a number \(write a point before decimals, or say data\.decimal=comma\)",
        ),
        ('x,y,label\n"1"0,2,a\n', "line 2: cannot be read as csv: .*write a quote within it twice"),
        (
            'x,y,label\n1,2,"a\n1,2,b\n',
            "line 3: cannot be read as csv: .*put quotes around the whole of a cell",
        ),
        ("x;y;label\n1;2;a\n", "has no column 'x'; its columns are 'x;y;label'; perhaps .* separated by ';'"),
        ("1,2,0\n3,4,1\n", r"the first line is numbers, .*write data.header=false"),
    ],
)
def test_what_a_csv_holds_is_not_guessed(content, told):
    refused(write("rows.csv", content), "csv", told, **XY)


def test_other_signs_between_cells_and_files_without_a_header():
    write("rows.csv", "x;y;label\n1,5;2;a\n".replace(",", "."))
    assert read("rows.csv", "csv", delimiter=";", **XY).content[0][:, 0].tolist() == [1.5, 2.0]
    write("ucr.tsv", "1\t0.5\t0.25\n-1\t1e-3\t2\n")
    found = read("ucr.tsv", "tsv", header=False, label_column=1, feature_columns=["*"])
    assert found.labels == ["1", "-1"]
    assert np.stack(found.content)[:, :, 0].tolist() == [[0.5, 0.25], [0.001, 2.0]]
    assert found.columns == ["2", "3"]


def test_text_may_be_packed_by_gzip():
    text = "x,y,label\n1,2,a\n"
    assert read(write("rows.csv.gz", gzip.compress(text.encode())), "csv", **XY).labels == ["a"]
    packed = gzip.compress(b'{"x": 1, "y": 2, "label": "b"}\n')
    assert read(write("rows.jsonl.gz", packed), "jsonl", **XY).labels == ["b"]
    refused(
        write("bad.csv.gz", gzip.compress(text.encode())[:-9]),
        "csv",
        r"bad\.csv\.gz: cannot be read as csv",
        **XY,
    )
    refused(write("bad.csv.gz", text), "csv", r"bad\.csv\.gz: not packed by gzip, as its name says", **XY)
    for name, kind in (("bad.csv", "csv"), ("bad.jsonl", "jsonl")):
        file = write(name, packed)
        refused(file, kind, rf"{name}: gzip has packed it; let its name end in \.gz", **XY)


def test_columns_by_pattern_are_in_natural_order():
    names = [f"t{n}" for n in (10, 2, 9, 1)]
    write("rows.csv", f"id,{','.join(names)},label\n7,10,2,9,1,a\n")
    for patterns in (["t*"], ["[t1..t2]", "t9", "t10"], ["t?", "t10"]):
        found = read("rows.csv", "csv", feature_columns=patterns, label_column="label")
        assert found.content[0][:, 0].tolist() == [1.0, 2.0, 9.0, 10.0]
        assert found.columns == ["t1", "t2", "t9", "t10"]
    everything = read("rows.csv", "csv", feature_columns=["*"], label_column="label")
    assert everything.content[0][:, 0].tolist() == [7.0, 1.0, 2.0, 9.0, 10.0]
    write("stars.csv", "t*,t1,label\n5,6,a\n")
    assert read("stars.csv", "csv", feature_columns=["t*"], label_column="label").columns == ["t*"]
    for patterns, told in (
        (["u*"], "no column is called 'u.'; its columns are 'id', 't10'"),
        (["[t1..t3]"], "has no column 't3'"),
        (["[t1..t99999999999]"], "has no column 't3'"),
        ([f"[t1..t{'9' * 5000}]"], "no range of columns"),
        (["[t3..t1]"], r"no range of columns: \[t3..t1\]"),
        (["t*", "t1"], "column 't1' is chosen twice"),
    ):
        refused("rows.csv", "csv", told, feature_columns=patterns, label_column="label")


def test_numbers_that_are_too_long_for_one_are_names():
    name = "t" + "9" * 5000
    write("rows.csv", f"t10,{name},t9,label\n1,2,3,a\n")
    assert read("rows.csv", "csv", feature_columns=["t*"], label_column="label").columns == [
        "t9",
        "t10",
        name,
    ]


def test_a_model_takes_the_columns_that_it_was_trained_on():
    rows = "".join(f"{n},{n},{'ab'[n % 2]}\n" for n in range(10))
    write("train.csv", "t0,t1,label\n" + rows)
    keys = {"format": "csv", "feature_columns": ["t*"], "label_column": "label"}
    encoding = Files(train="train.csv", **keys).load().encoding
    write("other.csv", "t1,t0\n1,0\n")
    values, _ = encoding.inputs.encode(Layout(**keys).read("other.csv", labelled=False))
    assert values[0, :, 0].tolist() == [0.0, 1.0]
    write("other.csv", "t0,t1,t2\n1,0,0\n")
    with pytest.raises(
        BadInputError, match=r"columns 't0' to 't2' \(3\), and the model takes 't0' to 't1' \(2\).*'t2'"
    ):
        encoding.inputs.encode(Layout(**keys).read("other.csv", labelled=False))


STEPS = [
    ("b", 3, 30.0, "no"),
    ("a", 10, 3.0, "yes"),
    ("a", 9, 2.0, "yes"),
    ("b", 1, 10.0, "no"),
    ("a", 8, 1.0, "yes"),
]
LONG = {"feature_columns": ["u", "v"], "label_column": "label", "id_column": "id", "time_column": "t"}


def long_rows(steps=STEPS):
    return [{"id": i, "t": t, "u": u, "v": -u, "label": label} for i, t, u, label in steps]


def test_a_table_of_steps_becomes_one_series_an_id_in_order_of_time():
    pandas.DataFrame(long_rows()).to_csv("rows.csv", index=False)
    pandas.DataFrame(long_rows()).to_parquet("rows.parquet")
    for file_format in ("csv", "parquet"):
        found = read(f"rows.{file_format}", file_format, **LONG)
        assert found.names == ["b", "a"]
        assert found.labels == ["no", "yes"]
        assert found.channels == ["u", "v"]
        assert [series.tolist() for series in found.content] == [
            [[10.0, -10.0], [30.0, -30.0]],
            [[1.0, -1.0], [2.0, -2.0], [3.0, -3.0]],
        ]
    unlabelled = pandas.DataFrame(long_rows()).drop(columns="label")
    unlabelled.to_csv("rows.csv", index=False)
    assert read("rows.csv", "csv", labelled=False, **LONG).labels is None


def test_days_and_months_are_no_times():
    for time, fits in (("02.01", False), ("007.5", False), ("30.01", True), ("0.5", True), ("007", True)):
        write("rows.csv", f"id,t,u,v,label\na,{time},1,2,x\n")
        if fits:
            assert len(read("rows.csv", "csv", **LONG)) == 1
            continue
        with pytest.raises(
            BadInputError, match=rf"row 1, column 't': '{time}' .*; write dates as 2024-05-01"
        ):
            read("rows.csv", "csv", **LONG)


def test_a_model_takes_the_channels_that_it_was_trained_on():
    write("long.jsonl", [{"id": n, "u": n, "v": -n, "label": "ab"[n % 2]} for n in range(10)])
    write("lists.jsonl", [{"u": [n, 0], "v": [-n, 0], "label": "ab"[n % 2]} for n in range(10)])
    write("other.jsonl", [{"id": 0, "u": 1, "w": 2}, {"id": 0, "u": 3, "w": 4}])
    write("whole.jsonl", [{"s": [[1, 2], [3, 4]], "label": "a"}])
    long = {"format": "jsonl", "id_column": "id", "feature_columns": ["?"], "label_column": "label"}
    lists = {"format": "jsonl", "sequence_column": ["u", "v"], "label_column": "label"}
    for place, keys in (("long.jsonl", long), ("lists.jsonl", lists)):
        inputs = Files(train=place, **keys).load().encoding.inputs
        for other, changes, odd in (
            ("other.jsonl", {**long, "feature_columns": ["?"]}, "'u' to 'w' .*differ in 'w'"),
            ("lists.jsonl", {**lists, "sequence_column": ["v", "u"]}, "'v' to 'u' .*differ in 'v'"),
        ):
            rows = Layout(**changes).read(other, labelled=False)
            with pytest.raises(BadInputError, match=f"its channels are the columns {odd}"):
                inputs.encode(rows)
        of_one_list = Layout(format="jsonl", sequence_column="s", label_column="label").read("whole.jsonl")
        assert inputs.model_copy(update={"standardization": None}).encode(of_one_list)[0].tolist() == [
            [[1.0, 2.0], [3.0, 4.0]]
        ]


def test_an_id_in_two_files_is_one_series_only_where_times_tell_their_order():
    for name, times in (("a", (1, 4)), ("b", (2, 3))):
        write(
            f"{name}.jsonl",
            [{"id": i, "t": t, "u": t, "v": 0, "label": "x"} for i in ("one", name) for t in times],
        )
    found = read(["a.jsonl", "b.jsonl"], "jsonl", **LONG)
    assert found.names == ["one", "a", "b"]
    assert [series[:, 0].tolist() for series in found.content] == [[1, 2, 3, 4], [1, 4], [2, 3]]
    keys = {key: value for key, value in LONG.items() if key != "time_column"}
    refused(
        ["a.jsonl", "b.jsonl"],
        "jsonl",
        "b.jsonl: series 'one' is in a.jsonl too; name data.time_column",
        **keys,
    )


def test_names_that_nothing_can_write_are_refused():
    write("rows.jsonl", '{"text": "a", "label": "x"}\n{"text": "b", "label": "\\ud800"}\n')
    refused(
        "rows.jsonl", "jsonl", r"row 2, column 'label': the label '\\ud800' is no text that UTF-8", **TEXT
    )
    write("rows.jsonl", '{"text": "a", "\\ud800": 1}\n')
    keys = {"text_column": "text", "target_columns": ["\ud800"]}
    refused("rows.jsonl", "jsonl", r"column '\\ud800' is no text that UTF-8 can write; rename it", **keys)


def test_times_are_numbers_or_dates_and_are_compared_exactly():
    nanoseconds = 1_700_000_000_000_000_000  # beyond what a float tells apart
    for times in (
        [nanoseconds + 1, nanoseconds],
        ["2024-01-02", "2024-01-01T23:59:59"],
        ["10", "9.5"],
    ):
        table = [
            {"id": "a", "t": t, "u": u, "v": 0, "label": "x"} for t, u in zip(times, (2, 1), strict=True)
        ]
        assert read(write("rows.jsonl", table), "jsonl", **LONG).content[0][:, 0].tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("steps", "told"),
    [
        (
            [*STEPS, ("a", 9, 0.0, "yes")],
            "series 'a': rows 3 and 6 both have 9 as 't'; a step has a time of its own",
        ),
        (
            [*STEPS, ("a", 11, 0.0, "no")],
            "series 'a': column 'label' is 'yes' in one of its rows and 'no' in another",
        ),
        (
            [*STEPS, ("a", "later", 0.0, "yes")],
            "row 6, column 't': 'later' is no time; write a number, or a date and time",
        ),
        (
            [*STEPS, ("a", "2024-01-01", 0.0, "yes")],
            "row 6, column 't': .*, where the rows before have numbers",
        ),
        ([*STEPS, (None, 11, 0.0, "yes")], "row 6, column 'id': the id is missing"),
    ],
)
def test_steps_that_do_not_fit_together_are_refused(steps, told):
    refused(write("rows.jsonl", long_rows(steps)), "jsonl", told, **LONG)


def test_lists_of_numbers_are_series():
    flat = [[1, 2.5], [3, 4, 5]]
    deep = [[[1, 2], [3, 4], [5, 6.5]], [[7, 8]]]
    table = [{"s": s, "d": d, "label": label} for s, d, label in zip(flat, deep, "ab", strict=True)]
    write("rows.jsonl", table)
    pandas.DataFrame(table).to_parquet("rows.parquet")
    for file_format in ("jsonl", "parquet"):
        found = read(f"rows.{file_format}", file_format, sequence_column="s", label_column="label")
        assert [series[:, 0].tolist() for series in found.content] == flat
        assert found.channels == ["value"]
        found = read(f"rows.{file_format}", file_format, sequence_column="d", label_column="label")
        assert [series.tolist() for series in found.content] == deep
        assert found.channels == ["d[1]", "d[2]"]


def test_a_column_of_lists_may_be_one_channel():
    write("rows.jsonl", [{"a": [1, 2], "b": [3, 4], "label": "x"}, {"a": [5], "b": [6], "label": "y"}])
    found = read("rows.jsonl", "jsonl", sequence_column=["b", "a"], label_column="label")
    assert [series.tolist() for series in found.content] == [[[3.0, 1.0], [4.0, 2.0]], [[6.0, 5.0]]]
    assert found.channels == ["b", "a"]
    write("rows.jsonl", [{"a": [1, 2], "b": [3], "label": "x"}])
    refused(
        "rows.jsonl",
        "jsonl",
        "row 1: column 'b' has 1 steps, and 'a' has 2",
        sequence_column=["a", "b"],
        label_column="label",
    )


@pytest.mark.parametrize(
    ("cell", "told"),
    [
        ([], "the list is empty"),
        (
            "[1, 2]",
            r"'\[1, 2\]' is not a list of numbers, one a step \(a text that looks like a list is none\)",
        ),
        (None, "the cell is empty"),
        ([None, 1], "step 1: the number is missing or NaN"),
        ([1, [2]], "step 2 has 1 numbers, and the first step the number 1"),
        ([[1, 2], [3]], "step 2 has 1 numbers, and the first step 2 numbers"),
        ([1, "2"], "step 2: '2' is not a number"),
        ([float("nan"), 1], "step 1: the number is missing or NaN"),
        ([[1.0, 1.0]], "2 channels, and the first row has 1"),
    ],
)
def test_a_list_that_is_no_series_is_refused(cell, told):
    write("rows.jsonl", [{"s": [1, 2], "label": "a"}, {"s": cell, "label": "b"}])
    refused("rows.jsonl", "jsonl", f"row 2, column 's': {told}", sequence_column="s", label_column="label")


def test_several_files_are_one_table():
    for part, first in ((10, 8), (9, 4), (1, 0)):
        rows = "".join(f"{n},0,{'ab'[n % 2]}\n" for n in range(first, first + 4))
        write(f"we[i]rd/part-{part}.csv", "x,y,label\n" + rows)
    found = read("we[i]rd/part-*.csv", "csv", **XY)
    assert np.stack(found.content)[:, 0, 0].tolist() == list(map(float, range(12)))
    assert found.name(4) == "1 of part-9.csv"
    listed = read(["we[i]rd/part-9.csv", "we[i]rd/part-1.csv"], "csv", **XY)
    assert np.stack(listed.content)[:, 0, 0].tolist() == [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]
    files = Files(format="csv", train="we[i]rd/part-*.csv", **XY)
    assert files.load().spec.rows == (10, 1, 1)
    there = files.located(Path.cwd())
    assert there.places() == {"train": f"{Path.cwd()}/we[i]rd/part-*.csv"}
    assert there.load().fingerprint == files.load().fingerprint
    lists = Files(format="csv", train=["a.csv", "b.csv"], test="c.csv", **XY)
    assert lists.places() == {"train": "a.csv, b.csv", "test": "c.csv"}
    assert lists.located(Path("/d")).train == ["/d/a.csv", "/d/b.csv"]


def test_a_strange_label_is_told_with_the_name_of_its_row():
    write("all.csv", "x,y,label\n" + "1,2,a\n3,4,b\n" * 5)
    write("t1.csv", "x,y,label\n1,2,a\n")
    write("t2.csv", "x,y,label\n1,3,b\n1,2,c\n")
    with pytest.raises(BadInputError, match=r"t\*\.csv, row 2 of t2\.csv: label 'c' does not occur"):
        Files(format="csv", train="all.csv", test="t*.csv", **XY).load()


def test_files_that_are_no_table_together_are_refused():
    write("a.csv", "x,y,label\n1,2,a\n")
    write("b.csv", "x,y,label\n1,no,a\n")
    write("c.csv", "x,y,z,label\n1,2,3,a\n")
    refused("*.txt", "csv", r"\*\.txt: no file is called so; give a csv file", **XY)
    refused(["a.csv", "a.*"], "csv", "a.csv: named twice", **XY)
    refused(["a.csv", "b.csv"], "csv", "b.csv, row 1, column 'y': 'no' is not a number", **XY)
    refused(
        ["a.csv", "c.csv"],
        "csv",
        "c.csv: patterns choose other columns than of a.csv, such as 'z'",
        feature_columns=["*"],
        label_column="label",
    )
    Path("folder").mkdir()
    refused(
        "folder",
        "csv",
        r"folder: a folder; give a csv file, or a pattern for several such as folder/\*",
        **XY,
    )
    with pytest.raises(BadInputError, match=r"a.csv: is of data.train and of data.test"):
        Files(format="csv", train="*.csv", test="a.csv", **XY).load()
    Path("other.csv").symlink_to("a.csv")
    Path("hard.csv").hardlink_to("a.csv")
    for other in ("other.csv", "hard.csv"):
        with pytest.raises(BadInputError, match=f"{other}: is of data.train and of data.test"):
            Files(format="csv", train="a.csv", test=other, **XY).load()
        refused(
            ["a.csv", other],
            "csv",
            f"{other}: is the same file as a.csv, by a link; name each file once",
            **XY,
        )
    with pytest.raises(ValidationError, match="must be different"):
        Files(format="csv", train=["a.csv", "b.csv"], test="./a.csv", **XY)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"format": "csv", "sequence_column": "s"},
            "the cells of csv are texts; write lists as json, jsonl or parquet",
        ),
        (
            {"format": "json", "header": False, **XY},
            "header, delimiter, decimal and encoding are for csv and tsv",
        ),
        ({"format": "csv", "delimiter": '"', **XY}, "cannot separate cells"),
        ({"format": "csv", "time_column": "t", **XY}, "time_column goes with id_column"),
        ({"format": "csv", "id_column": "i", **TEXT}, "id_column goes with feature_columns"),
        ({"format": "csv", "id_column": "x", **XY}, "'x' is used twice"),
    ],
)
def test_keys_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Layout(**{"label_column": "label", **options})


def scaled(rows=None, standardize="auto", **keys):
    """The encoding of the rows of a table of x and y, and its training split."""
    if rows is not None:
        write("rows.jsonl", rows)
    keys = {**XY, **keys}
    dataset = Files(format="jsonl", train="rows.jsonl", standardize=standardize, **keys).load()
    return dataset.encoding, dataset.train


def test_series_far_from_0_and_1_are_standardized_by_their_training_rows():
    seconds = [{"x": 1.7e9 + n, "y": 1.7e9 + 0.5 + n, "label": n % 2} for n in range(40)]
    encoding, train = scaled(seconds)
    scale = encoding.inputs.standardization
    values = train.inputs.double().numpy()
    assert len(np.unique(values)) == 2 * len(train)  # in single precision alone they would be one number
    np.testing.assert_allclose([values.mean(), values.std()], [0.0, 1.0], atol=1e-6)
    own = np.sort(np.round(scale.undo(values).reshape(-1) * 2) / 2)
    everything = [value for row in seconds for value in (row["x"], row["y"])]
    assert set(own) < set(everything)
    np.testing.assert_allclose(scale.mean, own.mean(), rtol=1e-15)  # of these rows, not of those held out
    assert not np.isclose(scale.mean[0], np.mean(everything), rtol=1e-12)


@pytest.mark.parametrize(
    ("values", "asked", "done"),
    [
        ([0.0, 1.0], "auto", False),
        ([0.0, 19.0], "auto", False),
        ([0.0, 21.0], "auto", True),
        ([0.0, 0.19], "auto", True),
        ([10.0, 11.0], "auto", True),
        ([3.0, 3.0], "auto", False),
        ([11.0, 11.0], "auto", True),
        ([0.0, 1.0], True, True),
        ([1e9, 1e9 + 1], False, False),
    ],
)
def test_when_series_are_standardized(values, asked, done):
    low, high = values
    encoding, _ = scaled([{"x": low, "y": high, "label": n % 2} for n in range(20)], asked)
    assert (encoding.inputs.standardization is not None) == done


def test_numbers_to_be_said_are_targets_in_their_own_order():
    rows = [{"x": n, "y": 0, "price": 1e6 + 10 * n, "area": n / 4} for n in range(20)]
    keys = {"label_column": None, "target_columns": ["price", "area"]}
    encoding, train = scaled(rows, **keys)
    assert encoding.outputs.names == ["price", "area"]
    own = encoding.outputs.decode(train.labels)
    x = train.inputs[:, 0, 0].double().numpy()
    np.testing.assert_allclose(own[:, 0], 1e6 + 10 * x, rtol=1e-9)
    np.testing.assert_allclose(own[:, 1], x / 4, atol=1e-5)
    task = Files(format="jsonl", train="rows.jsonl", **{**XY, **keys})
    assert task.default_objective() == "regression"
    assert (task.spec().targets, task.spec().classes, task.spec().rows) == (2, 0, (16, 2, 2))
    refused(
        "rows.jsonl",
        "jsonl",
        "has no column 'cost'",
        **{**XY, "label_column": None, "target_columns": ["cost"]},
    )
    with pytest.raises(ValidationError, match="label_column is a class and target_columns are numbers"):
        Layout(format="jsonl", target_columns=["price"], **XY)


def test_targets_of_series_of_many_rows():
    rows = [{**row, "goal": 1.5 if row["id"] == "a" else -2} for row in long_rows()]
    keys = {**LONG, "label_column": None, "target_columns": ["goal"]}
    write("rows.jsonl", rows)
    found = read("rows.jsonl", "jsonl", **keys)
    assert found.targets.tolist() == [[-2.0], [1.5]]
    write("rows.jsonl", [{**row, "goal": row["t"]} for row in rows])
    refused(
        "rows.jsonl",
        "jsonl",
        "series 'b': column 'goal' is 1.0 in one of its rows and 3.0 in another",
        **keys,
    )


X = np.arange(24.0).reshape(2, 4, 3)


def test_arrays_of_npz_are_its_columns():
    keys = {"sequence_column": "x", "label_column": "y"}
    np.savez("rows.npz", x=X, y=np.array([7, 3]), z=np.zeros(9))
    found = read("rows.npz", "npz", **keys)
    assert np.array_equal(np.stack(found.content), X)
    assert found.labels == ["7", "3"]
    assert found.channels == ["x[1]", "x[2]", "x[3]"]
    np.savez("rows.npz", x=X[:, :, 0].astype(np.int16), y=np.array(["a", "b"]))
    found = read("rows.npz", "npz", **keys)
    assert np.array_equal(np.stack(found.content)[:, :, 0], X[:, :, 0])
    assert found.labels == ["a", "b"]


@pytest.mark.parametrize("channels", [None, 3])
def test_series_of_unequal_lengths_in_npz_are_padded_or_one_after_another(channels):
    x = X if channels else X[:, :, 0]
    lengths = np.array([2, 4])
    want = [x[0, :2].reshape(2, -1).tolist(), x[1].reshape(4, -1).tolist()]
    keys = {"sequence_column": "x", "label_column": "y", "lengths_column": "n"}
    for array in (x, np.concatenate([x[0, :2], x[1]])):
        np.savez("rows.npz", x=array, y=np.array([0, 1]), n=lengths)
        assert [series.tolist() for series in read("rows.npz", "npz", **keys).content] == want


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X}, "has no column 'y'; its columns are 'x'"),
        ({"x": X, "y": np.zeros(3)}, "array 'y' has 3 rows, and 'x' 2|array 'x' has 2 rows, and 'y' 3"),
        ({"x": X, "y": np.zeros((2, 2))}, r"array 'y' has the shape \(2, 2\), and one entry a row is wanted"),
        ({"x": X[0, 0], "y": np.zeros(3)}, r"array 'x' has the shape \(3,\); wanted is \(rows, steps\)"),
        ({"x": X.astype(str), "y": np.zeros(2)}, "array 'x' is of <U.*; write numbers"),
        ({"x": X, "y": np.array([0.5, 1])}, "row 1, column 'y': 0.5 cannot be a label"),
        ({"x": X * np.nan, "y": np.zeros(2)}, "row 1, column 'x': all numbers are missing or NaN; a series"),
        (
            {"x": np.array([[1], [1, 2]], dtype=object), "y": np.zeros(2)},
            "cannot be read as npz: Object arrays",
        ),
    ],
)
def test_arrays_that_are_no_rows_are_refused(arrays, told):
    np.savez("rows.npz", **arrays)
    refused("rows.npz", "npz", told, sequence_column="x", label_column="y")


@pytest.mark.parametrize(
    ("lengths", "told"),
    [
        ([1, 2, 3], r"array 'x' has the shape \(2, 4, 3\); wanted is with 3 lengths of 6 steps in all"),
        ([1, 5], "wanted is with 2 lengths of 6 steps in all, of 5 at most"),
        ([0, 4], "array 'n' is of int64 .*; lengths are whole numbers from 1 on"),
        ([1.0, 2.0], "array 'n' is of float64"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths, told):
    np.savez("rows.npz", x=X, y=np.zeros(2), n=np.array(lengths))
    refused("rows.npz", "npz", told, sequence_column="x", label_column="y", lengths_column="n")


def test_flat_and_padded_are_not_guessed_where_both_would_fit():
    np.savez("rows.npz", x=np.ones((2, 3)), y=np.zeros(2), n=np.array([1, 1]))
    refused(
        "rows.npz",
        "npz",
        "wanted is with 2 lengths",
        sequence_column="x",
        label_column="y",
        lengths_column="n",
    )


TS = """#comment
@problemName Example
@timeStamps false
@univariate false
@classLabel true walk run
@data
1,2,3:4,5,6:walk
# between
1.5,-2e1:0,1:run
"""


def test_files_of_the_time_series_archives():
    write("rows.ts", TS)
    found = read("rows.ts", "ts")
    assert found.labels == ["walk", "run"]
    assert [series.tolist() for series in found.content] == [[[1, 4], [2, 5], [3, 6]], [[1.5, 0], [-20, 1]]]
    assert found.channels == ["series[1]", "series[2]"]
    assert read("rows.ts", "ts", labelled=False).labels is None
    write(
        "rows.ts",
        TS.replace("@classLabel true walk run", "@targetLabel true")
        .replace("walk", "7")
        .replace("run", "8.5"),
    )
    found = read("rows.ts", "ts", target_columns=["speed"])
    assert found.targets.tolist() == [[7.0], [8.5]]
    assert found.target_names == ["speed"]
    refused(
        "rows.ts", "ts", r"has no @classlabel true; its numbers are named as data.target_columns=\[NAME\]"
    )
    write("rows.ts", "@classLabel false\n@data\n1,2\n3\n")
    assert [series.tolist() for series in read("rows.ts", "ts", labelled=False).content] == [
        [[1], [2]],
        [[3]],
    ]
    refused("rows.ts", "ts", "has no @targetlabel true, so no numbers", target_columns=["speed"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ((":run", ":fly"), "line 9: the class 'fly' is none of the header's, walk, run"),
        (("4,5,6", "4,5"), "line 7: dimension 2 has 2 steps, and dimension 1 3"),
        (("5,6", "?,6"), "line 7: dimension 2, step 2: a value is missing"),
        (("5,6", "x,6"), "line 7: dimension 2, step 2: 'x' is not a number"),
        (("5,6", "nan,6"), "line 7: dimension 2, step 2: a value is missing"),
        (("5,6", "1_0,6"), "line 7: dimension 2, step 2: '1_0' is not a number"),
        (("Stamps false", "Stamps true"), "has time stamps, which are not read"),
        (("@data", "@dat"), "no @data before the series"),
        (("1.5,-2e1:0,1:run", "1.5:run"), "line 9: 1 dimension, and line 4 says @univariate false"),
        (("1.5,-2e1:0,1:run", "1.5:2:3:run"), "row 2, column 'series': 3 channels, and the first row has 2"),
    ],
)
def test_a_damaged_file_of_the_archives_is_refused(change, told):
    write("rows.ts", TS.replace(*change))
    refused("rows.ts", "ts", told)


def test_separators_are_suggested_for_patterns_too():
    write("rows.csv", "t1;t2;label\n1;2;a\n")
    refused(
        "rows.csv",
        "csv",
        r"perhaps they are separated by ';': write it as data\.delimiter",
        feature_columns=["t*"],
        label_column="label",
    )


def test_paths_may_start_at_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/somewhere")
    task = Files(format="csv", train="~/a.csv", test=["~/b.csv", "c~/d.csv"], **TEXT)
    assert (task.train, task.test) == ("/somewhere/a.csv", ["/somewhere/b.csv", "c~/d.csv"])


@pytest.mark.parametrize("share", ["60%", "12.5 %"])
def test_a_share_is_no_percentage(share):
    with pytest.raises(
        ValidationError, match=f"'{share}' is no share; write a number below 0.5, such as 0.1"
    ):
        Files(format="csv", train="a.csv", test=share, **TEXT)


@pytest.mark.parametrize("encoding", [None, "utf-16", "latin-1", "cp1252"])
def test_tables_of_other_programs_are_read_as_they_say(encoding):
    table = "größe;höhe;art\n1,5;-2,25e3;süß\n 3 ;0,125;herb\n"
    write("rows.csv", table.encode(encoding or "utf-8-sig"))
    form = {"delimiter": ";", "decimal": "comma", "encoding": encoding}
    found = read("rows.csv", "csv", feature_columns=["größe", "höhe"], label_column="art", **form)
    assert [row[:, 0].tolist() for row in found.content] == [[1.5, -2250.0], [3.0, 0.125]]
    assert found.labels == ["süß", "herb"]
    for cell in ("1.234,5", "1.5", "1,234,567"):
        write("rows.csv", f"x;y;label\n1;2;a\n{cell};2;a\n")
        told = f"row 2, column 'x': '{cell}' is not a number with a comma before its decimals; write it without a sign"
        refused("rows.csv", "csv", told, delimiter=";", decimal="comma", **XY)


def test_what_is_no_utf8_may_be_named():
    write("rows.csv", "x,y,label\n1,2,süß\n".encode("latin-1"))
    refused("rows.csv", "csv", "save it as UTF-8 text, or name its encoding as data.encoding", **XY)


def test_a_blank_stands_for_any_run_of_them():
    write("rows.csv", "  1.0  2.0 a\n 3   -4.5e1  b  \n\n5 6 c\r\n")
    found = read("rows.csv", "csv", header=False, delimiter=" ", feature_columns=["*"], label_column=3)
    assert [row[:, 0].tolist() for row in found.content] == [[1.0, 2.0], [3.0, -45.0], [5.0, 6.0]]
    assert found.labels == ["a", "b", "c"]
    write("rows.csv", "1 2 a\n3  b\n")
    told = "line 2: 2 cells, but the first line has 3"
    refused("rows.csv", "csv", told, header=False, delimiter=" ", feature_columns=["*"], label_column=3)


TEXTS_OF_ANY_KIND = {
    "csv": "x,y,label\n1,2,a\n3,4,ü\n",
    "tsv": "x\ty\tlabel\n1\t2\ta\n",
    "jsonl": '{"x": 1, "y": 2, "label": "a"}\n',
    "json": '[{"x": 1, "y": 2, "label": "a"}]',
    "ts": "@classLabel true a\n@data\n1,2:a\n",
}


@pytest.mark.parametrize("file_format", TEXTS_OF_ANY_KIND)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("encoding", "said"), [
    ("utf-16", "UTF-16"), ("utf-16-le", "UTF-16-LE"), ("utf-16-be", "UTF-16-BE"), ("utf-32", "UTF-32"),
    ("utf-32-be", "UTF-32"),
])  # fmt: skip
def test_a_text_of_wide_signs_is_called_so(file_format, packed, encoding, said):
    content = TEXTS_OF_ANY_KIND[file_format].encode(encoding)
    name = write(f"rows.{file_format}{'.gz' * packed}", gzip.compress(content) if packed else content)
    keys = {} if file_format == "ts" else XY
    refused(name, file_format, rf"^{name}: a text in {said}; save it as UTF-8 text", **keys)
    if file_format == "csv" and said != "UTF-32":
        assert read(name, "csv", encoding="utf-16", **XY).labels == ["a", "ü"]
        refused(name, "csv", f"a text in {said}; save it", encoding="cp1252", **XY)


@pytest.mark.parametrize("place", [0, 12, 21])
def test_a_byte_of_value_0_is_no_sign_of_a_text(place):
    for file_format in ("csv", "tsv", "ts"):
        text = TEXTS_OF_ANY_KIND[file_format] * 3
        write("rows", text[:place] + "\0" + text[place:])
        told = r"^rows, line \d: a byte of value 0, which is no sign of a text; correct or replace the file"
        refused("rows", file_format, told, **({} if file_format == "ts" else XY))
