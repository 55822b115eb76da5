"""What a task gives to the training loop: tensors, decoded once, and a description of them."""

import errno
from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from compressm_cli.config import Config
from compressm_cli.errors import BadInputError

IGNORE = -100
"""Label of a step that is not scored; what cross-entropy leaves out by default."""


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of a data set to be built, and a user to judge its size."""

    classes: int
    length: int
    """Longest sequence, in steps."""
    features: int | None = None
    """Real features a step; None where steps are tokens."""
    vocabulary: int | None = None
    """Number of distinct tokens; None where steps are real vectors. Token 0 is the padding."""
    rows: tuple[int, int, int] = (0, 0, 0)
    """Rows of the train, validation and test splits."""
    per_step: bool = False
    """Whether each step has a label of its own, else a sequence has one."""


@dataclass(frozen=True)
class Split:
    """Rows of one split.

    inputs: (rows, length, features) float32, or (rows, length) tokens padded with 0 at the end, kept in
    any integer type that holds them. labels: (rows,) int64, or where each step has one (rows, length) of
    any integer type, ``IGNORE`` where a step is not scored. lengths: (rows,) int64 where rows differ in
    length, else None.
    """

    inputs: Tensor
    labels: Tensor
    lengths: Tensor | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def to(self, device: torch.device) -> "Split":
        """The same rows on another device."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Split(self.inputs.to(device), self.labels.to(device), lengths)

    def rows(self, index: Tensor) -> "Split":
        """Some rows, as a batch: tokens and labels in int64, cut after the longest row of the batch."""
        lengths = None if self.lengths is None else self.lengths[index]
        longest = self.inputs.shape[1] if lengths is None else int(lengths.max())
        inputs = self.inputs[index, :longest]
        if not inputs.is_floating_point():
            inputs = inputs.to(torch.int64)
        labels = self.labels[index] if self.labels.ndim == 1 else self.labels[index, :longest]
        return Split(inputs, labels.to(torch.int64), lengths)


@dataclass(frozen=True)
class Dataset:
    """Three splits, fixed by the task's own ``split_seed``, whatever the seed of the run."""

    spec: DataSpec
    train: Split
    validation: Split
    test: Split


class TaskConfig(Config):
    """A task of a recipe (``data:``); each task is one subclass in one file, named in ``data.TASKS``."""

    task: str

    @abstractmethod
    def load(self) -> Dataset:
        """Decode the data to tensors on the CPU.

        Raises BadInputError, with how to supply the data, where it is not at hand.
        """

    def unjudged(self) -> str | None:
        """Why a loss or an accuracy on these data says nothing of a model, and what would; None where they do."""
        return None

    def dataset(self) -> Dataset:
        """What ``load`` gives, where it can be trained and evaluated on.

        Raises BadInputError for a split without rows, one of whose labels none is scored, and, in training, for a row
        without a scored label: a batch of such rows has no loss.
        """
        try:
            loaded = self.load()
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise
            place = error.filename or f"data: task '{self.task}'"
            raise BadInputError(
                f"{place}: cannot be read: {error.strerror or error}; mend that, or give other data"
            ) from error
        for name in ("train", "validation", "test"):
            split: Split = getattr(loaded, name)
            if len(split) == 0:
                raise BadInputError(f"data: the {name} split of task '{self.task}' has no rows")
            scored = (split.labels != IGNORE).reshape(len(split), -1).any(1)
            if not bool(scored.any()):
                raise BadInputError(
                    f"data: of the {name} split of task '{self.task}' no label is scored: all are {IGNORE}, "
                    "which is left out; label a step of each row with its class"
                )
            if name == "train" and not bool(scored.all()):
                row = int(scored.int().argmin()) + 1
                raise BadInputError(
                    f"data: of row {row} of the train split of task '{self.task}' no label is scored: all are "
                    f"{IGNORE}, which is left out; label a step of it with its class, or leave out the row"
                )
        return loaded

    def spec(self) -> DataSpec:
        """The description of the data set; loads it unless the task knows better."""
        return self.dataset().spec
