"""Recurrences as functions: ``reference`` is the readable truth, everything else matches it."""

import importlib.util

import torch

from compressm_cli.ops.scan import diagonal_scan
from compressm_cli.ops.ssm import channelwise_ssm, diagonal_ssm

__all__ = ["available_backends", "channelwise_ssm", "diagonal_scan", "diagonal_ssm"]


def available_backends() -> list[tuple[str, bool, str]]:
    """The implementations of the recurrences: (name, usable on this machine, what it serves)."""
    numba = importlib.util.find_spec("numba") is not None
    cuda = torch.cuda.is_available()
    return [
        ("numba", numba, "diagonal scan on CPU"),
        ("torch-scan", cuda, "diagonal scan on CUDA (log-depth, plain PyTorch)"),
        ("fft", True, "convolution form, any device; chosen where 2 N > inputs x outputs"),
        ("reference", True, "definition, for tests"),
    ]
