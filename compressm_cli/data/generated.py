"""Token sequences that are drawn at random, with a label for each step that is scored."""

from abc import abstractmethod

import numpy as np
import torch

from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.splits import Rows, Seed

PADDING = 0
ROWS_AT_ONCE = 1024
STEPS_AT_ONCE = 2**22
"""Bounds of what is drawn in one piece, so that working memory does not grow with the data set."""


class DrawnTask(TaskConfig):
    """The base of the tasks whose rows are drawn at random, each split with a random stream of its own."""

    train_rows: Rows = 50_000
    """Rows of the training split."""
    validation_rows: Rows = 1_000
    """Rows of the validation split."""
    test_rows: Rows = 2_000
    """Rows of the test split."""
    split_seed: Seed = 0
    """Which sequences are generated; each split has a random stream of its own."""

    @abstractmethod
    def _split(self, place: int, rows: int) -> Split:
        """So many rows of the split at this place, 0 that of training."""

    def load(self) -> Dataset:
        """Generate the rows."""
        spec = self.spec()
        return Dataset(spec, *(self._split(place, rows) for place, rows in enumerate(spec.rows)))

    def _rows(self) -> tuple[int, int, int]:
        return self.train_rows, self.validation_rows, self.test_rows

    def _random(self, place: int) -> np.random.RandomState:
        # RandomState, not Generator: NumPy promises that its stream never changes between versions.
        return np.random.RandomState([self.split_seed, place])


class GeneratedTask(DrawnTask):
    """The base of those with tokens, all rows of one length, and a label for each step."""

    @abstractmethod
    def _shape(self) -> tuple[int, int]:
        """Steps of a sequence, and number of distinct tokens with the padding."""

    @abstractmethod
    def _draw(self, random: np.random.RandomState, rows: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and labels of some rows, (rows, length) each; IGNORE where a step is not scored."""

    def spec(self) -> DataSpec:
        """Known without generating the rows. Labels are tokens, so there are as many classes."""
        length, vocabulary = self._shape()
        return DataSpec(
            classes=vocabulary, length=length, vocabulary=vocabulary, rows=self._rows(), per_step=True
        )

    def _split(self, place: int, rows: int) -> Split:
        random = self._random(place)
        length, vocabulary = self._shape()
        # Signed, since IGNORE is negative.
        kind = next(k for k in (np.int8, np.int16, np.int32) if vocabulary - 1 <= np.iinfo(k).max)
        inputs, labels = np.empty((rows, length), kind), np.empty((rows, length), kind)
        piece = max(1, min(ROWS_AT_ONCE, STEPS_AT_ONCE // length))
        for start in range(0, rows, piece):
            part = slice(start, min(start + piece, rows))
            inputs[part], labels[part] = self._draw(random, part.stop - part.start)
        return Split(torch.from_numpy(inputs), torch.from_numpy(labels))


def distinct(random: np.random.RandomState, rows: int, count: int, below: int) -> np.ndarray:
    """(rows, count) int64 from 0 to below - 1, uniform, in random order, all different within a row."""
    # The head of a Fisher-Yates shuffle, of all rows at once.
    shuffled = np.tile(np.arange(below), (rows, 1))
    row = np.arange(rows)
    for place in range(count):
        chosen = random.randint(place, below, size=rows)
        taken = shuffled[row, chosen]
        shuffled[row, chosen] = shuffled[:, place]
        shuffled[:, place] = taken
    return shuffled[:, :count]
