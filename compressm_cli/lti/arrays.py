"""Between tensors of any device and the NumPy arrays that LAPACK works on."""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array: TypeAlias = NDArray[Any]


def to_numpy(x: Tensor) -> Array:
    """The tensor's values as a NumPy array on the CPU."""
    return x.detach().resolve_conj().cpu().numpy()


def to_tensor(x: Array, like: Tensor) -> Tensor:
    """The array as a tensor on the device of ``like``; keeps the array's type."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(like.device)
