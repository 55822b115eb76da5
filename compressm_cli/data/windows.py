"""A long sequence of tokens as three stretches, and each of them as windows with the tokens that follow as labels."""

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from compressm_cli.data.interface import Split

NAMES = ("training", "validation", "test")
Source = tuple[str, np.ndarray]
"""A place, as messages name it, and the tokens (tokens,) that are there."""


@dataclass(frozen=True)
class Stretch:
    """Consecutive tokens, those of one split."""

    name: str
    place: str
    tokens: np.ndarray
    total: int
    """Tokens at the place, of which these are a part, or all."""


def cut(
    whole: Source, validation: tuple[Source | None, float], test: tuple[Source | None, float]
) -> tuple[Stretch, Stretch, Stretch]:
    """The stretches train, validation and test, copying nothing.

    The last two are given with their share: they are of their own source where they have one, else of the whole.
    """
    place, tokens = whole
    shares = [0.0 if own is not None else share for own, share in (validation, test)]
    sizes = stretch_sizes(len(tokens), *shares)
    parts = np.split(tokens, np.cumsum(sizes)[:-1])
    found = [
        Stretch(name, place, part, len(tokens)) if own is None else Stretch(name, own[0], own[1], len(own[1]))
        for name, part, own in zip(NAMES, parts, (None, validation[0], test[0]), strict=True)
    ]
    return found[0], found[1], found[2]


def shortest(stretches: tuple[Stretch, Stretch, Stretch]) -> Stretch:
    """The first of those with the fewest tokens."""
    return min(stretches, key=lambda stretch: len(stretch.tokens))


def stretch_sizes(total: int, validation_share: float, test_share: float) -> tuple[int, int, int]:
    """Tokens of the train, validation and test stretches, in this order in the sequence."""
    validation, test = round(validation_share * total), round(test_share * total)
    return total - validation - test, validation, test


def window_count(size: int, length: int, stride: int) -> int:
    """Windows of ``length`` tokens, each followed by one more, in a stretch of ``size`` tokens."""
    return (size - length - 1) // stride + 1


def windows(stretch: Tensor, length: int, stride: int) -> Split:
    """(tokens,) -> rows of ``length`` tokens, labelled with the token after each of them."""
    views = window_views(stretch, length, stride)
    return Split(views.inputs.contiguous(), views.labels.contiguous())


def window_views(stretch: Tensor, length: int, stride: int) -> Split:
    """The same rows without memory of their own."""
    rows = stretch.unfold(0, length + 1, stride)
    return Split(rows[:, :-1], rows[:, 1:])
