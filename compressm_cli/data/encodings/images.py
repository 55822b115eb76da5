"""Images as the sequences of their pixels."""

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings.interface import Inputs
from compressm_cli.data.rows import Kind, Rows

Side = Annotated[int, Field(ge=1, le=100_000)]
Scale = Annotated[float, Field(gt=0.0)]


class Pixels(Inputs):
    """An image is the sequence of its pixels, row by row: (value / 255 - mean) / deviation, channel by channel."""

    takes: ClassVar[Kind] = "images"

    kind: Literal["pixels"] = "pixels"
    height: Side
    width: Side
    mean: Annotated[list[float], Field(min_length=1, max_length=4)]
    """Of each channel, one grey or three of colour."""
    deviation: Annotated[list[Scale], Field(min_length=1, max_length=4)]

    @property
    def features(self) -> int:
        return len(self.mean)

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        self.require_kind(rows)
        wanted = (self.height, self.width, self.features)
        for row, image in enumerate(rows.content):
            assert isinstance(image, np.ndarray), "images are arrays"
            if image.shape != wanted:
                raise BadInputError(
                    f"{rows.source}, image {rows.name(row)}: {size_of(image.shape)}, and the model takes "
                    f"{size_of(wanted)}; bring it to that size and colours"
                )
        return pixel_sequences(np.stack(list(rows.content)), self.mean, self.deviation), None


def pixel_sequences(pixels: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(rows, height, width, channels) uint8 -> (rows, height * width, channels) float32.

    Pixels follow row by row. Values go from 0..255 to 0..1, then channel by channel to (value - mean) / std.
    """
    rows, height, width, channels = pixels.shape
    values = torch.from_numpy(pixels).reshape(rows, height * width, channels).to(torch.float32)
    return values.div_(255.0).sub_(torch.tensor(mean)).div_(torch.tensor(std))


def size_of(shape: Sequence[int]) -> str:
    """Height, width and channels in words."""
    return f"{shape[0]} x {shape[1]} pixels in {'grey' if shape[2] == 1 else 'colour'}"
