"""Rows that are put into temporary files as they are read: what comes of them is the same, bit for bit."""

import errno
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from test_data_large import MAPS, SPLITS, files_in_use, same

from compressm_cli.core.errors import BadInputError
from compressm_cli.data import encoded, flat, steps
from compressm_cli.data.files import Files
from compressm_cli.data.interface import Dataset
from compressm_cli.data.sources import Form
from compressm_cli.data.sources import csv as csv_source
from compressm_cli.data.sources import json as json_source
from compressm_cli.data.token_files import TokenFiles

CHANCE = np.random.RandomState(0)
ROWS = 80
LABELS = ["yes", "no", "yes ", "3"]
"""Of which two look like one class."""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


def put_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """All rows, in many small parts."""
    monkeypatch.setattr(flat, "LIMIT", 0)
    monkeypatch.setattr(flat, "AT_ONCE", 300)
    monkeypatch.setattr(encoded, "PART", 2000)
    monkeypatch.setattr(steps, "PART", 128)
    for source in (csv_source, json_source):
        monkeypatch.setattr(source, "BATCH", 7)
        monkeypatch.setattr(source, "CHARACTERS", 200)
    monkeypatch.setattr(json_source, "CHUNK", 13)


def texts() -> list[dict[str, Any]]:
    """Some of which are there twice, so that two splits have them."""
    rows = [{"text": f"{'wörd ' * (1 + n % 9)}{n // 2}", "label": LABELS[n % 3]} for n in range(ROWS)]
    return [*rows, *rows[:20], {"text": "one of its class", "label": LABELS[3]}]


def numbers() -> list[dict[str, Any]]:
    values = CHANCE.normal(300.0, 70.0, size=(ROWS, 5))
    rows = [{f"t{place}": value for place, value in enumerate(row)} for row in values.tolist()]
    return [{**row, "label": LABELS[n % 2], "area": n / 3} for n, row in enumerate(rows)]


def series(channels: int | None = None) -> list[dict[str, Any]]:
    sizes = [(1 + n % 11,) if channels is None else (1 + n % 11, channels) for n in range(ROWS)]
    values = [CHANCE.normal(2.0, 50.0, size=size).tolist() for size in sizes]
    return [{"x": value, "label": LABELS[n % 2]} for n, value in enumerate(values)]


def put_csv(rows: list[dict[str, Any]], name: str = "rows.csv", sign: str = ",") -> str:
    lines = [sign.join(rows[0]), *(sign.join(map(str, row.values())) for row in rows)]
    Path(name).write_text("\n".join(lines) + "\n")
    return name


def put_lines(rows: list[dict[str, Any]]) -> str:
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "rows.jsonl"


def put_list(rows: list[dict[str, Any]]) -> str:
    Path("rows.json").write_text(json.dumps(rows, indent=1))
    return "rows.json"


def put_parquet(rows: list[dict[str, Any]]) -> str:
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    pq.write_table(table, "rows.parquet", row_group_size=17)
    return "rows.parquet"


def put_folder() -> str:
    for n, row in enumerate(texts()):
        path = Path("texts", row["label"].strip(), f"{n}.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["text"])
    return "texts"


def task(format_: str, train: Any, **keys: Any) -> Files:
    shares = {"validation": 0.2, "test": 0.2}
    return Files.model_validate(
        {"format": format_, "train": train, **shares, "label_column": "label", **keys}
    )


TEXT: dict[str, Any] = {"text_column": "text"}
STEPS: dict[str, Any] = {"feature_columns": ["t*"]}
LISTS: dict[str, Any] = {"sequence_column": "x"}
MADE: dict[str, Callable[[], Files]] = {
    "texts of csv": lambda: task("csv", put_csv(texts()), **TEXT),
    "cut texts of tsv": lambda: task("tsv", put_csv(texts(), "a.tsv", "\t"), max_length=12, **TEXT),
    "texts of several files": lambda: task(
        "csv", [put_csv(texts()[:30], "1.csv"), put_csv(texts()[30:], "2.csv")], **TEXT
    ),
    "texts of splits of their own": lambda: task(
        "csv", put_csv(texts(), "1.csv"), validation=put_csv(texts()[:9], "2.csv"), **TEXT
    ),
    "texts of json": lambda: task("json", put_list(texts()), **TEXT),
    "texts of parquet": lambda: task("parquet", put_parquet(texts()), **TEXT),
    "texts of a folder": lambda: task("text_folder", put_folder(), label_column=None),
    "columns of csv": lambda: task("csv", put_csv(numbers()), **STEPS),
    "columns to targets": lambda: task(
        "csv", put_csv(numbers()), label_column=None, target_columns=["area"], **STEPS
    ),
    "lists of jsonl": lambda: task("jsonl", put_lines(series()), **LISTS),
    "lists of lists of json": lambda: task("json", put_list(series(3)), **LISTS),
    "lists of parquet": lambda: task("parquet", put_parquet(series()), **LISTS),
    "lists that are filled up": lambda: task(
        "jsonl", put_lines([{**r, "x": r["x"] + [None] * (11 - len(r["x"]))} for r in series()]), **LISTS
    ),
    "columns that are filled up": lambda: task(
        "csv", put_csv([{**row, "t4": ""} if n % 3 else row for n, row in enumerate(numbers())]), **STEPS
    ),
    "a list a channel": lambda: task(
        "jsonl", put_lines([{**row, "y": row["x"][::-1]} for row in series()]), sequence_column=["x", "y"]
    ),
    "lists of one length": lambda: task(
        "jsonl", put_lines([{**r, "x": [1.5, 2.0, 9.0]} for r in series()]), **LISTS
    ),
}


@pytest.mark.skipif(not MAPS.exists(), reason="nothing tells what is mapped")
@pytest.mark.parametrize("kind", MADE)
def test_rows_in_files_give_what_those_in_memory_do(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = MADE[kind]()
    whole: Dataset = task.dataset()
    assert files_in_use() == 0
    put_away(monkeypatch)
    made = task.dataset()
    assert files_in_use() == 3, "one file a split; those of the rows are gone"
    assert os.listdir(tempfile.gettempdir()) == [], "without a name, so that none is left"
    assert (made.spec, made.class_names) == (whole.spec, whole.class_names)
    assert made.fingerprint == whole.fingerprint
    assert made.encoding == whole.encoding
    assert made.report is not None
    assert whole.report is not None
    assert asdict(made.report) == asdict(whole.report)
    for name in SPLITS:
        one, other = getattr(made, name), getattr(whole, name)
        same(one, other)
        same(one.rows(torch.tensor([5, 0, 3])), other.rows(torch.tensor([5, 0, 3])))
        same(one.kept_for(torch.device("cpu")).rows(torch.tensor([1])), other.rows(torch.tensor([1])))


def test_what_looks_wrong_is_told_of_rows_in_files_too(monkeypatch: pytest.MonkeyPatch) -> None:
    put_away(monkeypatch)
    report = MADE["texts of csv"]().load().report
    assert report is not None
    told = "\n".join(report.warnings)
    for part in (
        "'yes', 'yes ' differ in blanks",
        "have the inputs of a row of the train split",
        "no row of class '3'",
    ):
        assert part in told


@pytest.mark.parametrize("reason", ["no folder", "no room"])
def test_where_no_file_can_be_had_rows_stay_in_memory(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = MADE["lists of jsonl"]()
    whole = task.dataset()
    put_away(monkeypatch)
    refused = OSError(errno.ENOSPC, "No space left on device")
    if reason == "no folder":

        def refuse(*_: Any, **__: Any) -> None:
            raise refused

        for module in ("flat", "mapped"):
            monkeypatch.setattr(f"compressm_cli.data.{module}.TemporaryFile", refuse)
    else:
        written, count = flat._write, iter(range(100))

        def write(file: Any, values: np.ndarray) -> None:
            if next(count) > 2:
                file.write(b"half of it")
                raise refused
            written(file, values)

        monkeypatch.setattr(flat, "_write", write)
    made = task.dataset()
    assert made.fingerprint == whole.fingerprint
    for name in SPLITS:
        same(getattr(made, name), getattr(whole, name))


@pytest.mark.skipif(not MAPS.exists(), reason="nothing tells what is mapped")
def test_lists_of_tokens_are_put_away_too(monkeypatch: pytest.MonkeyPatch) -> None:
    lists = [CHANCE.randint(50, size=1 + n % 7).tolist() for n in range(90)]
    Path("tokens.jsonl").write_text("".join(f"{one}\n" for one in lists))
    task = TokenFiles(vocabulary=50, path="tokens.jsonl", length=8, validation_share=0.2, test_share=0.2)
    whole = task.dataset()
    put_away(monkeypatch)
    made = task.dataset()
    assert files_in_use() == 1
    assert made.fingerprint == whole.fingerprint
    for name in SPLITS:
        same(getattr(made, name), getattr(whole, name))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\r\n",
        "[]",
        '[{"x": 1}]',
        ' [ {"x": 12} ,\r\n{"x": "]}"}, {"y": null} ] \n',
        '{"x": 1}',
        '\n\n{"x": 1}\r\n\n {"x": [2, {"z": 3}], "y": "ü\\u2028"}\n\n',
        '{"x":\n1}',
        '[{"x": 1}, {"x": 2},]',
        '[{"x": 1} {"x": 2}]',
        '[{"x": 1}, {"x": 2}',
        '[{"x": 1}, 2]',
        '[{"x": 1}]]',
        '[{"x": 1}]\n[{"x": 2}]',
        '{"x": 1}\n{"x": 2\n',
        '{"x": 1}\n{"x": 1, "x": 2}\n',
        "[1, 2]\n[3]",
        "12",
    ],
)
@pytest.mark.parametrize("kind", [json_source.JsonSource, json_source.JsonLinesSource])
def test_json_is_read_in_parts_of_any_size(
    kind: type[json_source.JsonSource], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read() -> Any:
        source = kind(Path("a.json"), Form())
        try:
            return source.columns, [list(map(list, block)) for block in source.blocks(source.columns)]
        except BadInputError as error:
            return str(error)

    Path("a.json").write_bytes(text.encode())
    whole = read()
    for chunk in (1, 2, 3, 7, 19):
        monkeypatch.setattr(json_source, "CHUNK", chunk)
        assert read() == whole
