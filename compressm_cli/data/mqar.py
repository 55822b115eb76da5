"""Multi-query associative recall: keys with values, then the keys again (Arora et al., 2023, "Zoology")."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from compressm_cli.data.generated import PADDING, GeneratedTask, distinct
from compressm_cli.data.interface import IGNORE


class Mqar(GeneratedTask):
    """``data: {task: mqar}``: ``pairs`` keys, each followed by its value; then say the value of each key.

    Every key comes once more, at every second step at most, and only these steps are scored; the rest is
    filled with random tokens. The number of empty places before a query follows a power law. Tokens:
    padding 0, keys the lower half, values the upper half. The procedure is the authors', who use a
    vocabulary of 8192.
    """

    task: Literal["mqar"] = "mqar"
    length: Annotated[int, Field(ge=4, le=1_000_000)] = 128
    """Steps of a sequence; at least four a pair."""
    pairs: Annotated[int, Field(ge=1, le=100_000)] = 8
    """Keys with their values in each sequence."""
    vocabulary: Annotated[int, Field(ge=4, le=65_536)] = 256
    """Distinct tokens with the padding; at least two a pair, and two."""
    power_a: Annotated[float, Field(gt=0.0, le=10.0)] = 0.01
    """Place k = 1, 2, ... after the pairs is queried with a weight of k^(power_a - 1); 1 is uniform."""

    @model_validator(mode="after")
    def _room_for_the_pairs(self) -> "Mqar":
        if self.length < 4 * self.pairs:
            raise ValueError(
                f"{self.pairs} pairs and their queries do not fit in {self.length} steps; write a length of "
                f"at least {4 * self.pairs}, or at most {self.length // 4} pairs"
            )
        if self.vocabulary < 2 * self.pairs + 2:
            raise ValueError(
                f"a vocabulary of {self.vocabulary} has no {self.pairs} different keys; write at least "
                f"{2 * self.pairs + 2}, or at most {self.vocabulary // 2 - 1} pairs"
            )
        return self

    def _shape(self) -> tuple[int, int]:
        return self.length, self.vocabulary

    def _draw(self, random: np.random.RandomState, rows: int) -> tuple[np.ndarray, np.ndarray]:
        half, context = self.vocabulary // 2, 2 * self.pairs
        keys = 1 + distinct(random, rows, self.pairs, half - 1)
        values = half + distinct(random, rows, self.pairs, self.vocabulary - half)
        queries = context + 2 * self._gaps(random, rows)
        inputs = random.randint(PADDING + 1, self.vocabulary, size=(rows, self.length))
        inputs[:, 0:context:2], inputs[:, 1:context:2] = keys, values
        np.put_along_axis(inputs, queries, keys, axis=1)
        labels = np.full_like(inputs, IGNORE)
        np.put_along_axis(labels, queries, values, axis=1)
        return inputs, labels

    def _gaps(self, random: np.random.RandomState, rows: int) -> np.ndarray:
        """(rows, pairs) different numbers of empty places, drawn one after the other by their weights."""
        places = (self.length - 2 * self.pairs) // 2
        weights = np.arange(1.0, places + 1) ** (self.power_a - 1.0)
        # The order in which exponential clocks of these rates ring is that of weighted draws without return.
        rings = random.exponential(size=(rows, places)) / weights
        return rings.argsort(axis=1)[:, : self.pairs]
