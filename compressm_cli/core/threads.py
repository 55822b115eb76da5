"""How many threads PyTorch takes, beside libraries with threads of their own."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Leave the cores to NumPy: PyTorch's idle threads wait actively and halve the speed of its LAPACK."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
