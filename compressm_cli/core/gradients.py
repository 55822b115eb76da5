"""Gradients that are summed up over parts of the rows."""

import torch
from torch import Tensor


class GradientSum:
    """The gradient of a weight or a bias, over the parts, in the parameter's own type."""

    def __init__(self, like: Tensor, *shape: int) -> None:
        """On the device of ``like`` and in its type, at zero."""
        self.value = like.new_zeros(shape)

    def product(self, d: Tensor, x: Tensor) -> None:
        """Add ``d^T x``; d (rows, outputs), x (rows, inputs)."""
        if d.dtype == self.value.dtype:
            self.value.addmm_(d.mT, x)
        else:
            self.value += d.mT @ x

    def rows(self, d: Tensor) -> None:
        """Add the sum of the rows of d."""
        self.value += d.sum(0)


def is_autocast(device: torch.device) -> bool:
    """Whether autocast is on for a device; never for one that it does not know, such as ``meta``."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def low_type(x: Tensor) -> torch.dtype:
    """The type of matrix products with x: that of autocast where it is on."""
    return torch.get_autocast_dtype(x.device.type) if is_autocast(x.device) else x.dtype
