"""Between tensors of any device and the NumPy arrays that LAPACK works on."""

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController
from torch import Tensor

Array: TypeAlias = NDArray[Any]


def to_numpy(x: Tensor) -> Array:
    """The tensor's values as a NumPy array on the CPU."""
    return x.detach().resolve_conj().cpu().numpy()


def to_tensor(x: Array, like: Tensor) -> Tensor:
    """The array as a tensor on the device of ``like``; keeps the array's type."""
    return torch.from_numpy(np.ascontiguousarray(x)).to(like.device)


def adjoint_times(left: Array, right: Array) -> Array:
    """``left^H right``; a real ``X^T X`` is formed in one half of the operations, as NumPy sees that it is one."""
    return (left.conj() if np.iscomplexobj(left) else left).T @ right


def one_blas_thread() -> AbstractContextManager[object]:
    """NumPy's LAPACK with one thread: at some hundred states more gain nothing and slow its small steps down."""
    return _libraries().limit(limits=1, user_api="blas")


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()
