"""Images of folders and of tables, decoded one at a time when they are asked for."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.reading import reading
from compressm_cli.data.rows import OnDemand, Rows
from compressm_cli.data.sources.folders import Content, found_files

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (
    *(
        ".apng",
        ".avif",
        ".blp",
        ".bmp",
        ".bw",
        ".cur",
        ".dcx",
        ".dds",
        ".dib",
        ".fit",
        ".fits",
        ".flc",
        ".fli",
    ),
    *(
        ".ftc",
        ".ftu",
        ".gbr",
        ".gif",
        ".icb",
        ".icns",
        ".ico",
        ".iim",
        ".im",
        ".j2c",
        ".j2k",
        ".jfif",
        ".jp2",
    ),
    *(
        ".jpc",
        ".jpe",
        ".jpeg",
        ".jpf",
        ".jpg",
        ".jpx",
        ".msp",
        ".pbm",
        ".pcd",
        ".pcx",
        ".pgm",
        ".png",
        ".pnm",
    ),
    *(
        ".ppm",
        ".psd",
        ".pxr",
        ".qoi",
        ".ras",
        ".rgb",
        ".rgba",
        ".sgi",
        ".tga",
        ".tif",
        ".tiff",
        ".vda",
        ".vst",
    ),
    *(".webp", ".xbm", ".xpm"),
)
"""What Pillow decodes by itself."""
IMAGES = Content("images", SUFFIXES, (".png", ".jpg"))

GREY, COLOUR = {"1", "L"}, {"RGB", "P"}
WITH_ALPHA = {"LA": "LA", "La": "LA", "RGBA": "RGBA", "RGBa": "RGBA", "PA": "RGBA"}
"""Modes in which each pixel says how opaque it is, and what they become."""
OF_STILLS = {"MPO", "PSD"}
"""Formats whose first frame is the picture, and others are versions or layers of it."""


class ImageRows(OnDemand[np.ndarray]):
    """Images, each (height, width, channels) uint8: grey, grey with alpha, RGB or RGBA.

    ``sources`` are their files, or bytes of them, and ``places`` what messages call them. BadInputError at one that
    cannot be decoded, when it is asked for.
    """

    def __init__(self, sources: Sequence[Path | bytes], places: Sequence[str]) -> None:
        self.sources, self.places = sources, places

    def __len__(self) -> int:
        return len(self.sources)

    def decoded(self, row: int) -> np.ndarray:
        return _decoded(self.sources[row], self.places[row])

    def taken(self, rows: Sequence[int] | np.ndarray) -> "ImageRows":
        return ImageRows([self.sources[row] for row in rows], [self.places[row] for row in rows])


def read_image_folder(folder: Path, labelled: bool = True) -> Rows:
    """The images of a folder with one folder a class, or any images at all; called by their files."""
    found = found_files(folder, IMAGES, labelled)
    # As a path, not folder by folder: so their order has been since there were such folders.
    order = sorted(range(len(found.files)), key=lambda row: str(found.files[row]))
    files = [found.files[row] for row in order]
    labels = None if found.labels is None else [found.labels[row] for row in order]
    content = ImageRows(files, [f"{folder}, image {row} ({file})" for row, file in enumerate(files, start=1)])
    names = [found.names[row] for row in order]
    return Rows(str(folder), "images", content, names=names, labels=labels, left_out=found.left_out)


def _decoded(source: Path | bytes, place: str) -> np.ndarray:
    from PIL import Image, ImageOps

    with reading(place, "not a readable image", "remove or replace it"):
        # Not by its name: Pillow would map a TIFF that does not stand upright into memory, and mistake its sides.
        content = BytesIO(source.read_bytes() if isinstance(source, Path) else source)
        image = Image.open(content)
        _require_still(image, place)
        mode = _mode(image, place)
        upright = ImageOps.exif_transpose(image)
        array = np.asarray(upright.convert(mode))
    return array if array.ndim == 3 else array[:, :, None]


def _require_still(image: "Image", place: str) -> None:
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in OF_STILLS:
        raise BadInputError(f"{place}: {frames} frames; save the one that counts as an image of its own")


def _mode(image: "Image", place: str) -> str:
    """That of Pillow in which nothing of the image is lost."""
    deep = any(_is_deep(codec, arguments) for codec, _, _, arguments in getattr(image, "tile", ()))
    if deep or image.mode not in GREY | COLOUR | set(WITH_ALPHA):
        kind = f"{image.mode}, 16 bits" if deep and ";16" not in image.mode else image.mode
        raise BadInputError(f"{place}: pixels of kind {kind!r}; save it as 8-bit grey or RGB")
    if image.mode in WITH_ALPHA:
        return WITH_ALPHA[image.mode]
    if image.has_transparency_data:  # of a palette, or one colour that stands for it
        return "LA" if image.mode in GREY else "RGBA"
    return "L" if image.mode in GREY else "RGB"


def _is_deep(codec: str, arguments: object) -> bool:
    """Whether a channel has more than 8 bits: of colours Pillow keeps the upper 8, and says so nowhere else."""
    largest = arguments[-1] if codec.startswith("ppm") and isinstance(arguments, tuple) else 0
    return ";16" in str(arguments) or (isinstance(largest, int) and largest > 255)
