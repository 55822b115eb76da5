"""Delay: say again what came some steps ago (Jaeger, 2001, "Short term memory in echo state networks")."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.data.generated import DrawnTask
from compressm_cli.data.interface import DataSpec, Split
from compressm_cli.data.splits import Rows

WHITE = 0.5
"""Cycles a step: every frequency that there is."""


class Delay(DrawnTask):
    """``data: {task: delay}``: at each step the number that came ``delay`` steps before.

    Inputs are Gaussian noise of variance 1 with no frequency above ``cutoff``. A linear system of n real states recalls
    no more than n past values of white noise, each by its share (Jaeger's memory capacity), so that the state which a
    delay needs is known: ``delay`` numbers of white noise, and about ``2 * cutoff * delay`` below a cutoff. The first
    ``delay`` steps are not scored.
    """

    task: Literal["delay"] = "delay"
    own_objective: ClassVar[str] = "forecasting"
    length: Annotated[int, Field(ge=2, le=1_000_000)] = 128
    """Steps of a sequence."""
    delay: Annotated[int, Field(ge=1, le=999_999)] = 32
    """How many steps ago it came."""
    cutoff: Annotated[float, Field(gt=0.0, le=WHITE)] = WHITE
    """The highest frequency of the noise, in cycles a step; 0.5 is white noise."""
    train_rows: Rows = 10_000
    """Rows of the training split."""
    validation_rows: Rows = 500
    """Rows of the validation split."""
    test_rows: Rows = 1_000
    """Rows of the test split."""

    @model_validator(mode="after")
    def _something_scored(self) -> "Delay":
        if self.delay >= self.length:
            raise ValueError(
                f"nothing came {self.delay} steps before any of {self.length} steps; write a length above "
                f"{self.delay}, or a smaller delay"
            )
        if self.cutoff < 1 / self.length:
            raise ValueError(
                f"no frequency of {self.length} steps but zero is within a cutoff of {self.cutoff:g}; write "
                f"{1 / self.length:.3g} or more"
            )
        return self

    def spec(self) -> DataSpec:
        """Known without generating the rows."""
        return DataSpec(
            classes=0, targets=1, length=self.length, features=1, rows=self._rows(), per_step=True
        )

    def _split(self, place: int, rows: int) -> Split:
        random = self._random(place)
        inputs = np.empty((rows, self.length, 1), np.float32)
        for row in range(rows):  # one by one, so that fewer rows are the first of more
            inputs[row, :, 0] = self._noise(random)
        labels = np.full_like(inputs, np.nan)
        labels[:, self.delay :] = inputs[:, : -self.delay]
        return Split(torch.from_numpy(inputs), torch.from_numpy(labels))

    def _noise(self, random: np.random.RandomState) -> np.ndarray:
        """(length,), of variance 1 over all rows."""
        white = random.standard_normal(self.length)
        if self.cutoff == WHITE:
            return white
        waves = np.fft.rfft(white)
        kept = np.fft.rfftfreq(self.length) <= self.cutoff
        # Each frequency but zero and the highest stands for two of the length real numbers.
        share = np.where((np.arange(len(waves)) == 0) | (2 * np.arange(len(waves)) == self.length), 1, 2)
        scale = np.sqrt(self.length / share[kept].sum())
        return np.fft.irfft(np.where(kept, waves * scale, 0.0), self.length)
