import json
import os
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files
from compressm_cli.data.labels import class_numbers
from compressm_cli.data.layout import Layout

COLUMNS = {"feature_columns": ["x", "y"], "label_column": "label"}
TABLE = [{"x": i, "y": i / 2, "label": "ab"[i % 2], "text": "é" * (i + 1)} for i in range(20)]
ROWS = "x,y,label\n" + "".join(f"{r['x']},{r['y']},{r['label']}\n" for r in TABLE)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(name, content):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return name


def write_table(file_format):
    path = f"rows.{file_format}"
    if file_format == "csv":
        pandas.DataFrame(TABLE).to_csv(path, index=False)
    elif file_format == "parquet":
        pandas.DataFrame(TABLE).to_parquet(path)
    elif file_format == "json":
        write(path, json.dumps(TABLE))
    else:
        write(path, "".join(json.dumps(row) + "\n" for row in TABLE))
    return path


def write_images(folder, size=(4, 5), mode="L", classes=("cat", "dog"), count=6):
    random = np.random.default_rng(0)
    shape = size if mode == "L" else (*size, 3)
    for name in classes:
        for number in range(count):
            path = Path(folder) / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8)).save(path)


def whole(dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    return torch.cat([s.inputs for s in splits]), torch.cat([s.labels for s in splits])


@pytest.mark.parametrize("file_format", ["csv", "json", "jsonl", "parquet"])
def test_columns_of_numbers_become_steps_in_their_order(file_format):
    config = Files(format=file_format, train=write_table(file_format), **COLUMNS)
    dataset = config.load()
    assert dataset.spec == config.spec()
    assert dataset.spec.rows == (16, 2, 2)
    assert (dataset.spec.classes, dataset.spec.length, dataset.spec.features) == (2, 2, 1)
    inputs, labels = whole(dataset)
    assert inputs.dtype == torch.float32
    order = inputs[:, 0, 0].argsort()
    expected = torch.tensor([[r["x"], r["y"]] for r in TABLE])
    assert torch.equal(inputs[order, :, 0], expected)
    assert labels[order].tolist() == [i % 2 for i in range(20)]


@pytest.mark.parametrize("file_format", ["csv", "json", "jsonl", "parquet"])
def test_texts_become_bytes(file_format):
    config = Files(
        format=file_format, train=write_table(file_format), text_column="text", label_column="label"
    )
    dataset = config.load()
    assert (dataset.spec.length, dataset.spec.vocabulary, dataset.spec.features) == (40, 257, None)
    lengths = torch.cat([s.lengths for s in (dataset.train, dataset.validation, dataset.test)])
    assert sorted(lengths.tolist()) == [2 * (i + 1) for i in range(20)]
    first = dataset.train.rows(torch.tensor([0]))
    assert bytes(t - 1 for t in first.inputs[0].tolist()).decode() == "é" * (int(first.lengths[0]) // 2)


def test_texts_are_cut_at_max_length():
    config = Files(
        format="csv", train=write_table("csv"), text_column="text", label_column="label", max_length=7
    )
    dataset = config.load()
    assert dataset.spec.length == 7
    assert dataset.train.inputs.shape[1] == 7
    assert dataset.train.lengths.max() == 7


def test_a_long_text_with_commas_and_line_breaks_is_one_cell():
    text = 'a "quoted", part\nand more ' * 8000
    rows = pandas.DataFrame({"text": [text, "b"] * 5, "label": [1, 0] * 5})
    rows.to_csv("long.csv", index=False)
    dataset = Files(format="csv", train="long.csv", text_column="text", label_column="label").load()
    assert dataset.spec.length == len(text)


def test_splits_may_be_files_and_share_the_classes_and_the_length():
    write("train.csv", "text,label\naa,9\nbbb,10\n")
    write("check.csv", "text,label\nccccc,10\n")
    write("test.csv", "text,label\nd,9\ne,10\nf,9\n")
    dataset = Files(
        format="csv",
        train="train.csv",
        validation="check.csv",
        test="test.csv",
        text_column="text",
        label_column="label",
    ).load()
    assert dataset.spec.rows == (2, 1, 3)
    assert dataset.spec.length == 5
    assert dataset.test.inputs.shape == (3, 5)
    assert dataset.train.labels.tolist() == [0, 1]
    assert dataset.validation.labels.tolist() == [1]
    assert dataset.test.labels.tolist() == [0, 1, 0]


def test_the_split_seed_alone_decides_what_is_held_out():
    path = write_table("csv")
    first, again, other = (Files(format="csv", train=path, split_seed=s, **COLUMNS).load() for s in (0, 0, 5))
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert not torch.equal(first.train.inputs, other.train.inputs)
    rows, _ = whole(other)
    assert len(rows.unique(dim=0)) == 20


def test_a_changed_file_is_read_anew():
    write("rows.csv", ROWS)
    config = Files(format="csv", train="rows.csv", standardize=False, **COLUMNS)
    assert whole(config.load())[0].max() == 19
    stamp = os.stat("rows.csv")
    write("rows.csv", ROWS.replace("19,", "77,"))
    os.utime("rows.csv", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert whole(config.load())[0].max() == 77


def test_missing_words_and_numbers_with_zeros_are_labels_too():
    write("rows.csv", "x,y,label\n" + "1,2,NA\n3,4,None\n5,6,01\n7,8,1\n" * 3)
    dataset = Files(format="csv", train="rows.csv", **COLUMNS).load()
    assert dataset.spec.classes == 4


def test_types_that_change_late_in_a_file_do_no_harm():
    rows = ["1,2,a", "3,4,b"] * 6000 + ["0.5,0.25,c", "0.5,0.25,c"] * 4
    write("rows.csv", "x,y,label\n" + "\n".join(rows) + "\n")
    dataset = Files(format="csv", train="rows.csv", **COLUMNS).load()
    assert dataset.spec.classes == 3
    assert whole(dataset)[0].min() == 0.25


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"rows\.csv: the file is empty"),
        ("x,y,label\n", r"rows\.csv: there are no rows"),
        ("x,z,label\n1,2,a\n", r"rows\.csv: has no column 'y'; its columns are 'x', 'z', 'label'"),
        ("x,y,kind\n1,2,a\n", r"rows\.csv: has no column 'label'"),
        ("x,y,y,label\n1,2,3,a\n", r"rows\.csv: column 'y' occurs more than once"),
        ("x,y,label\n1,2,a\n3,abc,b\n", r"rows\.csv, row 2, column 'y': 'abc' is not a number"),
        ("x,y,label\n1,2,a\n,4,b\n", r"rows\.csv, row 2, column 'x': the cell is empty"),
        ("x,y,label\n1,NaN,a\n", r"rows\.csv, row 1, column 'y': the cell is empty or NaN"),
        ("x,y,label\n1,1e39,a\n", r"rows\.csv, row 1, column 'y': 1e39 is too large"),
        ("x,y,label\n1,2,a\n3,4,\n", r"rows\.csv, row 2, column 'label': the label is missing"),
        ("x,y,label\n1,2,a\n3,4,5,b\n", r"rows\.csv, line 3: 4 cells, but the header has 3"),
        ("x,y,label\n1,2,a\n1,2\n", r"rows\.csv, line 3: 2 cells, but the header has 3"),
        (b"x,y,label\n1,2,\xe9\n", r"rows\.csv: cannot be read as csv: .*; save it as UTF-8"),
        ("x,y,label\n1,2,a\n3,4,b\n", r"rows\.csv: 2 rows are too few .* data\.validation and data\.test"),
        ("x,y,label\n" + "1,2,a\n" * 9, r"rows\.csv: every row is of class 'a'"),
    ],
)
def test_a_bad_csv_file_is_refused_with_the_place(content, message):
    write("rows.csv", content)
    with pytest.raises(BadInputError, match=message):
        Files(format="csv", train="rows.csv", **COLUMNS).load()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{not json", r"rows\.json: cannot be read as json: "),
        ("[]", r"rows\.json: there are no rows"),
        ("\n\n", r"rows\.json: there are no rows"),
        ('[{"x": 1, "label": 1}]', r"rows\.json: has no column 'y'"),
        (
            '[{"x": 1, "y": 2, "label": 1}, {"x": 1, "y": null, "label": 1}]',
            r"row 2, column 'y': the cell is empty",
        ),
        (
            '[{"x": 1, "y": 2, "label": 1}, {"x": 1, "y": "u", "label": 1}]',
            r"row 2, column 'y': .*u.* is not a number",
        ),
        ('[{"x": 1, "y": [2, 3], "label": 1}]', r"row 1, column 'y': .* is not a number"),
        ('[{"x": 1, "y": 2, "label": 1}, {"x": 1, "y": 3}]', r"row 2, column 'label': the label is missing"),
        ('[{"x": 1, "y": 2, "label": 1.5}]', r"row 1, column 'label': 1.5 cannot be a label"),
    ],
)
def test_a_bad_json_file_is_refused_with_the_place(content, message):
    write("rows.json", content)
    with pytest.raises(BadInputError, match=message):
        Files(format="json", train="rows.json", **COLUMNS).load()


def test_a_bad_parquet_file_is_refused():
    write("rows.parquet", ROWS)
    with pytest.raises(BadInputError, match=r"rows\.parquet: cannot be read as parquet"):
        Files(format="parquet", train="rows.parquet", **COLUMNS).load()
    dates = pandas.DataFrame({"x": pandas.date_range("2020", periods=4), "label": [1, 2, 1, 2]})
    dates.to_parquet("rows.parquet")
    with pytest.raises(BadInputError, match=r"row 1, column 'x': 2020-01-01.* is not a number"):
        Files(format="parquet", train="rows.parquet", feature_columns=["x"], label_column="label").load()
    with pytest.raises(BadInputError, match="has no column 'y'; its columns are 'x', 'label'"):
        Files(format="parquet", train="rows.parquet", feature_columns=["y"], label_column="label").load()


def test_texts_must_be_there_and_be_texts():
    write("rows.csv", "text,label\nhello,1\n,2\n")
    with pytest.raises(BadInputError, match="row 2, column 'text': the text is empty"):
        Files(format="csv", train="rows.csv", text_column="text", label_column="label").load()
    write("rows.json", '[{"text": 3, "label": 1}]')
    with pytest.raises(BadInputError, match="row 1, column 'text': 3 is not a text"):
        Files(format="json", train="rows.json", text_column="text", label_column="label").load()


def test_what_is_not_there_is_named():
    with pytest.raises(BadInputError, match=r"gone\.csv: no such file"):
        Files(format="csv", train="gone.csv", **COLUMNS).load()
    with pytest.raises(BadInputError, match="gone: no such folder"):
        Files(format="image_folder", train="gone").load()
    with pytest.raises(BadInputError, match="gone: no such folder"):
        Files(format="text_folder", train="gone").load()


def test_an_unknown_label_in_the_test_file_is_named():
    write("train.csv", ROWS)
    write("test.csv", "x,y,label\n1,2,b\n1,2,c\n")
    with pytest.raises(BadInputError, match=r"test\.csv, row 2: label 'c' does not occur"):
        Files(format="csv", train="train.csv", test="test.csv", **COLUMNS).load()
    for label, names, told in (("10.0", ["10", "20"], "10"), ("true", ["False", "True"], "True")):
        with pytest.raises(BadInputError, match=f"; write '{told}', if it is this class"):
            class_numbers([label], names, "test.csv")


def test_a_path_with_signs_that_mean_something_in_patterns_is_taken_as_it_is():
    write("we[i]rd*/rows.csv", ROWS)
    assert len(Files(format="csv", train="we[i]rd*/rows.csv", **COLUMNS).load().train) == 16
    write_images("we[i]rd*/images")
    assert len(Files(format="image_folder", train="we[i]rd*/images").load().train) == 10


def test_text_folders():
    for split, count in (("train", 6), ("test", 2)):
        for name in ("neg", "pos"):
            for number in range(count):
                write(f"{split}/{name}/{number}.txt", "ü".encode() + name.encode() * (number + 1))
    dataset = Files(format="text_folder", train="train", validation=0.25, test="test").load()
    assert dataset.spec.rows == (9, 3, 4)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    assert dataset.spec.length == 20
    assert dataset.test.inputs[0, :6].tolist() == [0xC4, 0xBD, *(byte + 1 for byte in b"neg"), 0]
    write("train/neg/empty.txt", "")
    with pytest.raises(BadInputError, match=r"empty\.txt: the file is empty"):
        Files(format="text_folder", train="train", test="test").load()


def test_texts_of_a_folder_are_utf8_with_or_without_a_mark():
    for name in ("neg", "pos"):
        for number in range(10):
            write(
                f"train/{name}/{number}.txt",
                f"{name} ü{number}".encode("utf-8-sig" if number % 2 else "utf-8"),
            )
    assert set(Layout(format="text_folder").read("train").content) == {
        f"{name} ü{number}".encode() for name in ("neg", "pos") for number in range(10)
    }
    for encoding, told in (
        ("latin-1", "not a UTF-8 text: the byte 0xfc at position 2; save it as UTF-8"),
        ("utf-16", "a text in UTF-16; save it as UTF-8 text"),
        ("utf-16-be", "a text in UTF-16-BE; save it as UTF-8 text"),
    ):
        write("train/neg/odd.txt", "aü".encode(encoding))
        with pytest.raises(BadInputError, match=rf"neg/odd\.txt: {told}"):
            Layout(format="text_folder").read("train")


def test_folders_without_texts_or_images_are_refused():
    write("plain/file.txt", "x")
    Path("hollow/a").mkdir(parents=True)
    for file_format, problem in (("text_folder", "no texts in it"), ("image_folder", "no images in it")):
        with pytest.raises(BadInputError, match="plain: has no folders in it"):
            Files(format=file_format, train="plain").load()
        with pytest.raises(BadInputError, match=problem):
            Files(format=file_format, train="hollow").load()


@pytest.mark.parametrize(("mode", "features"), [("L", 1), ("RGB", 3)])
def test_image_folders(mode, features):
    write_images("train", mode=mode)
    write_images("test", mode=mode, count=2)
    write("train/cat/.hidden", "not an image")
    dataset = Files(format="image_folder", train="train", test="test").load()
    assert dataset.spec.rows == (11, 1, 4)
    assert (dataset.spec.length, dataset.spec.features) == (20, features)
    assert dataset.test.labels.tolist() == [0, 0, 1, 1]
    pixels = np.asarray(Image.open("test/cat/0.png"), dtype=np.float32).reshape(20, features)
    assert torch.allclose(dataset.test.inputs[0], torch.from_numpy(pixels / 127.5 - 1.0), atol=1e-6)


def test_images_must_be_readable_and_of_one_kind():
    write_images("train")
    config = Files(format="image_folder", train="train")
    Image.new("L", (3, 3)).save("train/dog/9.png")
    with pytest.raises(
        BadInputError, match=r"image dog/9\.png: 3 x 3 pixels in grey, and .* takes 4 x 5.*image_size"
    ):
        config.load()
    Image.new("RGB", (5, 4)).save("train/dog/9.png")
    with pytest.raises(
        BadInputError, match=r"image dog/9\.png: 4 x 5 pixels in colour, and .* in grey; .*colours"
    ):
        config.load()
    Image.new("I;16", (5, 4)).save("train/dog/9.png")
    with pytest.raises(BadInputError, match="pixels of kind 'I;16'; save it as 8-bit"):
        config.load()
    write("train/dog/9.png", "broken")
    with pytest.raises(BadInputError, match=r"dog/9\.png\): not a readable image"):
        config.load()
    Path("train/dog/9.png").unlink()
    write_images("test", size=(6, 6))
    with pytest.raises(
        BadInputError, match=r"test, image cat/0\.png: 6 x 6 pixels in grey, and the .* 4 x 5"
    ):
        Files(format="image_folder", train="train", test="test").load()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "csv"}, "needs label_column and either text_column or feature_columns"),
        ({"format": "csv", "label_column": "l"}, "needs label_column and either"),
        ({"format": "csv", "text_column": "t", **COLUMNS}, "either text_column or feature_columns"),
        ({"format": "csv", "max_length": 5, **COLUMNS}, "max_length is for texts"),
        ({"format": "csv", "feature_columns": ["x", "x"], "label_column": "l"}, "'x' is used twice"),
        ({"format": "csv", "feature_columns": ["x", "l"], "label_column": "l"}, "'l' is used twice"),
        ({"format": "csv", "feature_columns": [], "label_column": "l"}, "at least 1 item"),
        ({"format": "csv", "test": "a", **COLUMNS}, "must be different"),
        ({"format": "csv", "test": 0.7, **COLUMNS}, "less than 0.5"),
        ({"format": "image_folder", "label_column": "l"}, "has no columns"),
        ({"format": "image_folder", "standardize": True}, "standardize is for series of numbers"),
        ({"format": "image_folder", "max_length": 3}, "max_length is for texts"),
        ({"format": "xlsx", **COLUMNS}, "'csv', 'json', 'jsonl', 'parquet'"),
    ],
)
def test_impossible_combinations_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        Files(train="a", **options)


def test_a_recipe_that_a_run_of_an_earlier_version_wrote_takes_numbers_as_they_stand():
    mine = {"format": "csv", "train": "a", "feature_columns": ["x"], "label_column": "y"}
    assert Files(**mine).standardize == "auto"
    written = {
        "task": "files",
        "text_column": None,
        "max_length": None,
        "split_seed": 0,
        "validation": 0.1,
        "test": 0.1,
        **mine,
    }
    assert Files(**written).standardize is False
    assert Files(**{**written, "standardize": "auto"}).standardize == "auto"
    assert Files(**Files(**mine).model_dump()).standardize == "auto"


def test_the_resolved_options_are_accepted_again():
    first = Files(format="text_folder", train="a", max_length=3)
    assert Files(**first.model_dump()) == first
