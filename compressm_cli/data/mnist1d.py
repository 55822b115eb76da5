"""MNIST-1D: ten one-dimensional digits, generated with random distortions (Greydanus and Kobak, 2024)."""

from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from compressm_cli.data.encodings import Classes, Encoding, Series, Standardization
from compressm_cli.data.interface import Dataset, DataSpec, Split, TaskConfig
from compressm_cli.data.splits import Rows, Seed

Scale = Annotated[float, Field(ge=0.0, le=10.0)]
Points = Annotated[int, Field(ge=0, le=10_000)]

# Outlines of the digits 0 to 9, twelve heights each, as published.
TEMPLATES = np.array(
    [
        [5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5],
        [5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5],
        [5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5],
        [5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5],
        [5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5],
        [5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5],
        [5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5],
        [5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5],
        [5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5],
    ]
)
NOISE_WIDTH = 2.0
"""Standard deviation, in points, of the Gaussian that correlates the noise around a digit."""


class Mnist1D(TaskConfig):
    """``data: {task: mnist1d}``: sequences of one feature a step, 10 classes in equal numbers.

    The procedure and its defaults are the authors'; the random stream, and so each row, is not.
    """

    task: Literal["mnist1d"] = "mnist1d"
    train_rows: Rows = 16_000
    """Rows of the training split."""
    validation_rows: Rows = 2_000
    """Rows of the validation split."""
    test_rows: Rows = 2_000
    """Rows of the test split."""
    length: Annotated[int, Field(ge=2, le=100_000)] = 40
    """Steps of a sequence, sampled from the distorted signal at equal distances."""
    padding: list[Points] = Field(default=[36, 60], min_length=2, max_length=2)
    """Fewest and most points of silence around the 12 points of a digit."""
    max_translation: Annotated[int, Field(ge=1, le=10_000)] = 48
    """Digits start this many points late, or less."""
    scale_coeff: Scale = 0.4
    """Amplitudes spread over 1 - scale_coeff / 2 to 1 + scale_coeff / 2."""
    shear_scale: Scale = 0.75
    """Slopes added spread over -shear_scale / 2 to shear_scale / 2 a sequence."""
    corr_noise_scale: Scale = 0.25
    """Standard deviation, before smoothing, of the correlated noise in the silence."""
    iid_noise_scale: Scale = 0.02
    """Standard deviation of the white noise on every point."""
    seed: Seed = 42
    """Of all random numbers: which rows are generated, and which split each is in."""

    @model_validator(mode="after")
    def _ordered_padding(self) -> "Mnist1D":
        if self.padding[0] > self.padding[1]:
            raise ValueError(f"padding {self.padding} falls; write the smaller number first")
        return self

    def load(self) -> Dataset:
        """Generate the rows; 20,000 take a fraction of a second."""
        spec = self.spec()
        # RandomState, not Generator: NumPy promises that its stream never changes between versions.
        random = np.random.RandomState(self.seed)
        digits = random.permutation(np.arange(sum(spec.rows)) % len(TEMPLATES))
        signals = _distorted(digits, self, random)
        train = signals[: self.train_rows]
        scale = Standardization(mean=[float(train.mean())], deviation=[float(train.std())])
        inputs = torch.from_numpy(scale.apply(signals[:, :, None])).to(torch.float32)
        labels = torch.from_numpy(digits)
        parts = zip(inputs.split(spec.rows), labels.split(spec.rows), strict=True)
        encoding = Encoding(
            inputs=Series(channels=["signal"], standardization=scale),
            outputs=Classes(names=[str(digit) for digit in range(len(TEMPLATES))]),
        )
        return Dataset(spec, *(Split(x, y) for x, y in parts), encoding=encoding)

    def spec(self) -> DataSpec:
        """Known without generating the rows."""
        rows = (self.train_rows, self.validation_rows, self.test_rows)
        return DataSpec(classes=len(TEMPLATES), length=self.length, features=1, rows=rows)


def _outlines() -> np.ndarray:
    """The templates, each of standard deviation 1/6 and starting at zero, (10, 12)."""
    standard = (TEMPLATES - TEMPLATES.mean(axis=1, keepdims=True)) / TEMPLATES.std(axis=1, keepdims=True)
    return (standard - standard[:, :1]) / 6.0


def _distorted(digits: np.ndarray, task: Mnist1D, random: np.random.RandomState) -> np.ndarray:
    """One distorted signal for each of the digits (rows,): (rows, length) float64."""
    from scipy.ndimage import gaussian_filter1d

    rows, drawn = len(digits), TEMPLATES.shape[1]
    low, high = task.padding
    points = drawn + high

    # Pad with silence, then stretch to a common number of points: the digit's width varies with the padding.
    padded = drawn + random.randint(low, high + 1, size=(rows, 1))
    position = np.arange(points) * (padded - 1) / (points - 1)
    amplitude = 1.0 + task.scale_coeff * (random.random_sample((rows, 1)) - 0.5)
    silent = position >= drawn
    signals = np.where(silent, 0.0, amplitude * _interpolated(_outlines()[digits], position))

    # Move along the sequence, circularly; what leaves at the end is silence unless the digit is very wide.
    start = random.randint(0, task.max_translation, size=(rows, 1))
    source = (np.arange(points) - start) % points
    signals = np.take_along_axis(signals, source, axis=1)
    silent = np.take_along_axis(silent, source, axis=1)

    smooth = gaussian_filter1d(random.standard_normal((rows, points)), NOISE_WIDTH, axis=1)
    signals = np.where(silent, task.corr_noise_scale * smooth, signals)
    signals += task.iid_noise_scale * random.standard_normal((rows, points))
    slope = task.shear_scale * (random.random_sample((rows, 1)) - 0.5)
    signals -= slope * np.linspace(-0.5, 0.5, points)
    return _interpolated(signals, np.linspace(0.0, points - 1, task.length)[None, :])


def _interpolated(signals: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Linear interpolation of each row of (rows, points) at its positions; zero follows the last point."""
    followed_by_zero = np.pad(signals, ((0, 0), (0, 2)))
    left = np.minimum(position.astype(np.int64), signals.shape[1])
    weight = np.minimum(position - left, 1.0)
    left = np.broadcast_to(left, (len(signals), position.shape[1]))
    before = np.take_along_axis(followed_by_zero, left, axis=1)
    after = np.take_along_axis(followed_by_zero, left + 1, axis=1)
    return before + weight * (after - before)
