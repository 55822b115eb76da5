"""Images as they are, or as the sequences of their pixels."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings.interface import Inputs
from compressm_cli.data.rows import Kind, Rows
from compressm_cli.data.split import in_order

if TYPE_CHECKING:
    from PIL.Image import Image

Side = Annotated[int, Field(ge=1, le=100_000)]
Scale = Annotated[float, Field(gt=0.0)]
Grey = Annotated[int, Field(ge=0, le=255)]
Resize = Literal["stretch", "fit", "crop"]

WHITE = 255


class Pixels(Inputs):
    """An image is the sequence of its pixels, row by row: (value / 255 - mean) / deviation, channel by channel.

    With ``as_images`` it is the same values as (channels, height, width).
    """

    kind: Literal["pixels"] = "pixels"
    height: Side
    width: Side
    mean: Annotated[list[float], Field(min_length=1, max_length=4)]
    """Of each channel, one grey or three of colour."""
    deviation: Annotated[list[Scale], Field(min_length=1, max_length=4)]
    any_colours: bool = False
    """Whether grey images are taken as colours, and colours as their brightness; else they are refused."""
    background: Grey = WHITE
    """What shows through where an image is transparent, 0 black to 255 white."""
    resize: Resize | None = None
    """How images of other sizes are brought to this one; None refuses them."""
    as_images: bool = False

    @property
    def takes(self) -> Kind:
        return "images"

    @property
    def features(self) -> int:
        return len(self.mean)

    @property
    def image(self) -> tuple[int, int, int] | None:
        return (self.features, self.height, self.width) if self.as_images else None

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        sequences = pixel_sequences(self.pixels(rows), self.mean, self.deviation)
        return sequences if self.image is None else in_order(of_pixels(sequences, self.image)), None

    def steps(self, rows: Rows) -> np.ndarray:
        return np.full(len(rows), self.height * self.width)

    def pixels(self, rows: Rows) -> np.ndarray:
        """(rows, height, width, features) uint8, before they are scaled; BadInputError as of ``encode``."""
        self.require_kind(rows)
        pixels = np.empty((len(rows), self.height, self.width, self.features), dtype=np.uint8)
        for row, image in enumerate(rows.content):
            assert isinstance(image, np.ndarray), "images are arrays"
            pixels[row] = self._fitted(image, f"{rows.source}, image {rows.name(row)}")
        return pixels

    def _fitted(self, image: np.ndarray, place: str) -> np.ndarray:
        """(height, width, features) of any image; BadInputError where it is of another size, or colours."""
        opaque = on_background(image, self.background)
        if image.shape[2] % 2 == 0 and _is_constant(opaque) and not _is_constant(image[:, :, -1:]):
            raise BadInputError(
                f"{place}: is drawn in the colour of the background that shows through, {self.background}, so that "
                f"nothing is seen; lay it on another one, or train with data.background={WHITE - self.background}"
            )
        if self.any_colours and opaque.shape[2] != self.features:
            opaque = _converted(opaque, self.features)
        wanted = (self.height, self.width, self.features)
        if self.resize is not None and opaque.shape[:2] != wanted[:2]:
            opaque = _resized(opaque, wanted, self.resize, self.background)
        if opaque.shape == wanted:
            return opaque
        advice = []
        if opaque.shape[:2] != wanted[:2]:
            size = f"[{self.height}, {self.width}]"
            advice.append(
                f"bring it to that size, or train with data.image_size={size} data.resize=fit (stretch, crop)"
            )
        if opaque.shape[2] != wanted[2]:
            advice.append("bring all images to the same colours, or train with data.colours=rgb (grey)")
        raise BadInputError(
            f"{place}: {size_of(opaque.shape)}, and the model takes {size_of(wanted)}; {'; '.join(advice)}"
        )


def on_background(image: np.ndarray, background: int = WHITE) -> np.ndarray:
    """(height, width, 1 to 4) uint8, with alpha as the second or fourth channel -> opaque, of 1 or 3 channels."""
    if image.shape[2] % 2:
        return image
    alpha = image[:, :, -1:].astype(np.uint32)
    return ((image[:, :, :-1] * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)


def _is_constant(image: np.ndarray) -> bool:
    return bool((image == image[:1, :1]).all())


def _converted(image: np.ndarray, channels: int) -> np.ndarray:
    """Grey to equal colours, colours to their brightness (ITU-R 601)."""
    return np.repeat(image, channels, axis=2) if channels == 3 else _array(_pillow(image).convert("L"))


def _resized(image: np.ndarray, wanted: tuple[int, int, int], how: Resize, background: int) -> np.ndarray:
    """``stretch`` to the size; ``fit`` in it, on the background; ``crop`` what is beyond it, equally on both sides."""
    from PIL import Image, ImageOps

    size, filter_ = (wanted[1], wanted[0]), Image.Resampling.BILINEAR
    given = _pillow(image)
    if how == "stretch":
        return _array(given.resize(size, filter_))
    if how == "crop":
        return _array(ImageOps.fit(given, size, filter_))
    colour = background if image.shape[2] == 1 else (background,) * image.shape[2]
    return _array(ImageOps.pad(given, size, filter_, color=colour))


def _pillow(image: np.ndarray) -> "Image":
    from PIL import Image

    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _array(image: "Image") -> np.ndarray:
    array = np.asarray(image)
    return array if array.ndim == 3 else array[:, :, None]


def pixel_sequences(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(rows, height, width, channels) uint8 -> (rows, height * width, channels) float32.

    Pixels follow row by row. Values go from 0..255 to 0..1, then channel by channel to (value - mean) / std.
    """
    rows, height, width, channels = pixels.shape
    values = torch.from_numpy(pixels).reshape(rows, height * width, channels).to(torch.float32)
    return values.div_(255.0).sub_(torch.tensor(mean)).div_(torch.tensor(std))


def of_pixels(sequences: Tensor, image: tuple[int, int, int]) -> Tensor:
    """Sequences of pixels (rows, height * width, channels) -> images (rows, channels, height, width), a view."""
    return sequences.unflatten(1, image[1:]).permute(0, 3, 1, 2)


def to_pixels(images: Tensor) -> Tensor:
    """Images (rows, channels, height, width) -> sequences of their pixels (rows, height * width, channels)."""
    return images.permute(0, 2, 3, 1).flatten(1, 2)


def size_of(shape: Sequence[int]) -> str:
    """Height, width and channels in words."""
    return f"{shape[0]} x {shape[1]} pixels in {'grey' if shape[2] == 1 else 'colour'}"
