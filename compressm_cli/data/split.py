"""Rows of one split as tensors, wherever they are, and batches of them."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from math import prod

import torch
from torch import Tensor

from compressm_cli.data.checksum import InParts
from compressm_cli.data.mapped import Pages
from compressm_cli.data.ragged import Ragged

IGNORE = -100
"""Label of a step that is not scored; what cross-entropy leaves out by default."""
UNSIGNED = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
"""Types of tokens in files that little can be done with but on the CPU, and what they become elsewhere."""
MOVED_AT_ONCE = 2**22
"""Values that are padded at once where all of them are."""


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    inputs: (rows, length, features) float32, or (rows, length) tokens padded with 0 at the end, kept in
    any integer type that holds them; or, with ``ragged``, the same rows one after another without padding, (steps of
    all, features) or (steps of all,); or images, (rows, channels, height, width) float32. labels: (rows,) int64, or
    where each step has one (rows, length) of any integer type, ``IGNORE`` where a step is not scored; or real numbers,
    (rows, targets) or (rows, length, targets) float32, NaN where one is not scored. lengths: (rows,) int64 where rows
    differ in length, else None.
    """

    inputs: Tensor
    labels: Tensor
    lengths: Tensor | None = None
    home: torch.device | None = field(default=None, kw_only=True)
    """Where batches of these rows are; None where the rows are."""
    ragged: Ragged | None = field(default=None, kw_only=True)
    """Where each row is in inputs that are not padded; None where they are."""
    pages: Pages | None = field(default=None, kw_only=True)
    """Of inputs in a temporary file."""

    def __len__(self) -> int:
        return self.labels.shape[0]

    @property
    def length(self) -> int:
        """Steps of a row with its padding, or pixels of an image, the same in all splits."""
        if self.is_of_images:
            return prod(self.inputs.shape[2:])
        return self.inputs.shape[1] if self.ragged is None else self.ragged.length

    @property
    def is_of_images(self) -> bool:
        """Whether rows are images, (channels, height, width)."""
        return self.inputs.ndim == 4

    @property
    def padded(self) -> InParts:
        """All inputs, as one tensor of rows, of which some are in memory at a time."""
        shape = tuple(self.inputs.shape)
        if self.ragged is not None:
            shape = len(self), self.length, *shape[1:]
        return InParts(shape, self.inputs, self._parts)

    def _parts(self, size: int) -> Iterator[Tensor]:
        """Inputs of some rows at a time, of so many values with their padding, at least one row."""
        at_once = max(1, size // max(1, prod(self.padded.shape[1:])))
        for start in range(0, len(self), at_once):
            place = slice(start, min(start + at_once, len(self)))
            part = self.inputs[place] if self.ragged is None else self.ragged.part(self.inputs, place)
            yield part
            if self.pages is not None:
                self.pages.read(1, part.nbytes)

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.labels.device if self.home is None else self.home

    @property
    def per_step(self) -> bool:
        """Whether each step has labels."""
        return self.labels.ndim == (3 if self.labels.is_floating_point() else 2)

    @property
    def scored(self) -> Tensor:
        """Which labels count, of the shape of the labels."""
        if self.labels.dtype in UNSIGNED:  # none of these is ``IGNORE``
            return torch.ones((), dtype=torch.bool, device=self.labels.device).expand(self.labels.shape)
        return ~self.labels.isnan() if self.labels.is_floating_point() else self.labels != IGNORE

    def to(self, device: torch.device) -> "Split":
        """The same rows on another device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        if device.type == "cpu" and self.inputs.device.type == "cpu":
            return replace(self, home=None)
        inputs = _moved(self.inputs, device) if self.ragged is None else self._padded_on(device)
        return Split(inputs, _moved(self.labels, device), lengths)

    def _padded_on(self, device: torch.device) -> Tensor:
        whole = torch.empty(self.padded.shape, dtype=_type_on(device, self.inputs.dtype), device=device)
        start = 0
        for part in self._parts(MOVED_AT_ONCE):
            whole[start : start + len(part)] = part
            start += len(part)
        return whole

    def bytes_on(self, device: torch.device) -> int:
        """What ``to`` takes there."""
        inputs = prod(self.padded.shape) * _type_on(device, self.inputs.dtype).itemsize
        others = [t for t in (self.labels, self.lengths) if t is not None]
        return inputs + sum(t.numel() * _type_on(device, t.dtype).itemsize for t in others)

    def kept_for(self, device: torch.device) -> "Split":
        """The same rows, of which batches alone are moved; beside them only what is small: labels of rows, lengths."""
        labels = self.labels if self.per_step else _moved(self.labels, device)
        lengths = None if self.lengths is None else self.lengths.to(device)
        return replace(self, labels=labels, lengths=lengths, home=device)

    def rows(self, index: Tensor) -> "Split":
        """Some rows, as a batch on ``device``: tokens and classes in int64, cut after the longest row of the batch."""
        lengths = None if self.lengths is None else self._batch(self.lengths, index)
        longest = self.length if lengths is None else int(lengths.max())
        if self.is_of_images:
            inputs = in_order(self._batch(self.inputs, index))
        elif self.ragged is None:
            inputs = self._batch(self.inputs[:, :longest], index)
        else:
            inputs = self._sent(self.ragged.rows(self.inputs, index))
        if self.pages is not None:
            self.pages.read(len(index), inputs.nbytes)
        labels = self._batch(self.labels[:, :longest] if self.per_step else self.labels, index)
        return Split(
            inputs if inputs.is_floating_point() else inputs.to(torch.int64),
            labels if labels.is_floating_point() else labels.to(torch.int64),
            lengths,
        )

    def _batch(self, values: Tensor, index: Tensor) -> Tensor:
        """Some rows of what is in each of them, on ``device``."""
        return self._sent(values[index.to(values.device)])

    def _sent(self, batch: Tensor) -> Tensor:
        """A batch where it is wanted."""
        if self.home is None or self.home.type == batch.device.type:
            return batch
        ready = batch.to(_type_on(self.home, batch.dtype))
        # From memory that stays where it is, a copy need not be waited for.
        return (ready.pin_memory() if self.home.type == "cuda" else ready).to(self.home, non_blocking=True)


def in_order(images: Tensor) -> Tensor:
    """Images (rows, channels, height, width) that lie so in memory, and say so in all their strides.

    By these kernels are chosen, which round differently; with one channel, or one row, ``contiguous`` leaves others.
    """
    return images.clone(memory_format=torch.contiguous_format)


def _moved(values: Tensor, device: torch.device) -> Tensor:
    return values.to(_type_on(device, values.dtype)).to(device)


def _type_on(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    return dtype if device.type == "cpu" else UNSIGNED.get(dtype, dtype)


def spread(rows: int, most: int) -> Tensor:
    """The numbers of at most so many rows, from all over them: their beginning may be of one kind. int64."""
    count = min(rows, most)
    return torch.arange(count) * rows // max(count, 1)
