"""Recurrences as functions: ``reference`` is the readable truth, everything else matches it."""

import importlib.util

import torch

from compressm_cli.ops import mamba_ssm_kernels
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
        ("numba", numba, "selective scan and causal convolution on CPU"),
        (
            "triton",
            cuda and obstacle is None,
            f"selective scan on CUDA, also with an order for each channel{'; ' + obstacle if obstacle else ''}",
        ),
        ("mamba-ssm", *_mamba_ssm()),
        ("chunked", True, "SSD and gated linear attention, any device (plain PyTorch)"),
        ("reference", True, "definition, for tests"),
    ]


def _mamba_ssm() -> tuple[bool, str]:
    reason = mamba_ssm_kernels.obstacle(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    return reason is None, f"selective scan and SSD on CUDA{'; ' + reason if reason else ''}"
