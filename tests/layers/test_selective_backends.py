"""mamba-ssm's kernels behind the layers: chosen, refused, and called with the layout that they have."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from compressm_cli.core.errors import BadInputError
from compressm_cli.engine.experiment import check_recipe
from compressm_cli.layers import selective
from compressm_cli.layers.mamba import Mamba, MambaConfig
from compressm_cli.layers.mamba2 import Mamba2, Mamba2Config
from compressm_cli.ops import mamba_ssm_kernels, reference, ssd
from compressm_cli.recipe import recipe_from_mapping

CPU = torch.device("cpu")


def their_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, *, z: Tensor, delta_bias: Tensor,
    delta_softplus: bool,
) -> Tensor:  # fmt: skip
    """mamba-ssm's documented meaning: (batch, channels, length), B and C (batch, N, length)."""
    assert delta_softplus
    dt = functional.softplus(delta + delta_bias[:, None])
    given = (t.transpose(1, 2) for t in (u, dt))
    y = reference.selective_scan(*given, A, B.transpose(1, 2), C.transpose(1, 2), D)
    return y.transpose(1, 2) * functional.silu(z)


def their_ssd(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, chunk_size: int, *, D: Tensor
) -> Tensor:
    return ssd(x, dt, A, B, C, D, chunk=chunk_size)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if mamba-ssm were there and the CPU a CUDA device."""
    names = ["mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface", "mamba_ssm.ops.triton"]
    for name in [*names, "mamba_ssm.ops.triton.ssd_combined"]:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    sys.modules["mamba_ssm.ops.selective_scan_interface"].selective_scan_fn = their_scan  # type: ignore[attr-defined]
    sys.modules["mamba_ssm.ops.triton.ssd_combined"].mamba_chunk_scan_combined = their_ssd  # type: ignore[attr-defined]
    monkeypatch.setattr(mamba_ssm_kernels, "obstacle", lambda device: None)


def layers(backend: str) -> list[Any]:
    torch.manual_seed(0)
    mamba = Mamba(MambaConfig(state_dim=5, backend=backend), 8, 5)
    return [mamba, Mamba2(Mamba2Config(state_dim=5, head_dim=4, backend=backend), 8, 5)]


def test_their_kernels_compute_the_same(installed: None) -> None:
    u = torch.randn(2, 9, 8)
    for own, theirs in zip(layers("own"), layers("auto"), strict=True):
        assert "mamba-ssm" in theirs.backend(CPU)
        assert "mamba-ssm" not in own.backend(CPU)
        torch.testing.assert_close(theirs(u), own(u), rtol=1e-5, atol=1e-6)


def test_orders_of_channels_and_large_states_stay_with_our_kernel(installed: None) -> None:
    (mamba, _) = layers("auto")
    mamba.kept = torch.full((16,), 3)
    assert mamba.backend(CPU) == "selective scan"
    large = Mamba(MambaConfig(state_dim=257), 2, 257)
    assert large.backend(CPU) == "selective scan"


def test_without_it_auto_is_our_own() -> None:
    for layer in layers("auto"):
        assert "mamba-ssm" not in layer.backend(CPU)


def test_what_is_not_there_cannot_be_forced() -> None:
    mapping = {
        "name": "x",
        "device": "cpu",
        "data": {"task": "digits"},
        "model": {"layer": {"kind": "mamba", "backend": "mamba_ssm"}, "model_dim": 8},
        "train": {"steps": 1},
        "compression": {"method": "none"},
    }
    with pytest.raises(
        BadInputError, match=r"model\.layer\.backend is mamba_ssm, but mamba-ssm's kernels need a CUDA"
    ):
        check_recipe(recipe_from_mapping(mapping, "test"))


def test_a_missing_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mamba_ssm_kernels.importlib.util, "find_spec", lambda name: None)
    told = mamba_ssm_kernels.obstacle(SimpleNamespace(type="cuda"))  # type: ignore[arg-type]
    assert told is not None
    assert "pip install" in told
    assert selective.mamba_ssm_kernels is mamba_ssm_kernels
