"""A run that is resumed finds its kernels in the cache; the one that began it may have compiled them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

DIGESTS = """
import hashlib
import torch
from compressm_cli.ops import causal_conv1d, diagonal_scan, selective_scan_gated
torch.set_num_threads(1)
torch.manual_seed(0)
x, dt, z = torch.randn(3, 4, 64, 16)
B, C = torch.randn(2, 4, 64, 8)
A, D, bias, weight = -torch.rand(16, 8), torch.randn(16), torch.randn(16), torch.randn(16, 4)
poles = torch.rand(2, 8) / 2
for work, inputs in (
    (lambda x, w, b: causal_conv1d(x, w, b, "silu"), (x, weight, bias)),
    (selective_scan_gated, (x, dt - 3, bias, A, B, C, D, z)),
    (diagonal_scan, (x, *poles)),
):
    leaves = [t.clone().requires_grad_() for t in inputs]
    y = work(*leaves)
    results = [y, *torch.autograd.grad(y.square().sum(), leaves)]
    print(*(hashlib.md5(t.detach().contiguous().numpy().tobytes()).hexdigest() for t in results))
"""


@pytest.mark.slow
def test_kernels_of_the_cache_give_the_bits_of_those_just_compiled(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    found = []
    for _ in range(2):
        command = [sys.executable, "-c", DIGESTS]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(done.stdout.splitlines())
        assert list(tmp_path.rglob("*.nbc"))
    assert len(found[0]) == 3
    assert found[0] == found[1]
