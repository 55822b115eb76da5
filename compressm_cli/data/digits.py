"""Handwritten digits of 8 x 8 pixels, embedded in the package; see ``digits.LICENSE.md``."""

from importlib.resources import files
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field

from compressm_cli.data.augmentation import ImageTaskConfig
from compressm_cli.data.encodings import Classes, Encoding, Pixels, Series, Standardization
from compressm_cli.data.interface import Dataset, DataSpec, Split
from compressm_cli.data.splits import Seed, hold_out

SIDE = 8
ROWS = (1077, 360, 360)
LARGEST_PIXEL = 16.0
MEAN_PIXEL = 4.884
"""Over the whole set. A constant, so that the scaling does not depend on the split."""


class Digits(ImageTaskConfig):
    """``data: {task: digits}``: optical recognition of handwritten digits (Alpaydin and Kaynak, 1998).

    1,797 images of 10 classes, read row by row as a sequence of one feature a step, or as images of one channel:
    (pixel - 4.884) / 16, of mean zero and range one.
    """

    task: Literal["digits"] = "digits"
    upsample: Annotated[int, Field(ge=1, le=32)] = 1
    """Enlarge each pixel to a square of this side: sequences of 64 * upsample^2 steps from the same rows."""
    split_seed: Seed = 0
    """Which rows are train (1,077), validation (360) and test (360)."""

    def load(self) -> Dataset:
        """Read the embedded rows."""
        with (files("compressm_cli.data") / "digits.npz").open("rb") as file, np.load(file) as stored:
            images, digits = torch.from_numpy(stored["images"]), torch.from_numpy(stored["labels"])
        labels = digits.to(torch.int64)
        for side in (1, 2):
            images = images.repeat_interleave(self.upsample, dim=side)
        inputs = ((images.to(torch.float32) - MEAN_PIXEL) / LARGEST_PIXEL)[:, None]
        if not self.as_images:
            inputs = inputs.reshape(len(labels), -1, 1)
        validation, test, train = hold_out(labels, [ROWS[1], ROWS[2]], self.split_seed)
        splits = (Split(inputs[i], labels[i]) for i in (train, validation, test))
        return Dataset(self.spec(), *splits, encoding=self._encoding())

    def spec(self) -> DataSpec:
        """Known without reading the rows."""
        side = SIDE * self.upsample
        image = (1, side, side) if self.as_images else None
        return DataSpec(classes=10, length=side**2, features=1, rows=ROWS, image=image)

    def _encoding(self) -> Encoding:
        """Of series of pixels from 0 to 16, or of images, whose pixels are from 0 to 255 as everywhere."""
        inputs: Series | Pixels
        if self.as_images:
            side, mean = SIDE * self.upsample, MEAN_PIXEL / LARGEST_PIXEL
            inputs = Pixels(
                height=side, width=side, mean=[mean], deviation=[1.0], any_colours=True, as_images=True
            )
        else:
            scale = Standardization(mean=[MEAN_PIXEL], deviation=[LARGEST_PIXEL])
            inputs = Series(channels=["pixel"], standardization=scale)
        return Encoding(inputs=inputs, outputs=Classes(names=[str(digit) for digit in range(10)]))
