"""A long sequence of tokens as three stretches, and each of them as windows with the tokens that follow as labels."""

from torch import Tensor

from compressm_cli.data.interface import Split

NAMES = ("training", "validation", "test")


def stretch_sizes(total: int, validation_share: float, test_share: float) -> tuple[int, int, int]:
    """Tokens of the train, validation and test stretches, in this order in the sequence."""
    validation, test = round(validation_share * total), round(test_share * total)
    return total - validation - test, validation, test


def window_count(size: int, length: int, stride: int) -> int:
    """Windows of ``length`` tokens, each followed by one more, in a stretch of ``size`` tokens."""
    return (size - length - 1) // stride + 1


def windows(stretch: Tensor, length: int, stride: int) -> Split:
    """(tokens,) -> rows of ``length`` tokens, labelled with the token after each of them."""
    rows = stretch.unfold(0, length + 1, stride)
    return Split(rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
