"""What the pixels of an image are: transparency, orientation, depth, frames, sizes and colours."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings import Encoding, Pixels
from compressm_cli.data.files import Files
from compressm_cli.data.layout import Layout
from compressm_cli.data.rows import Rows

INK = np.array([[0, 255, 255], [255, 128, 0]], dtype=np.uint8)
"""How opaque each pixel of a black drawing on nothing is."""
PAPER = 255 - INK
"""What is seen of it on white."""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def drawing(mode: str) -> Image.Image:
    """The drawing in one of the ways in which files are transparent; in some a pixel is wholly so, or not at all."""
    black = np.zeros((2, 3), dtype=np.uint8)
    if mode == "RGBA":
        return Image.fromarray(np.dstack([black, black, black, INK]))
    if mode == "LA":
        return Image.fromarray(np.dstack([black, INK]))
    palette = Image.fromarray((INK // 127).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0] * 3)
    return palette


def decoded(image: Image.Image, options: dict[str, Any] | None = None, **settings: Any) -> np.ndarray:
    """What the model takes of a file, as 0..255, for a model that takes this very image."""
    for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
        path = Path("rows") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, "png", **(options or {}))
    task = Files(format="image_folder", train="rows", **settings)
    inputs = task.load().train.inputs
    return ((inputs[0] + 1) * 127.5).round().to(torch.uint8).numpy().reshape(*image.size[::-1], -1)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_laid_on_white_or_as_told(mode: str) -> None:
    channels = {"RGBA": 3, "LA": 1}[mode]
    assert (decoded(drawing(mode)) == np.repeat(PAPER[:, :, None], channels, axis=2)).all()
    assert (decoded(drawing(mode), background=100)[0, :, 0] == [100, 0, 0]).all()
    opaque = np.dstack([PAPER] * channels + [np.full_like(INK, 255)])
    assert (decoded(Image.fromarray(opaque)) == opaque[:, :, :channels]).all()


@pytest.mark.parametrize("ink", [255, 0])
def test_a_drawing_in_the_colour_of_its_background_is_refused(ink: int) -> None:
    drawn = np.dstack([np.full_like(INK, ink), INK])
    pixels = Pixels(height=2, width=3, mean=[0.0], deviation=[1 / 255], background=ink)
    with pytest.raises(
        BadInputError, match=rf"x, image 1: is drawn in the colour .*data\.background={255 - ink}"
    ):
        pixels.encode(Rows("x", "images", [drawn]))
    inputs, _ = pixels.model_copy(update={"background": 255 - ink}).encode(Rows("x", "images", [drawn]))
    assert len(inputs.unique()) == 3
    clear = np.dstack([np.full_like(INK, ink), np.zeros_like(INK)])  # an empty sheet, which is no drawing
    assert pixels.encode(Rows("x", "images", [clear]))[0].unique().round().tolist() == [ink]


def test_palettes_and_single_colours_are_transparent_too() -> None:
    seen = decoded(drawing("P"), {"transparency": bytes([0, 128, 255])})
    assert (seen == PAPER[:, :, None]).all()
    grey, colour = Image.fromarray(INK), Image.fromarray(np.dstack([INK] * 3))
    for image, clear in ((grey, 0), (colour, (0, 0, 0))):
        assert (decoded(image, {"transparency": clear})[:, :, 0] == [[255, 255, 255], [255, 128, 255]]).all()


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_an_image_stands_upright(kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a camera that was turned to the right
    image = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    Path("turned.png").write_bytes(saved(image, kind, exif=exif))
    (seen,) = Layout(format="image_folder").read("turned.png", labelled=False).content
    np.testing.assert_array_equal(seen, np.rot90(np.asarray(image), -1)[:, :, None])


def deep_colour() -> bytes:
    """A PNG of 16 bits a channel, of which Pillow says that it is RGB."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    pixel = zlib.compress(b"\0" + struct.pack(">HHH", 1, 2, 3))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixel) + chunk(b"IEND", b"")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


FRAMES = [Image.fromarray(np.full((2, 2), value, dtype=np.uint8)) for value in (0, 200)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (deep_colour(), "pixels of kind 'RGB, 16 bits'; save it as 8-bit grey or RGB"),
        (b"P6 1 1 65535 " + bytes(6), "pixels of kind 'RGB, 16 bits'; save it as 8-bit grey or RGB"),
        (saved(Image.new("I;16", (2, 2)), "png"), "pixels of kind 'I;16'; save it as 8-bit"),
        (saved(Image.new("F", (2, 2)), "tiff"), "pixels of kind 'F'; save it as 8-bit"),
        (saved(Image.new("CMYK", (2, 2)), "jpeg"), "pixels of kind 'CMYK'; save it as 8-bit"),
        (saved(FRAMES[0], "gif", save_all=True, append_images=FRAMES[1:]), "2 frames; save the one"),
        (saved(FRAMES[0], "png", save_all=True, append_images=FRAMES[1:]), "2 frames; save the one"),
        (saved(FRAMES[0], "tiff", save_all=True, append_images=FRAMES[1:]), "2 frames; save the one"),
    ],
    ids=range(8),
)  # fmt: skip
def test_what_would_be_read_with_a_loss_is_refused(content: bytes, told: str) -> None:
    Path("x.png").write_bytes(content)
    with pytest.raises(BadInputError, match=rf"^x\.png, image 1 \(x\.png\): {told}"):
        list(Layout(format="image_folder").read("x.png", labelled=False).content)


def test_a_photograph_with_a_preview_is_a_photograph() -> None:
    Path("x.jpg").write_bytes(saved(FRAMES[1], "mpo", save_all=True, append_images=FRAMES[:1]))
    (seen,) = Layout(format="image_folder").read("x.jpg", labelled=False).content
    assert (seen == 200).all()


WIDE = np.repeat(np.array([[0, 0, 90, 90, 90, 90, 255, 255]], dtype=np.uint8), 4, axis=0)[:, :, None]


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("stretch", [[0, 90, 90, 255]] * 4),
        ("fit", [[7] * 4, [0, 90, 90, 255], [0, 90, 90, 255], [7] * 4]),
        ("crop", [[90] * 4] * 4),
    ],
)
def test_sizes_are_brought_to_one_as_told(how: Any, expected: list[list[int]]) -> None:
    pixels = Pixels(height=4, width=4, mean=[0.0], deviation=[1 / 255], resize=how, background=7)
    square = np.full((4, 4, 1), 33, dtype=np.uint8)
    inputs, lengths = pixels.encode(Rows("x", "images", [WIDE, square]))
    assert lengths is None
    # The filter is smooth, so the edges of the stripes are a little off.
    np.testing.assert_allclose(inputs[0].numpy().reshape(4, 4), expected, atol=25)
    assert (inputs[1].round() == 33).all()
    colours = pixels.model_copy(update={"mean": [0.0] * 3, "deviation": [1 / 255] * 3})
    both, _ = colours.encode(Rows("x", "images", [np.repeat(WIDE, 3, axis=2)]))
    assert torch.equal(both, inputs[:1].expand(-1, -1, 3))


def test_images_of_several_sizes_and_colours_are_read_as_told() -> None:
    for name, size, mode in (("a/1", (5, 4), "L"), ("b/1", (8, 8), "RGB"), ("b/2", (2, 6), "LA")):
        Path(f"rows/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        Image.new(mode, size).save(f"rows/{name}.png")
    keys: dict[str, Any] = {"format": "image_folder", "train": "rows", "validation": 0.3, "test": 0.3}
    for options, told in (
        ({}, "data.image_size.*data.colours"),
        ({"image_size": [4, 5], "resize": "fit"}, "data.colours"),
    ):
        with pytest.raises(BadInputError, match=told):
            Files(**keys, **options).load()
    task = Files(**keys, image_size=[4, 5], resize="fit", colours="rgb", background=0)
    dataset = task.load()
    assert (dataset.spec.length, dataset.spec.features, dataset.spec.rows) == (20, 3, (1, 1, 1))
    assert dataset.encoding is not None
    stored = Encoding.model_validate(dataset.encoding.model_dump(mode="json"))
    again, _ = stored.inputs.encode(task.read("rows", labelled=False))
    assert len(again) == 3
    assert torch.equal(again[:1], dataset.train.inputs)  # all are black
    assert Files(**task.model_dump()) == task


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"format": "text_folder", "colours": "rgb"}, "colours is for images; leave it out"),
        ({"image_size": [4, 5]}, "image_size and resize go together, as in image_size: "),
        ({"resize": "fit"}, "image_size and resize go together"),
        ({"image_size": [4, 0], "resize": "fit"}, "greater than or equal to 1"),
        ({"background": 256}, "less than or equal to 255"),
    ],
)
def test_impossible_combinations_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Files(**{"format": "image_folder", "train": "a", **options})


def put_pictures() -> list[dict[str, Any]]:
    """Six files of one grey each, and rows that name them."""
    Path("pictures").mkdir()
    rows = []
    for number in range(6):
        Image.new("L", (2, 2), number).save(f"pictures/{number}.png")
        rows.append({"picture": f"pictures/{number}.png", "label": "ab"[number % 2]})
    return rows


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_names_its_images(kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table, place = pandas.DataFrame(put_pictures()), tmp_path / f"rows.{kind}"
    if kind == "csv":
        table.to_csv(place, index=False)
    elif kind == "jsonl":
        table.to_json(place, orient="records", lines=True)
    else:
        table.to_parquet(place)
    monkeypatch.chdir("/")
    keys: dict[str, Any] = {"format": kind, "image_column": "picture", "label_column": "label"}
    rows = Layout(**keys).read(str(place))
    assert rows.names == [f"pictures/{number}.png" for number in range(6)]
    assert rows.labels == list("ababab")
    assert [image.ravel().tolist() for image in rows.content] == [[number] * 4 for number in range(6)]
    task = Files(**keys, train=str(place), validation=0.2, test=0.2, image_size=[1, 1], resize="stretch")
    assert task.load().spec.length == 1
    (tmp_path / "pictures" / "3.png").unlink()
    with pytest.raises(
        BadInputError, match=rf"rows\.{kind}, row 4, column 'picture': pictures/3\.png: no such file"
    ):
        Layout(**keys).read(str(place))


def test_a_table_holds_its_images() -> None:
    rows = put_pictures()
    cells = [{"bytes": Path(row["picture"]).read_bytes(), "path": "same.png"} for row in rows]
    cells[2] = {"bytes": None, "path": "pictures/2.png"}
    pandas.DataFrame({"image": cells}).to_parquet("rows.parquet")
    found = Layout(format="parquet", image_column="image").read("rows.parquet", labelled=False)
    assert found.names is None
    assert [int(image[0, 0, 0]) for image in found.content] == list(range(6))
    cells[1] = {"bytes": b"broken", "path": "same.png"}
    pandas.DataFrame({"image": cells}).to_parquet("rows.parquet")
    with pytest.raises(BadInputError, match=r"rows\.parquet, image 2 \(same\.png\): not a readable image"):
        list(Layout(format="parquet", image_column="image").read("rows.parquet", labelled=False).content)
    cells[1] = {"bytes": None, "path": None}
    pandas.DataFrame({"image": cells}).to_parquet("rows.parquet")
    with pytest.raises(
        BadInputError, match=r"row 2, column 'image': the image is missing; name a file there"
    ):
        Layout(format="parquet", image_column="image").read("rows.parquet", labelled=False)
