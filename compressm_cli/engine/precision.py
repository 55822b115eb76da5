"""Device and arithmetic of a run, as its recipe asks."""

import ctypes
import os
import platform
import shutil
import sys
from contextlib import AbstractContextManager

import torch

from compressm_cli.core.errors import BadInputError


def resolve_device(wanted: str) -> torch.device:
    """``auto`` is CUDA where there is a usable device; BadInputError for CUDA where there is none."""
    if wanted == "cuda" and not torch.cuda.is_available():
        built = "this PyTorch is a CPU build" if torch.version.cuda is None else "no CUDA device was found"
        raise BadInputError(f"device: cuda: {built}; write device: cpu or device: auto")
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(wanted)


def require_compiler(device: torch.device) -> None:
    """BadInputError where torch.compile would find no C++ compiler, which it needs on a CPU."""
    compiler = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
    if device.type == "cpu" and shutil.which(compiler) is None:
        raise BadInputError(
            f"train.compile: torch.compile needs a C++ compiler, and '{compiler}' was not found; "
            f"install one, name it in the environment variable CXX, or write compile: false"
        )


def prepare(device: torch.device, precision: str) -> None:
    """Process-wide settings of a training run."""
    # A decayed recurrence ends in denormal numbers, which are slow and mean nothing.
    torch.set_flush_denormal(True)
    if device.type == "cpu":
        _keep_freed_memory()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")


def _keep_freed_memory() -> None:
    """Let glibc keep what one step frees for the next one, rather than give it back to the system.

    Fresh pages cost more than the arithmetic on them: a third of a step of a small model. No other allocator has or
    needs this.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_max = -1, -4  # <malloc.h>
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_max, 0)
    libc.mallopt(m_trim_threshold, 2**31 - 1)


def bfloat16_is_slow(device: torch.device) -> bool:
    """Whether the device multiplies matrices in bfloat16 without instructions for it, far slower than in fp32."""
    return device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()


def autocast(device: torch.device, precision: str) -> AbstractContextManager[None]:
    """The context of a forward pass."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
