"""The HiPPO-LegS matrix (Gu et al. 2020), of whose normal part diagonal state space models start."""

import torch
from torch import Tensor


def hippo_normal(order: int) -> tuple[Tensor, Tensor]:
    """Poles and eigenvectors of HiPPO-N, the normal part of the HiPPO-LegS matrix of the given size.

    HiPPO-LegS is A_nk = -sqrt((2n+1)(2k+1)) below the diagonal, -(n+1) on it, 0 above. Adding p p^T with
    p_n = sqrt(n + 1/2) leaves -1/2 on the diagonal and a skew-symmetric rest (Gupta et al. 2022; Smith et al.
    2023), so the eigenvectors are unitary. Returns poles (order,) and V (order, order), complex128, sorted by
    imaginary part; they come in conjugate pairs.
    """
    root = torch.sqrt(2 * torch.arange(order, dtype=torch.float64) + 1)
    half = torch.tril(torch.outer(root, root), diagonal=-1) / 2
    skew = half.T - half
    # -i S is Hermitian, S v = i w v.
    frequencies, vectors = torch.linalg.eigh(torch.complex(torch.zeros_like(skew), -skew))
    return torch.complex(torch.full_like(frequencies, -0.5), frequencies), vectors
