"""Recurrences in float32 at least, also of a layer whose parameters are all in bfloat16 or float16."""

import torch
from torch import Tensor

NARROW = (torch.bfloat16, torch.float16)


def wide(x: Tensor) -> Tensor:
    """In float32 at least, whatever autocast made of it."""
    return x.float() if x.dtype in NARROW else x


def wide_beside(parameter: Tensor, x: Tensor) -> Tensor:
    """x in float32 at least where the parameter itself is narrower; under autocast it stays what that made of it."""
    return wide(x) if parameter.dtype in NARROW else x


def narrow_as(parameter: Tensor, x: Tensor) -> Tensor:
    """x in the type of the parameter where that is narrower than float32; else it stays as it is."""
    return x.to(parameter.dtype) if parameter.dtype in NARROW else x
