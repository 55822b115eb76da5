"""SplitMix64 on tensors (Steele et al. 2014): random numbers as a function of integers, the same on every device."""

from torch import Tensor

# As the signed integers that PyTorch has.
GAMMA = 0x9E3779B97F4A7C15 - 2**64
"""2^64 divided by the golden ratio, odd: what states are apart from one another."""
MIXERS = (30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64)


def mixed(x: Tensor) -> Tensor:
    """A state as a random number, both int64 and seen as 64 bits; products are modulo 2^64."""
    for shift, factor in MIXERS:
        x = (x ^ shifted(x, shift)) * factor
    return x ^ shifted(x, 31)


def shifted(x: Tensor, bits: int) -> Tensor:
    """int64 to the right, with zeros from the left: as a number without a sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
