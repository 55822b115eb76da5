"""Recurrences as functions: ``reference`` is the readable truth, everything else matches it."""

import importlib.util

import torch

from compressm_cli.ops.causal_conv import causal_conv1d
from compressm_cli.ops.gated_linear import gated_linear_attention, gla_state_moments
from compressm_cli.ops.scan import diagonal_scan, triton_obstacle
from compressm_cli.ops.selective import selective_scan, selective_scan_gated
from compressm_cli.ops.ssd import ssd, ssd_state_moments
from compressm_cli.ops.ssm import channelwise_ssm, diagonal_ssm

__all__ = [
    "available_backends",
    "causal_conv1d",
    "channelwise_ssm",
    "diagonal_scan",
    "diagonal_ssm",
    "gated_linear_attention",
    "gla_state_moments",
    "selective_scan",
    "selective_scan_gated",
    "ssd",
    "ssd_state_moments",
]


def available_backends() -> list[tuple[str, bool, str]]:
    """The implementations of the recurrences: (name, usable on this machine, what it serves)."""
    numba = importlib.util.find_spec("numba") is not None
    cuda = torch.cuda.is_available()
    obstacle = triton_obstacle()
    return [
        ("numba", numba, "recurrent form on CPU"),
        ("triton", cuda and obstacle is None, f"recurrent form on CUDA{'; ' + obstacle if obstacle else ''}"),
        ("torch-scan", cuda, "recurrent form on CUDA without triton (log-depth, plain PyTorch)"),
        ("fft", True, "convolution form, any device"),
        ("reference", True, "definition, for tests"),
    ]
