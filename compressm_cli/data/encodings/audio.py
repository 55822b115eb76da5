"""Recordings as the sequences of their samples, or of what a short stretch of them sounds like."""

from collections.abc import Iterator
from dataclasses import replace
from math import gcd
from typing import Annotated, Literal, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from compressm_cli.core.errors import BadInputError
from compressm_cli.data.encodings.cepstrum import COEFFICIENTS, cepstrum, stretch_count
from compressm_cli.data.encodings.interface import Inputs
from compressm_cli.data.encodings.standardization import Standardization
from compressm_cli.data.recordings import Clip, Recordings
from compressm_cli.data.rows import Kind, Rows

Rate = Annotated[int, Field(ge=100, le=1_000_000)]
Seconds = Annotated[float, Field(gt=0.0, le=1e6)]
Features = Literal["raw", "mfcc"]


class Audio(Inputs):
    """A recording is the sequence of its samples, or of 13 cepstral coefficients every 10 ms, standardized."""

    kind: Literal["audio"] = "audio"
    sampling_rate: Rate
    """Samples a second that recordings are brought to."""
    represented: Features = "raw"
    chunk_seconds: Seconds | None = None
    """Longer recordings are cut into pieces of so many seconds, each a row."""
    max_seconds: Seconds | None = None
    """What follows is left out."""
    standardization: Standardization | None = None
    """Of the features, over all steps of the training rows; None takes them as they are."""

    @model_validator(mode="after")
    def _one_scale_a_feature(self) -> Self:
        scales = self.standardization
        if scales is not None and len(scales.mean) != self.features:
            raise ValueError(f"standardization of {len(scales.mean)} for {self.features} features")
        return self

    @property
    def takes(self) -> Kind:
        return "audio"

    @property
    def features(self) -> int:
        return 1 if self.represented == "raw" else COEFFICIENTS

    def fitted(self, rows: Rows) -> "Audio":
        """The same, standardized by these rows, in double precision."""
        own = self.model_copy(update={"standardization": None})
        return own.model_copy(update={"standardization": Standardization.over(own.exact(own.pieces(rows)))})

    def pieces(self, rows: Rows) -> Rows:
        """``file#1``, ``file#2``, ... of what is longer than ``chunk_seconds``, with the label of the whole."""
        self.require_kind(rows)
        content = _recordings(rows)
        if self.chunk_seconds is None:
            return rows
        found = list(content.pieces(self.chunk_seconds))
        counts = np.bincount([row for row, _, _ in found], minlength=len(rows))
        whose = [row for row, _, _ in found]
        names = [
            f"{rows.name(row)}#{number}" if counts[row] > 1 else rows.name(row) for row, number, _ in found
        ]
        return replace(
            rows,
            content=Recordings([clip for _, _, clip in found], [content.places[row] for row in whose]),
            names=names,
            labels=None if rows.labels is None else [rows.labels[row] for row in whose],
            targets=None if rows.targets is None else rows.targets[whose],
        )

    def exact(self, rows: Rows) -> Iterator[np.ndarray]:
        """Of each row (steps, features) float64, standardized where that is known."""
        self.require_kind(rows)
        for clip, place in zip(self._read(rows), _recordings(rows).places, strict=True):
            samples = resampled(clip.samples(place), clip.rate, self.sampling_rate)
            values = samples[:, None] if self.represented == "raw" else cepstrum(samples, self.sampling_rate)
            yield values if self.standardization is None else self.standardization.apply(values)

    def steps(self, rows: Rows) -> np.ndarray:
        samples = [resampled_count(clip.frames, clip.rate, self.sampling_rate) for clip in self._read(rows)]
        raw = self.represented == "raw"
        return np.array(samples if raw else [stretch_count(count, self.sampling_rate) for count in samples])

    def _read(self, rows: Rows) -> Iterator[Clip]:
        """What is read of each recording."""
        for clip in _recordings(rows).clips:
            if self.max_seconds is None:
                yield clip
            else:
                yield clip.part(0, max(1, round(self.max_seconds * clip.rate)))

    def encode(self, rows: Rows) -> tuple[Tensor, Tensor | None]:
        singles = [values.astype(np.float32) for values in self.exact(rows)]
        for row, values in enumerate(singles):
            if not np.isfinite(values).all():
                raise BadInputError(
                    f"{rows.source}, recording {rows.name(row)}: is not finite in single precision; leave it out"
                )
        lengths = np.array([len(values) for values in singles], dtype=np.int64)
        inputs = np.zeros((len(singles), int(lengths.max()), self.features), dtype=np.float32)
        for row, values in enumerate(singles):
            inputs[row, : len(values)] = values
        uneven = bool((lengths != lengths[0]).any())
        return torch.from_numpy(inputs), torch.from_numpy(lengths) if uneven else None


def resampled(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """(samples,) at one rate -> at another, float64, without what lies above half of the lower one."""
    if rate == wanted:
        return samples
    from scipy.signal import resample_poly

    shared = gcd(rate, wanted)
    return resample_poly(samples, wanted // shared, rate // shared)


def resampled_count(samples: int, rate: int, wanted: int) -> int:
    """How many ``resampled`` makes of so many."""
    shared = gcd(rate, wanted)
    return -(-samples * (wanted // shared) // (rate // shared))


def _recordings(rows: Rows) -> Recordings:
    assert isinstance(rows.content, Recordings), "audio is recordings"
    return rows.content
