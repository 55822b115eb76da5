"""Whether memory is what was missing, whoever asked for it."""

import errno

NO_MEMORY = (
    *("can't allocate memory", "Cannot allocate memory", "not enough memory", "out of memory"),
    *("bad allocation", "bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED"),
    "failed to map segment from shared object",
)
"""What messages of PyTorch, and of the system that loads a library, contain when memory is what is missing."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory, of the machine or of a GPU, is what was missing; knows the errors of torch without it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError | ImportError) and any(sign in str(error) for sign in NO_MEMORY)
