"""mamba-ssm's CUDA kernels behind the signatures of ours, where that library is installed (extra ``mamba``)."""

import importlib.util

import torch
from torch import Tensor

LARGEST_STATE = 256
"""Of its selective scan."""


def obstacle(device: torch.device) -> str | None:
    """Why its kernels cannot be used on a device, or None. Does not import it."""
    if device.type != "cuda":
        return f"mamba-ssm's kernels need a CUDA device, not {device.type}"
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed; write: pip install 'compressm[mamba]'"
    return None


def selective_scan_gated(
    x: Tensor, dt_raw: Tensor, dt_bias: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor
) -> Tensor:
    """``ops.selective_scan_gated`` without ``kept``; states in float32, N up to ``LARGEST_STATE``."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    x, dt, B, C, z = (t.transpose(1, 2).contiguous() for t in (x, dt_raw, B, C, z))
    y = selective_scan_fn(
        x, dt, A.float(), B, C, D.float(), z=z, delta_bias=dt_bias.float(), delta_softplus=True
    )
    return y.transpose(1, 2)


def ssd(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, chunk: int = 256) -> Tensor:
    """``ops.ssd``; its Triton kernels pad N to a power of two of at least 16."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    return mamba_chunk_scan_combined(x, dt.to(x.dtype), A.float(), B, C, chunk, D=D.float())
