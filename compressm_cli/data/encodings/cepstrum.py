"""Mel-frequency cepstral coefficients: what a short stretch of sound sounds like, in few numbers."""

from functools import cache

import numpy as np

COEFFICIENTS = 13
FILTERS = 40
WINDOW, HOP = 0.025, 0.010
"""Seconds of a stretch, and from one to the next."""
FLOOR = 1e-10
"""Energies below it count as it: silence has a logarithm too."""
FEWEST_BINS = 512
"""Length of the transforms, at least: the lowest filters are narrow."""


def cepstrum(samples: np.ndarray, rate: int) -> np.ndarray:
    """(samples,) float64 -> (stretches, 13) float64.

    Stretches of 25 ms every 10 ms, the last one filled up with zeros; each times a Hann window, its power spectrum
    through 40 triangular filters at equal distances in mel from 0 to half the sampling rate, the logarithm of their
    energies, and the first 13 coefficients of its orthonormal cosine transform (DCT-II).
    """
    from scipy.fft import dct, rfft

    window, filters = _tables(rate)
    stretches = _stretches(samples, len(window), _hop(rate), stretch_count(len(samples), rate))
    power = np.abs(rfft(stretches * window, n=2 * (filters.shape[1] - 1), axis=1)) ** 2
    energies = np.log(np.maximum(power @ filters.T, FLOOR))
    return dct(energies, type=2, norm="ortho", axis=1)[:, :COEFFICIENTS]


def stretch_count(samples: int, rate: int) -> int:
    """As many as it takes to reach the last of so many samples."""
    return 1 + max(0, -(-(samples - _size(rate)) // _hop(rate)))


def _size(rate: int) -> int:
    return max(2, round(WINDOW * rate))


def _hop(rate: int) -> int:
    return max(1, round(HOP * rate))


def _stretches(samples: np.ndarray, size: int, hop: int, count: int) -> np.ndarray:
    """(count, size)."""
    filled = np.zeros((count - 1) * hop + size)
    filled[: len(samples)] = samples
    return np.lib.stride_tricks.sliding_window_view(filled, size)[::hop]


@cache
def _tables(rate: int) -> tuple[np.ndarray, np.ndarray]:
    """The window (size,), and the filters (filters, bins), of which each is 1 at its own frequency."""
    from scipy.signal import get_window

    window = get_window("hann", _size(rate))
    length = max(FEWEST_BINS, 1 << (len(window) - 1).bit_length())
    edges = _hertz(np.linspace(0.0, _mel(rate / 2), FILTERS + 2))
    bins = np.fft.rfftfreq(length, 1 / rate)
    low, own, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    filters = np.minimum((bins - low) / (own - low), (high - bins) / (high - own)).clip(min=0.0)
    return window, filters


def _mel(hertz: float) -> float:
    return 2595.0 * np.log10(1.0 + hertz / 700.0)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700.0 * (10.0 ** (mel / 2595.0) - 1.0)
