"""Which files of a folder are rows, in which order, what they are called, and what is told of the others."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout
from compressm_cli.data.sources.folders import BESIDE, HIDDEN, NOWHERE, SAME, STRANGE, TWICE, suffix_of
from compressm_cli.data.text_lm import TextLm

SUFFIX = {"text_folder": ".txt", "image_folder": ".png"}
FORMATS = list(SUFFIX)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def put(name: str, kind: str = "") -> Path:
    """A file that is a row of the format ``kind``, else one of any content."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "image_folder":
        Image.fromarray(np.full((2, 3), sum(name.encode()) % 251, dtype=np.uint8)).save(path, "png")
    else:
        path.write_text(name)
    return path


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_no_row_is_left_out_and_counted(kind: str) -> None:
    suffix = SUFFIX[kind]
    for name in ("cat", "dog", "__none__"):
        put(f"rows/{name}/1{suffix}", kind)
    put(f"rows/dog/2{suffix.upper()}", kind)
    put(f"rows/dog/x{suffix}/inner{suffix}", kind)
    for hidden in (".git/x", "__MACOSX/dog/._1", "cat/.ipynb_checkpoints/1", "cat/._1", "cat/Thumbs.db"):
        put(f"rows/{hidden}{'' if hidden.endswith('db') else suffix}")
    for other in ("cat/old.zip", "dog/notes.pdf", "metadata.csv", "README.md"):
        put(f"rows/{other}")
    Path(f"rows/cat/gone{suffix}").symlink_to("nowhere")
    os.mkfifo("rows/cat/pipe")
    rows = Layout(format=kind).read("rows")  # type: ignore[arg-type]
    assert rows.names == [
        f"__none__/1{suffix}",
        f"cat/1{suffix}",
        f"dog/1{suffix}",
        f"dog/2{suffix.upper()}",
        f"dog/x{suffix}/inner{suffix}",
    ]
    assert rows.labels == ["__none__", "cat", "dog", "dog", "dog"]
    assert len(rows) == len(list(rows.content)) == 5
    assert rows.left_out == {HIDDEN: 5, BESIDE: 2, NOWHERE: 1, STRANGE: 1, "of another kind (.zip, .pdf)": 2}


@pytest.mark.parametrize("kind", FORMATS)
def test_links_are_followed_and_no_folder_is_read_twice(kind: str) -> None:
    suffix = SUFFIX[kind]
    put(f"elsewhere/1{suffix}", kind)
    put(f"elsewhere/deep/2{suffix}", kind)
    put(f"rows/dog/3{suffix}", kind)
    Path("rows/cat").symlink_to(Path("elsewhere").absolute())
    Path("elsewhere/loop").symlink_to(Path("rows").absolute())
    Path("elsewhere/deep/up").symlink_to("..")
    Path("rows/dog/same").symlink_to(".")
    rows = Layout(format=kind).read("rows")  # type: ignore[arg-type]
    assert rows.names == [f"cat/1{suffix}", f"cat/deep/2{suffix}", f"dog/3{suffix}"]
    assert rows.left_out == {TWICE: 3}
    Path("rows/wolf").symlink_to("dog")
    with pytest.raises(BadInputError, match=rf"rows/wolf: no .* in it \(left out: {TWICE}: 1\)"):
        Layout(format=kind).read("rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_class_without_rows_is_refused(kind: str) -> None:
    put(f"rows/cat/1{SUFFIX[kind]}", kind)
    put("rows/dog/1.zip")
    Path("rows/dog/.hidden").touch()
    told = rf"^rows/dog: no .*s in it \(left out: {HIDDEN}: 1, of another kind \(\.zip\): 1\); put .*\*\.\w+.* into it"
    with pytest.raises(BadInputError, match=told):
        Layout(format=kind).read("rows")  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_an_archive_is_to_be_unpacked(kind: str) -> None:
    put("rows.zip")
    with pytest.raises(BadInputError, match=r"^rows\.zip: is a file; unpack it, and give a folder with one"):
        Files(format=kind, train="rows.zip").load()  # type: ignore[arg-type]


def test_a_class_has_a_name_that_can_be_written() -> None:
    put("rows/cat/1.txt")
    folder = os.fsencode("rows/") + b"caf\xe9"
    os.mkdir(folder)
    with pytest.raises(
        BadInputError, match=r"^rows: the folder caf\\xe9 has a name that is no UTF-8; rename it"
    ):
        Layout(format="text_folder").read("rows")
    os.rmdir(folder)
    Path(os.fsdecode(b"rows/cat/\xe9.txt")).write_text("a")
    assert Layout(format="text_folder").read("rows").names == ["cat/1.txt", "cat/\\xe9.txt"]


def test_names_without_a_suffix_are_texts_and_no_images() -> None:
    put("rows/cat/49960")
    put("rows/cat/1.png", "image_folder")
    texts = Layout(format="text_folder").read("rows")
    assert (texts.names, texts.left_out) == (["cat/49960"], {"of another kind (.png)": 1})
    images = Layout(format="image_folder").read("rows")
    assert (images.names, images.left_out) == (["cat/1.png"], {"of another kind (no suffix)": 1})
    names = {"a.TXT": ".txt", "a.b.c": ".c", "a.": "", "a": "", "a.t x": ".t x"}
    assert {name: suffix_of(name) for name in names} == names


def test_texts_of_a_folder_are_those_that_a_language_is_learned_from() -> None:
    suffixes = (".txt", ".text", ".md", ".rst", ".tex", ".org", ".html")
    for suffix in (*suffixes, ".docx"):
        put(f"rows/cat/1{suffix}")
    found = Layout(format="text_folder").read("rows")
    assert found.names == sorted(f"cat/1{suffix}" for suffix in suffixes)
    assert found.left_out == {"of another kind (.docx)": 1}
    assert [len(TextLm(path="rows").sources()["path"])] == [len(suffixes)]


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("text_folder", "texts (*.txt, *.md)"),
        ("image_folder", "images (*.png, *.jpg)"),
        ("audio_folder", "recordings (*.wav, *.flac)"),
    ],
)
def test_what_is_missing_is_called_by_its_common_names(kind: str, told: str) -> None:
    put("rows/cat/notes.pdf")
    with pytest.raises(BadInputError, match=re.escape(f"put {told} into it")):
        Layout(format=kind).read("rows")  # type: ignore[arg-type]


def test_what_is_no_image_is_told_without_addresses() -> None:
    put("rows/cat/1.png")
    Path("rows/cat/1.png").write_text("no image")
    with pytest.raises(BadInputError, match="not a readable image: cannot identify image file; remove"):
        list(Layout(format="image_folder").read("rows").content)


def test_the_order_is_that_of_former_versions() -> None:
    """Which rows are held out depends on it: texts folder by folder, images by the whole path."""
    names = ["a b/1", "a/10", "a/2", "a/sub/x", "a/sub-1/y", "a-b/1", "a0/1", "B/é"]
    for name in names:
        put(f"texts/{name}.txt")
        put(f"images/{name}.png", "image_folder")
    told = Layout(format="text_folder").read("texts").names
    assert told == [
        f"{n}.txt" for n in ["B/é", "a/10", "a/2", "a/sub/x", "a/sub-1/y", "a b/1", "a-b/1", "a0/1"]
    ]
    told = Layout(format="image_folder").read("images").names
    assert told == [
        f"{n}.png" for n in ["B/é", "a b/1", "a-b/1", "a/10", "a/2", "a/sub-1/y", "a/sub/x", "a0/1"]
    ]


@pytest.mark.parametrize("kind", FORMATS)
def test_what_is_to_be_predicted_needs_no_classes(kind: str) -> None:
    suffix = SUFFIX[kind]
    for name in (f"new/2{suffix}", f"new/deep/1{suffix}", f"one{suffix}.part"):
        put(name, kind)
    put("new/notes.pdf")
    Path("empty").mkdir()
    layout = Layout(format=kind)  # type: ignore[arg-type]
    rows = layout.read("new", labelled=False)
    assert (rows.names, rows.labels) == ([f"2{suffix}", f"deep/1{suffix}"], None)
    assert rows.left_out == {"of another kind (.pdf)": 1}
    one = layout.read(f"one{suffix}.part", labelled=False)
    assert (one.names, len(list(one.content)), one.left_out) == ([f"one{suffix}.part"], 1, {})
    for place, told in (("empty", "no .*s in it; put"), ("gone", "no such file or folder; give a file, or")):
        with pytest.raises(BadInputError, match=f"^{place}: {told}"):
            layout.read(place, labelled=False)


def test_a_folder_that_may_not_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    put("rows/cat/1.txt")
    put("rows/dog/deep/1.txt")
    listed = Path.iterdir

    def refused(folder: Path) -> object:
        if folder.name == "deep":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(
        BadInputError, match=re.escape("rows: cannot be read: Permission denied; make it readable")
    ):
        Layout(format="text_folder").read("rows")


@pytest.mark.parametrize("kind", FORMATS)
def test_folders_of_splits_are_no_classes(kind: str) -> None:
    suffix = SUFFIX[kind]
    for split in ("Train", "val", "test"):
        for name in ("cat", "dog"):
            put(f"rows/{split}/{name}/1{suffix}", kind)
    told = "data.train=rows/Train data.test=rows/test data.validation=rows/val"
    with pytest.raises(
        BadInputError, match=f"^rows: holds a folder for each split, not one for .*; write {told}$"
    ):
        Files(format=kind, train="rows").load()  # type: ignore[arg-type]
    for name in ("test", "train"):  # as the words of a spoken command
        put(f"words/{name}/1{suffix}", kind)
    assert Layout(format=kind).read("words").labels == ["test", "train"]  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_several_names_is_one_row(kind: str) -> None:
    suffix = SUFFIX[kind]
    for name in ("cat/1", "cat/2", "dog/3"):
        put(f"rows/{name}{suffix}", kind)
    Path(f"rows/cat/hard{suffix}").hardlink_to(f"rows/cat/1{suffix}")
    Path(f"rows/cat/soft{suffix}").symlink_to(f"2{suffix}")
    layout = Layout(format=kind)  # type: ignore[arg-type]
    for labelled in (True, False):
        rows = layout.read("rows", labelled)
        assert rows.names == [f"{name}{suffix}" for name in ("cat/1", "cat/2", "dog/3")]
        assert rows.left_out == {SAME: 2}
    Path(f"rows/dog/other{suffix}").hardlink_to(f"rows/cat/1{suffix}")
    told = f"^rows/dog/other{suffix}: is the same file as rows/cat/1{suffix}, by a link, and a row has one class;"
    with pytest.raises(BadInputError, match=told):
        layout.read("rows")


def test_files_of_one_number_are_not_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems number nothing."""
    put("rows/cat/1.txt")
    put("rows/dog/2.txt")
    one = os.stat("rows/cat/1.txt")
    monkeypatch.setattr(Path, "stat", lambda path, **_: one if path.suffix else os.stat(path))
    assert len(Layout(format="text_folder").read("rows")) == 2
