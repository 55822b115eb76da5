"""What is changed of training images at random: a function of seed, step and row, the same wherever it is computed."""

import hashlib
from typing import Annotated, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from compressm_cli.core.config import Config
from compressm_cli.core.splitmix import GAMMA, mixed, shifted
from compressm_cli.data.interface import TaskConfig
from compressm_cli.data.split import in_order

DRAWN = 2**31
"""How many values a random number has: so few that ranges of pixels divide them all but equally."""


class Augmentation(Config):
    """Training images are changed at random, anew in each step; never those that a model is judged by."""

    crop: Annotated[int, Field(ge=0, le=1000)] = 0
    """Zeros, the mean colour of published sets and middle grey of files, are laid around an image so many pixels wide,
    and a part of its size is cut out anywhere (He et al. 2016: 4 for 32 x 32 pixels)."""
    flip: bool = False
    """Half of the images are mirrored, left to right."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.crop and not self.flip:
            raise ValueError("nothing is changed; write crop: 4, flip: true or both, or leave augment out")
        return self

    def __call__(self, images: Tensor, rows: Tensor, seed: int, step: int) -> Tensor:
        """images (batch, channels, height, width), of the split's ``rows`` (batch,) int64 -> the same shape."""
        left, top, mirrored = drawn(rows.to(images.device), seed, step, 3).unbind()
        high, wide = images.shape[2:]
        down, across = (torch.arange(n, device=images.device) for n in (high, wide))
        if self.flip:
            across = torch.where((mirrored % 2 == 1)[:, None], wide - 1 - across, across)
        else:
            across = across.expand(len(images), wide)
        down = down + (top % (2 * self.crop + 1))[:, None]
        across = across + (left % (2 * self.crop + 1))[:, None]
        padded = functional.pad(images, [self.crop] * 4)
        of_row = torch.arange(len(images), device=images.device)[:, None, None]
        # Indexed so, channels come last.
        chosen = padded.permute(0, 2, 3, 1)[of_row, down[:, :, None], across[:, None, :]]
        return in_order(chosen.permute(0, 3, 1, 2))


def drawn(rows: Tensor, seed: int, step: int, count: int) -> Tensor:
    """``count`` random numbers from 0 to ``DRAWN`` - 1 for each of the ``rows`` (batch,) int64 -> (count, batch).

    SplitMix64 from a start of its own for each seed, step and row, in integers, so that every device draws the same.
    """
    digest = hashlib.blake2b(repr((seed, "augment", step)).encode(), digest_size=8).digest()
    start = int.from_bytes(digest, "big", signed=True)
    # What does not fit into 64 bits is dropped, as the generator wants it.
    states = mixed(rows * GAMMA + start)
    numbers = torch.arange(1, count + 1, device=rows.device)[:, None] * GAMMA + states
    return shifted(mixed(numbers), 33)


class ImageTaskConfig(TaskConfig):
    """What the tasks share whose rows may be images."""

    as_images: bool = False
    """Give images, (channels, height, width), to models that read such (``model.kind`` resnet or vit), instead of
    the sequences of their pixels."""
    augment: Augmentation | None = None
    """With ``as_images``: what is changed of the training images at random; nothing by default."""

    @model_validator(mode="after")
    def _augments_images(self) -> Self:
        if self.augment is not None and not self.as_images:
            raise ValueError("augment is for images; write as_images: true, or leave it out")
        return self

    def augmentation(self) -> Augmentation | None:
        return self.augment
